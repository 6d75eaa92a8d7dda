"""Concepts: what kinds of tissue a task's tiles show, found without a label, and how much of each a tile shows.

A bag's label says little about single tiles, but hundreds of bags hold a great many tiles, and what occurs in them again and
again can be found without any label. Two views of it, both linear maps of the normalised features u = LN(x):

``clusters``
    K kinds that exclude each other: a mixture of normal distributions with one covariance, in the leading directions of u.
    Its posterior is p = softmax(W u + b).
``components``
    K directions along which u is as far from normal as can be, which may be present together: independent component analysis
    (Hyvärinen and Oja 2000, Neural Networks 13). With s = (W u + b) in robust standard deviations, both ends are a concept:
    p = sigmoid(3 (s - 2)) and sigmoid(3 (-s - 2)).
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConceptKind", "Concepts", "linear_of", "normalised"]

ConceptKind = Literal["clusters", "components"]

_CLUSTER_DIRECTIONS = 10
_STEEPNESS = 3.0
_TAIL = 2.0
_ABSENT = -30.0
"""Logit of a concept that could not be found."""
_TILES_EACH = 5
"""Fewest tiles for each concept that is looked for."""
_LEAST_SPREAD = 1e-6
_ROWS_AT_ONCE = 16_384


def normalised(features: Tensor) -> Tensor:
    """``LN(x)`` without parameters, (..., D) -> (..., D)."""
    return F.layer_norm(features, features.shape[-1:])


def linear_of(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``W LN(x) + b``, (M, D) -> (M, rows of W), in slices, so that no second copy of a large bag is made."""
    parts = [F.linear(normalised(rows), weight, bias) for rows in features.split(_ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else features.new_zeros(0, len(bias))


class Concepts(nn.Module):
    """``number`` concepts of one kind; before :meth:`fit` none is ever present.

    Args:
        dimension: D.
        kind: see the module.
        number: K; components give 2 K concepts.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, dimension: int, kind: ConceptKind, number: int) -> None:
        super().__init__()
        self.kind, self.number = kind, number
        rows = number if kind == "clusters" else 2 * number
        self.register_buffer("weight", torch.zeros(rows, dimension))  # (J, D)
        self.register_buffer("bias", torch.full((rows,), _ABSENT))  # (J,)

    def __len__(self) -> int:
        return len(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features (M, D) -> how much a tile shows of each concept, (M, J) in [0, 1]."""
        return self.present(linear_of(features, self.weight, self.bias))

    def present(self, logits: Tensor) -> Tensor:
        """What :meth:`forward` gives, from ``W u + b`` (M, J)."""
        if self.kind == "components":
            return torch.sigmoid(logits)
        return torch.softmax(logits, dim=-1) * (self.bias > _ABSENT)

    def fit(self, tiles: np.ndarray) -> None:
        """Find the concepts in normalised tiles (n, D) of any bags; fewer of them where there are too few tiles."""
        tiles = np.asarray(tiles, dtype=np.float64)
        mean, axes, spread = _leading(tiles, _CLUSTER_DIRECTIONS if self.kind == "clusters" else self.number)
        number = min(self.number, len(tiles) // _TILES_EACH)
        self.weight.zero_()
        self.bias.fill_(_ABSENT)
        if number < 2 or not len(axes):
            return
        found = (tiles - mean) @ axes.T  # (n, directions)
        weight, bias = _clusters(found, number) if self.kind == "clusters" else _components(found / spread, number)
        if self.kind == "components":
            weight = weight / spread
        weight = weight @ axes  # (rows, D)
        bias = bias - weight @ mean
        self.weight[: len(weight)] = torch.from_numpy(weight).to(self.weight)
        self.bias[: len(bias)] = torch.from_numpy(bias).to(self.bias)


def _leading(tiles: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,), up to ``most`` leading directions (k, D) along which the tiles differ at all, and their spreads (k,)."""
    mean = tiles.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(tiles - mean, rowvar=False, bias=True).reshape(tiles.shape[1], -1))
    order = np.argsort(values)[::-1][:most]
    spread = np.sqrt(np.maximum(values[order], 0))
    order, spread = order[spread > _LEAST_SPREAD], spread[spread > _LEAST_SPREAD]
    axes = vectors[:, order].T
    # An axis has two ends; which is which must not depend on the machine.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return mean, axes * signs[:, None], spread


def _clusters(found: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixture's posterior as a linear map: log p_k + const = W z + b."""
    from sklearn.mixture import GaussianMixture

    scale = float(found.std())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged, or that tiles are alike
        mixture = GaussianMixture(number, covariance_type="tied", n_init=1, max_iter=100, random_state=0, reg_covar=1e-4)
        mixture.fit(found / scale)
    weight = mixture.means_ @ np.linalg.inv(mixture.covariances_)  # (K, directions)
    bias = np.log(np.maximum(mixture.weights_, 1e-12)) - 0.5 * (weight * mixture.means_).sum(axis=1)
    return weight / scale, bias


def _components(white: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Both tails of each independent component of white data: logits steep * (+-s - tail) = W z + b."""
    from sklearn.decomposition import FastICA

    number = min(number, white.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ica = FastICA(number, whiten=False, random_state=0, max_iter=300, tol=1e-3)
        ica.fit(white[:, :number])
    weight = np.zeros((number, white.shape[1]))
    weight[:, :number] = ica.components_
    sources = white @ weight.T  # (n, number)
    middle = np.median(sources, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(sources - middle), axis=0), _LEAST_SPREAD)
    weight, middle = weight / spread[:, None], middle / spread
    return (
        _STEEPNESS * np.concatenate([weight, -weight]),
        _STEEPNESS * np.concatenate([-middle - _TAIL, middle - _TAIL]),
    )
