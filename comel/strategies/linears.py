"""The linear layers of a trunk that take adapters, and the second moments of their inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from comel.models.base import MILModel

__all__ = ["adapted_linears", "input_grams"]


def input_grams(model: MILModel, layers: dict[str, nn.Linear], bags: Iterable[Any]) -> dict[str, Tensor]:
    """Second moment X^T X (in, in) of each layer's inputs over bags, float64, each bag with equal weight.

    A layer that is called several times for a bag (instances, then group tokens) counts as often, each call with equal weight;
    the slices in which a block runs its MLP, which are flat, are one call.
    """
    grams = {name: torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64) for name, layer in layers.items()}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            rows = instances if inputs[0].dim() == 2 else len(x)
            grams[name] += (x.T @ x / max(1, rows)).double().cpu()

        return hook

    instances = 0
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for bag, _ in bags:
                instances = bag.features.shape[:2].numel()
                model.trunk(bag.features, bag.coords, bag.mask)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return grams


def adapted_linears(model: MILModel) -> dict[str, nn.Linear]:
    """The trunk's linear layers that take adapters, by their plain names; wrapped ones by their wrapper."""
    found = {}
    for name, module in model.trunk.named_modules():
        wanted = any(f".{name}".endswith(f".{target}") for target in model.adapter_targets)
        if wanted and hasattr(module, "in_features"):
            found[name] = module
    return found
