"""A-GEM, averaged gradient episodic memory: a step must not increase the loss on stored bags.

With g the gradient of the new bag and r that of stored ones, if g . r < 0 the step goes along

    g - (g . r / r . r) r,

which is orthogonal to r. Chaudhry et al. (2019, ICLR, eq. 11).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.models.base import MILModel
from comel.strategies.rehearsal import Rehearsal, RehearsalOptions

__all__ = ["AGEM", "AGEMOptions", "project"]


class AGEMOptions(RehearsalOptions):
    """Settings of the strategy."""

    sample: int = Field(1, ge=1, description="number of stored bags averaged for the reference gradient")


class AGEM(Rehearsal):
    """See the module. Only the gradient is projected; Adam's moments and weight decay may still turn the step slightly."""

    Options = AGEMOptions
    options: AGEMOptions

    def after_backward(self, model: MILModel) -> None:
        """Project the gradient, from the second task on."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        reference = self.reference(model, parameters)
        if reference is not None:
            project(parameters, reference)

    def reference(self, model: MILModel, parameters: Sequence[nn.Parameter]) -> list[Tensor] | None:
        """The mean gradient of stored bags' whole loss; None without stored bags."""
        sums: list[Tensor] | None = None
        for _, output, label in self.replay(model, self.options.sample):
            loss = torch.stack(list(model.loss(output, label).values())).sum()
            parts = torch.autograd.grad(loss, parameters, allow_unused=True)
            sums = sums or [torch.zeros_like(p) for p in parameters]
            for total, part in zip(sums, parts, strict=True):
                if part is not None:
                    total += part / min(self.options.sample, len(self.memory.bags))
        return sums


def project(parameters: Sequence[nn.Parameter], reference: Sequence[Tensor]) -> bool:
    """Remove the component of the parameters' gradients against ``reference``; returns whether there was one.

    Products are sums in float64: over millions of weights a float32 sum would miss an orthogonality of 1e-6. A parameter
    without a gradient has the gradient 0.
    """
    pairs = list(zip(parameters, reference, strict=True))
    parts = [(p.grad.double() * r.double()).sum() for p, r in pairs if p.grad is not None]
    product = float(torch.stack(parts).sum()) if parts else 0.0
    if not product < 0:
        return False
    factor = product / float(torch.stack([(r.double() ** 2).sum() for r in reference]).sum())
    for p, r in pairs:
        p.grad = -factor * r if p.grad is None else p.grad - factor * r
    return True
