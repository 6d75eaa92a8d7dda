"""What every mixer must keep to, tried on small bags in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from comel.app.benchmark.mixers.tissue import draw_tissue
from comel.errors import BagError
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Mixer, Width

__all__ = ["CHECKS", "check_mixer"]

_DIM, _HEADS, _COUNT = 32, 4, 90
_SAME, _SINGLE = 1e-9, 1e-4


def check_mixer(name: str, options: dict[str, Any] | None = None, seed: int = 0) -> dict[str, bool]:
    """Whether a mixer with random weights passes each of :data:`CHECKS`, by name."""
    torch.manual_seed(seed)
    mixer = make_mixer(name, Width(_DIM, _HEADS, mlp_ratio=2.0), options).double().eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        return {title: bool(check(mixer)) for title, check in CHECKS.items()}


def _bag(count: int = _COUNT, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, _DIM, dtype=torch.float64, generator=generator), torch.from_numpy(draw_tissue(count, seed))


def _run(mixer: Mixer, x: Tensor, coords: Tensor | None) -> Tensor:
    out: Tensor = mixer(x[None], Layout.of(x[None], None if coords is None else coords[None]))[0]
    return out


def _same(one: Tensor, other: Tensor, within: float = _SAME) -> bool:
    return bool((one - other).abs().max() <= within * max(1.0, float(other.abs().max())))


def _shape(mixer: Mixer) -> bool:
    x, coords = _bag()
    out = _run(mixer, x, coords)
    return out.shape == x.shape and bool(torch.isfinite(out).all())


def _batched(mixer: Mixer, filling: float) -> bool:
    """Bags of several sizes in one batch, with ``filling`` in the padding, equal the bags alone."""
    sizes = (1, 2, 3, 40, _COUNT)
    x = torch.full((len(sizes), _COUNT, _DIM), filling, dtype=torch.float64)
    coords = torch.zeros(len(sizes), _COUNT, 2, dtype=torch.int64)
    mask = torch.zeros(len(sizes), _COUNT, dtype=torch.bool)
    for b, size in enumerate(sizes):
        (x[b, :size], coords[b, :size]), mask[b, :size] = _bag(size, b), True
    out = mixer(x, Layout.of(x, coords, mask))
    return all(_same(out[b, :size], _run(mixer, *_bag(size, b))) for b, size in enumerate(sizes))


def _shuffled(mixer: Mixer) -> bool:
    x, coords = _bag()
    order = torch.randperm(_COUNT, generator=torch.Generator().manual_seed(1))
    same = _same(_run(mixer, x[order], coords[order]), _run(mixer, x, coords)[order])
    return same or mixer.card.ordered


def _moved(mixer: Mixer) -> bool:
    x, coords = _bag()
    return _same(_run(mixer, x, coords + 256 * 5), _run(mixer, x, coords))


def _hole(mixer: Mixer) -> bool:
    """A tile that is masked out and a tile that is not there."""
    x, coords = _bag()
    kept = torch.arange(_COUNT) % 7 != 0
    masked = mixer(x[None], Layout.of(x[None], coords[None], kept[None]))[0, kept]
    return _same(masked, _run(mixer, x[kept], coords[kept]))


def _small(mixer: Mixer) -> bool:
    return all(bool(torch.isfinite(_run(mixer, *_bag(size))).all()) for size in (1, 2, 3))


def _without_coords(mixer: Mixer) -> bool:
    try:
        return bool(torch.isfinite(_run(mixer, _bag()[0], None)).all()) and mixer.card.coords != "needed"
    except BagError:
        return mixer.card.coords == "needed"


def _single(mixer: Mixer) -> bool:
    x, coords = _bag()
    expected = _run(mixer, x, coords)
    try:
        return _same(_run(mixer.float(), x.float(), coords).double(), expected, _SINGLE)
    finally:
        mixer.double()


CHECKS: dict[str, Callable[[Mixer], bool]] = {
    "shape": _shape,
    "batch": lambda mixer: _batched(mixer, 0.0),
    "padding": lambda mixer: _batched(mixer, torch.nan),
    "shuffle": _shuffled,
    "shift": _moved,
    "holes": _hole,
    "M = 1, 2, 3": _small,
    "no coords": _without_coords,
    "float32": _single,
}
"""By title: the output's shape; a batch equals its bags; NaN in the padding; tiles in another order (passed too by a mixer
whose card says that it reads the list); a slide moved as a whole; a masked tile and one that is not there; tiny bags; bags
without coordinates, which are taken or refused as the card says; single against double precision."""
