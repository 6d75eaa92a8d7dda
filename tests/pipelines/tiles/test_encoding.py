"""Where tiles are encoded, in which order, and with how many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.patch_encoders import PatchEncoder, load_encoder
from pipelines.slides.slide import open_slide
from pipelines.tiles.encoding import encoded_batches, one_thread_each
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import find_tissue
from tests.pipelines.patch_encoders.test_encoders import save_vit
from tests.pipelines.small_slides import MeanColour


def encode_slide(path: Path, encoder: PatchEncoder, workers: int, batch_size: int = 2) -> np.ndarray:
    """The features of all tiles; what is measured beside them must be of the same batch."""
    found = []
    with open_slide(path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=128, target_mpp=0.5)
        for features, shown in encoded_batches(slide, plan, encoder, batch_size, lambda t: (255 - t, 255 - t), workers=workers):
            assert len(features) == len(shown)
            assert np.allclose(features, encoder.encode(shown), atol=1e-3)
            found.append(features)
    return np.concatenate(found)


@pytest.mark.parametrize("kind", ["lite", "hf"])
def test_features_do_not_depend_on_the_number_of_threads(slide_path: Path, tmp_path: Path, kind: str) -> None:
    encoder = load_encoder("efficientnet-lite0" if kind == "lite" else f"hf:{save_vit(tmp_path / 'vit')}", "cpu")
    assert encoder.concurrent
    first = encode_slide(slide_path, encoder, 1, batch_size=8)
    assert np.array_equal(first, encode_slide(slide_path, encoder, 4, batch_size=8))


class Watched(MeanColour):
    """Notes the thread, and torch's threads there, of each call."""

    def __init__(self, concurrent: bool) -> None:
        super().__init__()
        self.concurrent = concurrent
        self.calls: list[tuple[str, int]] = []

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        self.calls.append((threading.current_thread().name, torch.get_num_threads()))
        return super().encode(tiles)


def drain(path: Path, encoder: PatchEncoder) -> None:
    with open_slide(path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=128, target_mpp=0.5)
        for _ in encoded_batches(slide, plan, encoder, 2, lambda tiles: (tiles, None), workers=2):
            pass


def threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_a_concurrent_encoder_runs_in_the_workers_with_one_thread_each(slide_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        encoder = Watched(concurrent=True)
        drain(slide_path, encoder)
        assert all(name.startswith("decode") for name, _ in encoder.calls)
        assert {threads for _, threads in encoder.calls} == {1}
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    finally:
        torch.set_num_threads(before)


def test_any_other_stays_in_the_calling_thread_with_all_its_threads(slide_path: Path) -> None:
    encoder = Watched(concurrent=False)
    drain(slide_path, encoder)
    assert set(encoder.calls) == {(threading.current_thread().name, torch.get_num_threads())}


def test_the_last_to_leave_puts_the_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = one_thread_each(), one_thread_each()
        first.__enter__()
        begin = second.__enter__()
        first.__exit__(None, None, None)
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    finally:
        torch.set_num_threads(before)


class Queue(MeanColour):
    """A device that is told what to do and asked for it later."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def start(self, tiles: np.ndarray) -> Callable[[], np.ndarray]:
        number = sum(event.startswith("start") for event in self.events)
        self.events.append(f"start {number}")

        def wait() -> np.ndarray:
            self.events.append(f"wait {number}")
            return self.encode(tiles)

        return wait


def test_the_next_batch_is_queued_before_one_is_waited_for(slide_path: Path) -> None:
    encoder = Queue()
    found = encode_slide(slide_path, encoder, 2)
    count = -(-len(found) // 2)
    assert count > 3
    expected = ["start 0"]
    for number in range(count - 1):
        expected += [f"start {number + 1}", f"wait {number}"]
    assert encoder.events == [*expected, f"wait {count - 1}"]
    assert np.array_equal(found, encode_slide(slide_path, MeanColour(), 2))


def test_leaving_early_ends_the_threads(slide_path: Path) -> None:
    before = threading.active_count()
    with open_slide(slide_path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=64, target_mpp=0.5)
        encoder = Watched(concurrent=True)
        with closing(encoded_batches(slide, plan, encoder, 2, lambda tiles: (tiles, None), workers=2)) as batches:
            next(batches)
        assert threading.active_count() <= before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(slide_path: Path) -> None:
    encoder = load_encoder("efficientnet-lite0", "cuda", "float32")
    assert not encoder.concurrent
    expected = encode_slide(slide_path, load_encoder("efficientnet-lite0", "cpu"), 2)
    assert np.allclose(encode_slide(slide_path, encoder, 2), expected, atol=1e-2)
    mixed = load_encoder("efficientnet-lite0", "cuda")
    assert mixed.precision in ("bfloat16", "float16")
    error = np.linalg.norm(encode_slide(slide_path, mixed, 2) - expected) / np.linalg.norm(expected)
    assert error < 0.05
