"""Task recognition without old data: which task is a bag from, by stored statistics of mean bag features.

Heads trained one after another on their own bags say nothing about each other: on a bag of an old task the newest head is as
sure as ever. What tells the tasks apart is stored instead as sums: per class the number and the sum of the mean bag feature
of its training bags, and over all classes one second moment. From these a linear discriminant with a shared, shrunken
covariance gives log p(task | bag), and

    log p(class | bag) = log p(task | bag) + log p(class | bag, task).

The encoder is frozen, so the statistics of old bags stay true whatever the network learns later. Bytes kept: 8 (D^2 + 2 C
D). The same statistics tell how far a bag lies from every class (:mod:`comel.scoring.novelty`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TaskRecognition", "shrunken_covariance"]

_NEVER = -1e30
_LARGEST_MEAN = 1e12


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
        self._factor: Tensor | None = None

    def add_classes(self, number: int) -> None:
        """Append ``number`` classes that nothing is known of yet."""
        for name in ("counts", "sums", "weight", "bias"):
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(number, *old.shape[1:])]))
        known = self.counts > 0
        # Without a branch, so that a model can be made where no number is known (torch's meta device).
        self.bias = torch.where(known.any() & ~known, _NEVER, self.bias)

    def observe(self, features: Tensor, column: int) -> None:
        """Add one bag: features (M, D) and the column of its class. :meth:`fit` makes it count."""
        mean = features.double().mean(dim=0)
        self.counts[column] += 1
        self.sums[column] += mean
        self.second += torch.outer(mean, mean)

    def fit(self) -> None:
        """Renew the discriminant's weights (C, D) and biases (C,) from the sums."""
        self._factor = None
        seen = self.counts > 0
        if not seen.any():
            return
        means = self._means(seen)
        covariance = self._covariance(seen)
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
        # float64: it is a small difference of large numbers
        scores = _mean(features, mask) @ self.weight.double().T + self.bias.double()  # (B, C)
        log_task = torch.log_softmax(torch.stack([scores[:, c].logsumexp(dim=1) for c in columns], dim=1), dim=1)
        return log_task.to(features.dtype)

    def distance(self, features: Tensor, mask: Tensor | None, columns: slice) -> Tensor | None:
        """How far each bag lies from the nearest class, (B,), in standard deviations per feature.

        The Mahalanobis distance of the mean bag feature to a class's mean under the shared covariance, over the root of D.

        Args:
            features: (B, M, D).
            mask: (B, M) True where there is an instance, or None.
            columns: the classes to measure to.

        Returns:
            None where nothing is known of any of these classes.
        """
        seen = self.counts > 0
        asked = torch.zeros_like(seen)
        asked[columns] = True
        if not (seen & asked).any():
            return None
        if self._factor is None:
            self._factor = torch.linalg.cholesky(self._covariance(seen))
        apart = _mean(features, mask).unsqueeze(1) - self._means(seen & asked)  # (B, C, D)
        white = torch.linalg.solve_triangular(self._factor, apart.flatten(0, 1).T, upper=False)
        distance: Tensor | None = white.square().mean(dim=0).reshape(apart.shape[:2]).amin(dim=1).sqrt()
        return distance

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Take the statistics, and refuse those that are no sums of bags (RuntimeError)."""
        self._factor = None
        super()._load_from_state_dict(*arguments)
        if self.counts.is_meta or not (seen := self.counts > 0).any():
            return
        if not bool((self.counts[seen] >= 1).all()) or not bool((self._means(seen).abs() < _LARGEST_MEAN).all()):
            raise RuntimeError("the statistics of bags are sums of none")
        torch.linalg.cholesky(self._covariance(seen))

    def _means(self, classes: Tensor) -> Tensor:
        return self.sums[classes] / self.counts[classes].unsqueeze(1)

    def _covariance(self, seen: Tensor) -> Tensor:
        means = self._means(seen)
        within = self.second - (means.T * self.counts[seen]) @ means
        # A feature that is the same in all bags of a class leaves what rounding left of two large sums, which looks like a
        # correlation and may be negative: it has no variance.
        rounding = 4 * torch.finfo(within.dtype).eps * self.counts.sum() * torch.diagonal(self.second)
        flat = torch.diagonal(within) <= rounding
        within = within.masked_fill(flat | flat.unsqueeze(1), 0)
        return shrunken_covariance(within, self.counts.sum().item() - int(seen.sum()))


def _mean(features: Tensor, mask: Tensor | None) -> Tensor:
    """The mean bag feature, (B, D) float64."""
    if mask is None:
        return features.mean(dim=1, dtype=torch.float64)
    real = features.masked_fill(~mask.unsqueeze(-1), 0)
    return real.sum(dim=1, dtype=torch.float64) / mask.sum(dim=1, keepdim=True).clamp_min(1)


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
