"""Numbers of the published systems, from ``../shared/seeds``, and the bags that every mixer is tried on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Mixer
from tests.places import ROOT

__all__ = ["Seed", "bag_coords", "grid_coords", "instances", "mixed", "set_weight"]

SEEDS = ROOT.parent / "shared" / "seeds"


class Seed:
    """A fixture by its name: arrays as float64 tensors; skips the test where the file is not there."""

    def __init__(self, name: str) -> None:
        path = SEEDS / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"the numbers {name}.npz are not in ../shared/seeds")
        with np.load(path, allow_pickle=False) as stored:
            self.arrays = {key: stored[key] for key in stored.files}

    def __getitem__(self, key: str) -> Tensor:
        array = self.arrays[key]
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.double() if array.dtype.kind == "f" else tensor

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def names(self, prefix: str = "w/") -> list[str]:
        """Names of the weights, without the prefix."""
        return [key.removeprefix(prefix) for key in self.arrays if key.startswith(prefix)]

    def load(self, module: nn.Module, names: dict[str, str], prefix: str = "w/") -> None:
        """Copy stored weights into a module: its parameter or buffer -> the stored name; every parameter must be named."""
        state = {own: self[prefix + stored] for own, stored in names.items()}
        missing, unexpected = module.double().load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert not [name for name in missing if name in dict(module.named_parameters())], missing


def set_weight(parameter: Tensor, value: Tensor) -> None:
    """Put a value into a parameter of the same shape."""
    assert parameter.shape == value.shape, (parameter.shape, value.shape)
    with torch.no_grad():
        parameter.copy_(value)


def instances(count: int, dim: int, seed: int = 0) -> Tensor:
    """(count, dim) float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim)))


def grid_coords(height: int, width: int, side: int = 256) -> Tensor:
    """Corners (x, y) of a full grid, row by row, (height * width, 2) in pixels."""
    row, column = np.divmod(np.arange(height * width), width)
    return torch.from_numpy(np.stack([column, row], axis=1) * side)


def bag_coords(count: int, seed: int = 0, side: int = 256) -> Tensor:
    """Corners of ``count`` different tiles with holes between them, in no order, (count, 2) in pixels.

    Two tiles are next to each other, so that the tile's side can be seen.
    """
    edge = max(2, int(np.ceil(np.sqrt(1.6 * count))))
    generator = np.random.default_rng(seed)
    cells = generator.permutation(edge * edge)[:count]
    cells = np.stack([cells % edge, cells // edge], axis=1)
    if count > 1:
        first = cells[0]
        beside = first + np.array([1 if first[0] + 1 < edge else -1, 0])
        if not (cells == beside).all(axis=1).any():
            cells[1] = beside
    return torch.from_numpy(cells * side)


def mixed(mixer: Any, x: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """The mixer's answer for one bag (M, dim) or for a batch (B, M, dim)."""
    assert isinstance(mixer, Mixer)
    if x.dim() == 2:
        coords = None if coords is None else coords.unsqueeze(0)
        out: Tensor = mixer(x.unsqueeze(0), Layout.of(x.unsqueeze(0), coords))[0]
        return out
    batch: Tensor = mixer(x, Layout.of(x, coords, mask))
    return batch
