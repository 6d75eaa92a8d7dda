"""Planned tiles as batches of pixels, decoded and processed ahead by background threads; each stored tile is decoded once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from comel.base.cores import threads_to_start
from pipelines.slides.area import Area
from pipelines.slides.native import NativeLevel, NativeTiles

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide
    from pipelines.tiles.plan import TilePlan

__all__ = ["CORES", "DECODERS", "PixelCount", "decoded_batches", "worked_batches"]

T = TypeVar("T")

CORES = threads_to_start()
"""The cores that this process should use."""

DECODERS = min(8, CORES)
"""Threads that decode and, on a CPU, encode. Decoders and torch run outside Python's lock."""

_BATCHES_AHEAD = 2
_MOST_BYTES = 256 << 20


@dataclass
class PixelCount:
    """Pixels of the level read.

    Attributes:
        decoded: area of the decoded stored tiles, repeats included.
        unique: area of the stored tiles under the planned tiles.
        direct: whether they were decoded here rather than by OpenSlide, whose own repeats are not visible.
    """

    decoded: int = 0
    unique: int = 0
    direct: bool = False


def decoded_batches(
    slide: Slide, plan: TilePlan, batch_size: int, *, workers: int = DECODERS, count: PixelCount | None = None
) -> Generator[np.ndarray, None, None]:
    """The planned tiles in order, in batches (B, tile_size, tile_size, 3) uint8 RGB; see :func:`worked_batches`."""
    return worked_batches(slide, plan, batch_size, lambda tiles: tiles, workers=workers, count=count)


def worked_batches(
    slide: Slide,
    plan: TilePlan,
    batch_size: int,
    work: Callable[[np.ndarray], T],
    *,
    workers: int = DECODERS,
    prepare_thread: Callable[[], None] | None = None,
    count: PixelCount | None = None,
) -> Generator[T, None, None]:
    """The results of ``work`` on the planned tiles, in order, batch by batch.

    A batch is decoded, resampled to the target resolution and processed by one thread; the threads run a few batches ahead. A
    stored tile is kept until the last planned tile that needs it is cut, so it is decoded once as long as kept tiles stay
    under 256 MiB; beyond that the oldest are dropped and decoded again.

    Args:
        slide: the slide to read; it must stay open.
        plan: the tiles to read.
        batch_size: B, for all but the last batch.
        work: called with (B, tile_size, tile_size, 3) uint8 RGB at the target resolution, in several threads at once.
        workers: number of threads.
        prepare_thread: called by each thread at its start.
        count: receives the pixels decoded.

    Raises:
        SlideError: a tile cannot be read.
    """
    total = len(plan.coords)
    if not total:
        return
    pending: deque[Future[T]] = deque()
    with closing(NativeTiles(slide, plan.level)) as native:
        cutter = _Cutter(slide, plan, native, count if count is not None else PixelCount())

        def cut_and_work(start: int) -> T:
            return work(cutter.cut(start, min(start + batch_size, total)))

        with ThreadPoolExecutor(workers, thread_name_prefix="decode", initializer=prepare_thread) as pool:
            try:
                for start in range(0, total, batch_size):
                    pending.append(pool.submit(cut_and_work, start))
                    if len(pending) > workers + _BATCHES_AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for task in pending:
                    task.cancel()


class _Cutter:
    """Cuts planned tiles out of stored ones."""

    def __init__(self, slide: Slide, plan: TilePlan, native: NativeTiles, count: PixelCount) -> None:
        self._plan, self._native = plan, native
        self._limits = slide.level_dimensions[plan.level]
        self._downsample = slide.level_downsamples[plan.level]
        self._cache = _Cache(native, count)
        touched: set[tuple[int, int]] = set()
        for index in range(len(plan.coords)):
            area = self._area(index)
            self._cache.expect(_cells(native.grid, (area.left, area.top, area.right, area.bottom)))
            touched.update(_cells(native.grid, _without_margin(area)))
        boxes = [native.grid.box(*cell) for cell in touched]
        count.unique = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
        count.direct = native.direct

    def cut(self, first: int, last: int) -> np.ndarray:
        """The planned tiles from ``first`` up to but excluding ``last``, (B, tile_size, tile_size, 3) uint8 RGB."""
        from PIL import Image

        side = self._plan.geometry.patch_size
        batch = np.empty((last - first, side, side, 3), np.uint8)
        for tile, index in zip(batch, range(first, last), strict=True):
            area = self._area(index)
            region = self._region(area)
            tile[:] = region if area.exact else np.asarray(area.resample(Image.fromarray(region)))
        return batch

    def _area(self, index: int) -> Area:
        x, y = (float(value) / self._downsample for value in self._plan.coords[index])
        geometry = self._plan.geometry
        right, bottom = x + geometry.tile_width / self._downsample, y + geometry.tile_height / self._downsample
        return Area.of((x, y, right, bottom), (geometry.patch_size, geometry.patch_size), self._limits)

    def _region(self, area: Area) -> np.ndarray:
        region = np.empty((area.bottom - area.top, area.right - area.left, 3), np.uint8)
        for cell in _cells(self._native.grid, (area.left, area.top, area.right, area.bottom)):
            pixels = self._cache.take(cell)
            left, top, right, bottom = self._native.grid.box(*cell)
            x, y = max(left, area.left), max(top, area.top)
            part = pixels[y - top : min(bottom, area.bottom) - top, x - left : min(right, area.right) - left]
            region[y - area.top : y - area.top + part.shape[0], x - area.left : x - area.left + part.shape[1]] = part
        return region


class _Cache:
    """Stored tiles between their first use and their last."""

    def __init__(self, native: NativeTiles, count: PixelCount) -> None:
        self._native, self._count = native, count
        self._lock = threading.Lock()
        self._uses: dict[tuple[int, int], int] = {}
        self._kept: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._most = max(16, _MOST_BYTES // (native.grid.tile_width * native.grid.tile_height * 3))

    def expect(self, cells: list[tuple[int, int]]) -> None:
        """Note that each of ``cells`` will be used once more."""
        for cell in cells:
            self._uses[cell] = self._uses.get(cell, 0) + 1

    def take(self, cell: tuple[int, int]) -> np.ndarray:
        """The pixels of a stored tile (column, row); if another thread is decoding it, this one waits."""
        with self._lock:
            self._uses[cell] -= 1
            future = self._kept.get(cell)
            mine = future is None
            if future is None:
                future = Future()
                left, top, right, bottom = self._native.grid.box(*cell)
                self._count.decoded += (right - left) * (bottom - top)
                if self._uses[cell]:
                    self._kept[cell] = future
                    if len(self._kept) > self._most:
                        self._kept.pop(next(iter(self._kept)))
            elif not self._uses[cell]:
                self._kept.pop(cell)
        if mine:
            try:
                future.set_result(self._native.read(*cell))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


def _without_margin(area: Area) -> tuple[int, int, int, int]:
    left, top, right, bottom = area.box
    return area.left + int(left), area.top + int(top), area.left - int(-right // 1), area.top - int(-bottom // 1)


def _cells(grid: NativeLevel, box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """(column, row) of the stored tiles under a box (left, top, right, bottom), row by row."""
    left, top, right, bottom = box
    columns = range(left // grid.tile_width, -(-right // grid.tile_width))
    return [(column, row) for row in range(top // grid.tile_height, -(-bottom // grid.tile_height)) for column in columns]
