"""Task recognition without old data: which task is a bag from, by stored statistics of mean bag features.

Heads trained one after another on their own bags say nothing about each other: on a bag of an old task the newest head is as
sure as ever. What tells the tasks apart is stored instead as sums: per class the number and the sum of the mean bag feature
of its training bags, and over all classes one second moment. From these a linear discriminant with a shared, shrunken
covariance gives log p(task | bag), and

    log p(class | bag) = log p(task | bag) + log p(class | bag, task).

The encoder is frozen, so the statistics of old bags stay true whatever the network learns later. Bytes kept: 8 (D^2 + 2 C D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TaskRecognition", "shrunken_covariance"]

_NEVER = -1e30


class TaskRecognition(nn.Module):
    """A Gaussian discriminant over classes with a shared covariance, from running sums.

    Args:
        dimension: D, length of a feature vector.
    """

    counts: Tensor
    sums: Tensor
    second: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(0, dtype=torch.float64))  # (C,)
        self.register_buffer("sums", torch.zeros(0, dimension, dtype=torch.float64))  # (C, D)
        self.register_buffer("second", torch.zeros(dimension, dimension, dtype=torch.float64))  # (D, D)
        self.register_buffer("weight", torch.zeros(0, dimension, dtype=torch.float64))  # (C, D)
        self.register_buffer("bias", torch.zeros(0, dtype=torch.float64))  # (C,)

    def add_classes(self, number: int) -> None:
        """Append ``number`` classes that nothing is known of yet."""
        for name in ("counts", "sums", "weight", "bias"):
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(number, *old.shape[1:])]))
        if self.counts.any():
            self.bias[self.counts == 0] = _NEVER

    def observe(self, features: Tensor, column: int) -> None:
        """Add one bag: features (M, D) and the column of its class. :meth:`fit` makes it count."""
        mean = features.double().mean(dim=0)
        self.counts[column] += 1
        self.sums[column] += mean
        self.second += torch.outer(mean, mean)

    def fit(self) -> None:
        """Renew the discriminant's weights (C, D) and biases (C,) from the sums."""
        seen = self.counts > 0
        if not seen.any():
            return
        means = self.sums[seen] / self.counts[seen].unsqueeze(1)
        within = self.second - (means.T * self.counts[seen]) @ means
        covariance = shrunken_covariance(within, self.counts.sum().item() - int(seen.sum()))
        # A constant shift of all means changes no probability, but keeps large scores from cancelling.
        centre = means.mean(dim=0)
        weight = torch.linalg.solve(covariance, (means - centre).T).T
        self.weight.zero_()
        self.bias.fill_(_NEVER)
        self.weight[seen] = weight
        self.bias[seen] = -0.5 * (weight * (means + centre)).sum(dim=1)

    def log_task(self, features: Tensor, mask: Tensor | None, columns: list[slice]) -> Tensor:
        """Log-probability of each task, (B, T).

        Args:
            features: (B, M, D).
            mask: (B, M) True where there is an instance, or None.
            columns: the columns of each task's classes.
        """
        if mask is None:
            mean = features.mean(dim=1, dtype=torch.float64)
        else:
            real = features.masked_fill(~mask.unsqueeze(-1), 0)
            mean = real.sum(dim=1, dtype=torch.float64) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        # float64: it is a small difference of large numbers
        scores = mean @ self.weight.double().T + self.bias.double()  # (B, C)
        log_task = torch.log_softmax(torch.stack([scores[:, c].logsumexp(dim=1) for c in columns], dim=1), dim=1)
        return log_task.to(features.dtype)


def shrunken_covariance(scatter: Tensor, degrees: float) -> Tensor:
    """A covariance (D, D) from a within-class scatter of few samples, shrunk towards its own diagonal.

    The amount is the oracle approximating shrinkage of Chen et al. (2010, IEEE TSP 58:10, eq. 23), computed on the
    correlation scale so that features of other units do not dominate. Without any degree of freedom it is the identity.
    """
    dimension = len(scatter)
    if degrees < 1:
        return torch.eye(dimension, dtype=scatter.dtype, device=scatter.device)
    covariance = scatter / degrees
    variance = torch.diagonal(covariance).clamp_min(0)
    variance = variance + 1e-6 * variance.mean() + torch.finfo(scatter.dtype).eps
    scale = variance.sqrt()
    correlation = covariance / torch.outer(scale, scale)
    squared = (correlation**2).sum()
    trace2 = torch.trace(correlation) ** 2
    ratio = (1 - 2 / dimension) * squared + trace2
    rho = (ratio / ((degrees + 1 - 2 / dimension) * (squared - trace2 / dimension).clamp_min(1e-12))).clamp(0.01, 1)
    shrunken = (1 - rho) * correlation + rho * torch.eye(dimension, dtype=scatter.dtype, device=scatter.device)
    return shrunken * torch.outer(scale, scale)
