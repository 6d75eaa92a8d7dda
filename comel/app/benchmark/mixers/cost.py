"""What a block costs in time and memory by its mixer, from small bags to large ones, on drawn tissue.

A block is measured whole, with its feed-forward part: some mixers are blocks of their own, and have one or several in them.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from comel.app.benchmark.mixers.tissue import draw_tissue
from comel.errors import ComelError
from comel.nn.block import make_block
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width

__all__ = ["Cost", "crossing", "efficiency_length", "growth", "measure_costs"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """One measurement.

    Attributes:
        tiles: M.
        layout: seconds to lay the bag out, which is done once a bag for all blocks.
        forward: seconds without a gradient, the layout known; the median of the repeats.
        backward: seconds of forward and backward; None where that was not measured.
        peak_bytes: memory beyond the input at the highest point of the forward pass, layout included; None where the
            system does not say.
    """

    tiles: int
    layout: float
    forward: float
    backward: float | None
    peak_bytes: int | None


def measure_costs(
    name: str,
    lengths: Sequence[int],
    *,
    width: Width,
    options: Mapping[str, Any] | None = None,
    limit: float = 20.0,
    backward_up_to: int = 1 << 14,
    repeats: int = 3,
    device: torch.device | str = "cpu",
    done: Callable[[Cost], None] = lambda cost: None,
) -> tuple[list[Cost], str | None]:
    """Measure one mixer at several lengths, smallest first.

    Args:
        name: of the mixer.
        lengths: tiles of the bags.
        width: of the block.
        options: of the mixer.
        limit: seconds; a length whose forward pass is foreseen to take longer is left out, and all beyond it.
        backward_up_to: largest length at which forward and backward are measured.
        repeats: of each; a pass of more than a second is not repeated.
        device: where.
        done: called with each measurement.

    Returns:
        the measurements, and why there is none beyond the last, or None if all were made.
    """
    torch.manual_seed(0)
    block = make_block(make_mixer(name, width, options)).to(device).eval()
    costs: list[Cost] = []
    for length in lengths:
        expected = _foreseen(costs, length)
        if expected is not None and expected > limit:
            return costs, f"a pass over {length:,} tiles would take about {expected:.0f} s"
        try:
            cost = _measure(block, width.dim, length, length <= backward_up_to, repeats, torch.device(device))
        except (ComelError, MemoryError) as error:
            return costs, str(error) or "out of memory"
        costs.append(cost)
        done(cost)
    return costs, None


def growth(costs: Sequence[Cost], what: str = "forward", above: int = 1 << 14) -> float | None:
    """Slope of log time over log M by least squares, over the lengths from ``above`` on; None with fewer than two."""
    found = [(cost.tiles, value) for cost in costs if cost.tiles >= above and (value := asdict(cost)[what])]
    if len(found) < 2:
        return None
    tiles, values = np.log([f[0] for f in found]), np.log([f[1] for f in found])
    return float(np.polyfit(tiles, values, 1)[0])


def crossing(costs: Sequence[Cost], against: Sequence[Cost]) -> float | str | None:
    """Tiles from which a mixer is faster than another, by interpolation of the measured curves in logarithms.

    Returns:
        the length; ``"always"`` or ``"never"`` over the lengths that both have; None where they share fewer than two.
    """
    theirs = {cost.tiles: cost.forward for cost in against}
    both = [(c.tiles, math.log(c.forward / theirs[c.tiles])) for c in costs if c.tiles in theirs]
    if len(both) < 2:
        return None
    if all(ratio < 0 for _, ratio in both):
        return "always"
    if both[-1][1] >= 0:
        return "never"
    last = max(i for i, (_, ratio) in enumerate(both) if ratio >= 0)
    (m0, r0), (m1, r1) = both[last], both[last + 1]
    return float(math.exp(math.log(m0) + (math.log(m1) - math.log(m0)) * r0 / (r0 - r1)))


def efficiency_length(lengths: Sequence[float], exact: Sequence[float], other: Sequence[float], skip: int = 0) -> float | None:
    """CAB's length from which another attention is cheaper than the exact one (Zhang et al. 2023, section 3.4).

    A parabola is fitted to the exact one's cost and a straight line to the other's; the length is where they cross for the last
    time. The fit makes the number, so that :func:`crossing` stands beside it.

    Args:
        lengths: measured.
        exact, other: cost at each.
        skip: shortest lengths that the line leaves out; 1 for CAB's times.

    Returns:
        the larger root; None where the curves do not cross, or the parabola does not open upwards.
    """
    a, b, c = np.polyfit(lengths, exact, 2)
    slope, intercept = np.polyfit(lengths[skip:], other[skip:], 1)
    inside = (b - slope) ** 2 - 4 * a * (c - intercept)
    if a <= 0 or inside < 0:
        return None
    return float((slope - b + math.sqrt(inside)) / (2 * a))


def _foreseen(costs: Sequence[Cost], length: int) -> float | None:
    """Seconds of a pass over ``length`` tiles, by the slope between the last two lengths, 1 at least."""
    if not costs:
        return None
    last = costs[-1]
    slope = 1.0
    if len(costs) > 1:
        before = costs[-2]
        slope = max(1.0, math.log(last.forward / before.forward) / math.log(last.tiles / before.tiles))
    return float((last.forward + last.layout) * (length / last.tiles) ** slope)


def _measure(block: nn.Module, dim: int, length: int, backward: bool, repeats: int, device: torch.device) -> Cost:
    coords = torch.from_numpy(draw_tissue(length)).to(device)[None]
    x = torch.randn(1, length, dim, device=device, generator=torch.Generator(device).manual_seed(length))

    def laid_out() -> Layout:
        return Layout.of(x, coords)

    def forward(layout: Layout) -> None:
        with torch.no_grad():
            block(x, layout)

    first, peak = _timed_with_peak(lambda: forward(laid_out()), device)
    known = laid_out()
    forward(known)
    seconds = [_timed(lambda: forward(known), device)]
    while len(seconds) < repeats and seconds[0] < 1:
        seconds.append(_timed(lambda: forward(known), device))
    both = None
    if backward:
        times: list[float] = []
        while len(times) < repeats and (not times or times[0] < 1):
            times.append(_timed(lambda: block(x.requires_grad_(True), known).sum().backward(), device))
            block.zero_grad(set_to_none=True)
            x.grad = None
        both = median(times)
    return Cost(length, max(0.0, first - median(seconds)), median(seconds), both, peak)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed_with_peak(work: Callable[[], None], device: torch.device) -> tuple[float, int | None]:
    """Seconds, and bytes at the highest point beyond those before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds = _timed(work, device)
        return seconds, torch.cuda.max_memory_allocated(device) - before
    before_here = _reset_peak()
    seconds = _timed(work, device)
    return seconds, None if before_here is None else max(0, _memory("VmHWM") - before_here)


def _reset_peak() -> int | None:
    """Forget the highest resident memory so far and give the present one; None where the system cannot."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is not to be used again unseen
        _CLEAR.write_text("5")
        return _memory("VmRSS")
    except (OSError, AttributeError, KeyError):
        return None


def _memory(what: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) << 10
    raise KeyError(what)
