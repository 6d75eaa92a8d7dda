"""Planned tiles to features: where each part of the work is done, so that neither decoder nor encoder waits."""

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
    """The features (B, dimension) float32 of the planned tiles in order, batch by batch, with what else was found on them.

    An encoder that may run in several threads does so, beside the decoding and with one thread a batch: no core waits for
    another, and features do not depend on the number of cores. Any other runs in the calling thread, one batch ahead.

    Args:
        slide: to read; it must stay open.
        plan: what to read.
        encoder: see :class:`PatchEncoder`.
        batch_size: B, of all but the last batch.
        prepare: is given tiles (B, tile_size, tile_size, 3) uint8 RGB, in several threads at once; returns those that the
            encoder is to see and whatever else.
        workers: threads.

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
    """Torch computes with one thread in each thread that is begun meanwhile and calls what this gives.

    Torch keeps the number for the process and for every thread of its own, so both are set. The last to leave puts the
    process's back. An encoder that computes without torch does not have it loaded for this.
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
