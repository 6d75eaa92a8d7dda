"""The speed of extraction and its bottleneck: decoding, the encoder, or how the two are combined."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from comel.app.benchmark.whole_batches import with_whole_batches
from comel.errors import ConfigError
from pipelines.extraction.regions import tiles_to_extract
from pipelines.extraction.settings import ExtractSettings
from pipelines.patch_encoders.base import PatchEncoder
from pipelines.slides.slide import Slide, open_handle, open_slide
from pipelines.tiles.decode import CORES, DECODERS, PixelCount, decoded_batches
from pipelines.tiles.encoding import encoded_batches, one_thread_each
from pipelines.tiles.plan import TilePlan
from pipelines.tissue import find_tissue

__all__ = ["WAYS", "measure_extraction"]

WAYS = ("null encoder", "with encoder", "encoder alone", "DataLoader", "whole batches", "DataLoader with encoder")
_COMPARED = ("whole batches", "DataLoader with encoder")
_BATCHES_IN_MEMORY = 8
_MOST_SECONDS_A_BATCH = 240
_CPU_TARGET, _GPU_TARGET, _DATALOADER_TARGET, _PIXELS_TARGET = 1.1, 1.05, 1.5, 1.1


def measure_extraction(
    slides: Sequence[Path],
    encoder: PatchEncoder,
    settings: ExtractSettings,
    *,
    workers: int | None = None,
    repeats: int = 3,
    progress: Callable[[str], None] = lambda way: None,
) -> dict[str, Any]:
    """Time six ways side by side, one after another in every repeat.

    They are: tiles decoded and thrown away; decoded and encoded; tiles in memory encoded; one ``read_region`` per tile in
    the worker processes of a torch DataLoader, whose processes are running and have the slides open before the time starts;
    decoded and encoded with every batch in one forward pass; and the tiles of the DataLoader encoded in the same way with all
    of torch's threads, as other tools do. Opening slides and finding tissue is in none of them.

    Args:
        slides: the slides to read.
        encoder: see :func:`pipelines.patch_encoders.load_encoder`.
        settings: the settings of the extraction.
        workers: threads, and as many processes of the DataLoader; default one per core, up to 8.
        repeats: of all six.
        progress: called with each way as it ends.

    Returns:
        ``tiles_per_second`` (medians by way), ``core_seconds`` (by way, of this process), ``pixels`` (decoded, unique,
        direct), ``targets``: name, value, bound, and whether it holds; and ``speed_ups`` of the second way over each of the
        last two: median, least and most of the ratios within a repeat.

    Raises:
        ConfigError: the slides have no tile, or the DataLoader's processes are stuck or ended.
        SlideError: a slide cannot be used.
    """
    workers = workers or DECODERS
    count = {"decoded": 0, "unique": 0, "direct": True}
    with ExitStack() as stack:
        opened = [stack.enter_context(open_slide(path, assume_mpp=settings.assume_mpp)) for path in slides]
        plans = [_plan(slide, settings) for slide in opened]
        tiles = sum(len(plan.coords) for plan in plans)
        if not tiles:
            raise ConfigError("bench extract: no slide has a tile with tissue", "give other slides, or a lower --target-mpp")

        def decoded(counted: bool = False) -> Iterator[np.ndarray]:
            for slide, plan in zip(opened, plans, strict=True):
                seen = PixelCount()
                yield from decoded_batches(slide, plan, settings.batch_size, workers=workers, count=seen)
                if counted:
                    count["decoded"] += seen.decoded
                    count["unique"] += seen.unique
                    count["direct"] = bool(count["direct"] and seen.direct)

        def encoded(chosen: PatchEncoder) -> int:
            done = 0
            for slide, plan in zip(opened, plans, strict=True):
                for features, _ in encoded_batches(
                    slide, plan, chosen, settings.batch_size, lambda tiles: (tiles, None), workers=workers
                ):
                    done += len(features)
            return done

        memory = _first(decoded())
        loader = _loader(slides, plans, settings.batch_size, workers)
        whole = with_whole_batches(encoder)
        ways: dict[str, Callable[[], int]] = {
            "null encoder": lambda: sum(len(batch) for batch in decoded(counted=True)),
            "with encoder": lambda: encoded(encoder),
            "encoder alone": lambda: _encode_all(encoder, memory, workers),
            "DataLoader": lambda: _load_all(loader),
            "whole batches": lambda: encoded(whole),
            "DataLoader with encoder": lambda: _load_all(loader, whole),
        }
        encoder.encode(memory[0])
        whole.encode(memory[0])
        ways["DataLoader"]()
        walls: dict[str, list[float]] = {way: [] for way in WAYS}
        cores: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                wall, core = time.perf_counter(), time.process_time()
                done = ways[way]()
                walls[way].append((time.perf_counter() - wall) / done)
                cores[way].append((time.process_time() - core) / done)
                progress(way)
    wall_of, core_of = ({way: median(values) for way, values in table.items()} for table in (walls, cores))
    return {
        "slides": len(slides),
        "tiles": tiles,
        "encoder": encoder.name,
        "device": encoder.device,
        "precision": encoder.precision,
        "workers": workers,
        "cores": CORES,
        "repeats": repeats,
        "tiles_per_second": {way: 1 / wall_of[way] for way in WAYS},
        # The DataLoader's work is done by other processes.
        "core_seconds": {way: core_of[way] * tiles for way in WAYS if way != "DataLoader"},
        "pixels": {"decoded": count["decoded"] // repeats, "unique": count["unique"] // repeats, "direct": count["direct"]},
        "targets": _targets(wall_of, core_of, count, encoder.device),
        "speed_ups": [_speed_up(way, walls[way], walls["with encoder"]) for way in _COMPARED],
    }


def _speed_up(way: str, before: list[float], now: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(before, now, strict=True)]
    return {"over": way, "median": median(ratios), "least": min(ratios), "most": max(ratios)}


def _targets(wall: dict[str, float], core: dict[str, float], count: dict[str, Any], device: str) -> list[dict[str, Any]]:
    if device == "cpu":
        least, bound, name = (core["null encoder"] + core["encoder alone"]) / CORES, _CPU_TARGET, "core-seconds of both / cores"
    else:
        least, bound, name = max(wall["null encoder"], wall["encoder alone"]), _GPU_TARGET, "the slower of both alone"
    overlap, gain = wall["with encoder"] / least, wall["DataLoader"] / wall["null encoder"]
    again = count["decoded"] / count["unique"]
    return [
        {"name": f"time with encoder / {name}", "value": overlap, "at_most": bound, "holds": overlap <= bound},
        {
            "name": "null encoder / DataLoader",
            "value": gain,
            "at_least": _DATALOADER_TARGET,
            "holds": gain >= _DATALOADER_TARGET,
        },
        {"name": "pixels decoded / unique", "value": again, "at_most": _PIXELS_TARGET, "holds": again <= _PIXELS_TARGET},
    ]


def _plan(slide: Slide, settings: ExtractSettings) -> TilePlan:
    return tiles_to_extract(slide, find_tissue(slide, settings.tissue, ink_colours=settings.ink), settings)


def _encode_all(encoder: PatchEncoder, batches: Sequence[np.ndarray], workers: int) -> int:
    """Encode tiles in memory as an extraction does."""
    if not encoder.concurrent:
        started: list[Callable[[], np.ndarray]] = []
        done = 0
        for batch in batches:
            started.append(encoder.start(batch))
            if len(started) > 1:
                done += len(started.pop(0)())
        return done + sum(len(features()) for features in started)
    with one_thread_each() as begin, ThreadPoolExecutor(workers, initializer=begin) as pool:
        return sum(map(len, pool.map(encoder.encode, batches)))


def _first(batches: Iterator[np.ndarray]) -> list[np.ndarray]:
    kept = [batch for batch, _ in zip(batches, range(_BATCHES_IN_MEMORY), strict=False)]
    # What follows is still being decoded until the generator is closed.
    batches.close()  # type: ignore[attr-defined]
    return kept


class _Tiles:
    """A map-style dataset of planned tiles: each worker process opens the slides and reads tile by tile."""

    def __init__(self, slides: Sequence[Path], plans: Sequence[TilePlan]) -> None:
        self._slides = list(slides)
        self._level = [plan.level for plan in plans]
        self._side = [plan.geometry.patch_size for plan in plans]
        self._extent = [(plan.geometry.tile_width, plan.geometry.tile_height) for plan in plans]
        self._where = [(number, int(x), int(y)) for number, plan in enumerate(plans) for x, y in plan.coords]
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> np.ndarray:
        from PIL import Image

        number, x, y = self._where[index]
        if number not in self._open:
            self._open[number] = open_handle(self._slides[number])
        handle, level = self._open[number], self._level[number]
        width, height = (max(1, round(side / handle.level_downsamples[level])) for side in self._extent[number])
        tile = handle.read_region((x, y), level, (width, height)).convert("RGB")
        side = (self._side[number],) * 2
        return np.array(tile if tile.size == side else tile.resize(side, Image.Resampling.BILINEAR))


def _load_all(loader: Iterable[Any], encoder: PatchEncoder | None = None) -> int:
    """Take every batch, and encode it if there is an encoder."""
    try:
        if encoder is None:
            return sum(len(batch) for batch in loader)
        return sum(len(encoder.encode(batch.numpy())) for batch in loader)
    except RuntimeError as error:  # torch's word for processes that send nothing, or are gone
        said = str(error).partition("\n")[0]
        raise ConfigError(f"bench extract: the DataLoader stopped ({said})", "try again, with fewer --workers") from None


def _loader(slides: Sequence[Path], plans: Sequence[TilePlan], batch_size: int, workers: int) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(
        _Tiles(slides, plans),  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=True,
        timeout=_MOST_SECONDS_A_BATCH,
        # This process already has threads, so a fork of it may hang.
        multiprocessing_context="spawn",
    )
