"""Planned tiles to features, with the work distributed so that neither decoder nor encoder waits."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipelines.patch_encoders.base import PatchEncoder
from pipelines.tiles.decode import DECODERS, worked_batches

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide
    from pipelines.tiles.plan import TilePlan

__all__ = ["encoded_batches", "one_thread_each"]

T = TypeVar("T")

_lock = threading.Lock()
_users = 0
_threads_before = 0


def encoded_batches(
    slide: Slide,
    plan: TilePlan,
    encoder: PatchEncoder,
    batch_size: int,
    prepare: Callable[[np.ndarray], tuple[np.ndarray, T]],
    *,
    workers: int = DECODERS,
) -> Generator[tuple[np.ndarray, T], None, None]:
    """The features (B, dimension) float32 of the planned tiles in order, batch by batch, with their other measurements.

    An encoder that may run in several threads does so, alongside the decoding and with one thread per batch: no core waits for
    another, and features do not depend on the number of cores. Any other runs in the calling thread, one batch ahead.

    Args:
        slide: the slide to read; it must stay open.
        plan: the tiles to read.
        encoder: see :class:`PatchEncoder`.
        batch_size: B, for all but the last batch.
        prepare: called with tiles (B, tile_size, tile_size, 3) uint8 RGB, in several threads at once; returns the tiles for the
            encoder and any measurements.
        workers: number of threads.

    Raises:
        SlideError: a tile cannot be read.
    """
    if encoder.concurrent:

        def work(tiles: np.ndarray) -> tuple[np.ndarray, T]:
            shown, found = prepare(tiles)
            return encoder.encode(shown), found

        with one_thread_each() as begin:
            yield from worked_batches(slide, plan, batch_size, work, workers=workers, prepare_thread=begin)
        return
    started: deque[tuple[Callable[[], np.ndarray], T]] = deque()
    with closing(worked_batches(slide, plan, batch_size, prepare, workers=workers)) as batches:
        for shown, found in batches:
            started.append((encoder.start(shown), found))
            if len(started) > 1:
                features, found = started.popleft()
                yield features(), found
        for features, found in started:
            yield features(), found


@contextmanager
def one_thread_each() -> Iterator[Callable[[], None]]:
    """While open, torch is single-threaded in every thread that first calls the yielded function.

    Torch keeps the number for the process and for each thread, so both are set. The last block to end restores the
    process's number. For an encoder without torch, torch is not loaded.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield lambda: None
        return
    global _users, _threads_before
    with _lock:
        if not _users:
            _threads_before = torch.get_num_threads()
        _users += 1
    try:
        yield lambda: torch.set_num_threads(1)
    finally:
        with _lock:
            _users -= 1
            if not _users:
                torch.set_num_threads(_threads_before)
