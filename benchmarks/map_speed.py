"""The map picture of a large slide: seconds and memory, in a process of its own.

    python benchmarks/map_speed.py --tiles 100000

Prints the median and the longest of several maps drawn and written as PNG, and by how much the process grew at its largest
beyond what it held before the first.
"""

from __future__ import annotations

import argparse
import io
import math
import resource
import statistics
import time

import numpy as np
from PIL import Image

from comel.bags.bag import TileGeometry
from comel.prediction.picture import PNG_EFFORT, draw_map
from comel.prediction.prediction import Prediction


def prediction_of(tiles: int) -> Prediction:
    """A square slide whose tiles lie side by side, with smooth random scores."""
    columns = math.ceil(math.sqrt(tiles))
    index = np.arange(tiles)
    coords = np.stack([index % columns, index // columns], axis=1) * 512
    side = columns * 512
    x, y = (coords / side * 9).T
    scores = (0.5 + 0.5 * np.sin(x) * np.cos(y)).astype(np.float32)
    return Prediction(
        slide_id="large",
        mode="class-incremental",
        task="breast",
        label="tumour",
        classes=("breast/normal", "breast/tumour"),
        probabilities=np.array([0.1, 0.9]),
        instance_scores=scores,
        threshold=0.5,
        positive=True,
        coords=coords,
        geometry=TileGeometry(256, 0.5, 0.5, 0.25, 0.25, side, side),
        model={"run": "benchmark", "version": 1},
    )


def noisy_thumbnail() -> Image.Image:
    """A slide's picture that compresses as badly as tissue does; a white one would flatter the time of writing it."""
    return Image.effect_noise((1536, 1536), 40).convert("RGB")


def peak_bytes() -> int:
    """The most memory that this process ever held (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    prediction, thumbnail = prediction_of(arguments.tiles), noisy_thumbnail()
    draw_map(prediction_of(64), thumbnail, width=256)  # imports what drawing needs
    before, seconds = peak_bytes(), []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        draw_map(prediction, thumbnail, width=arguments.width).save(io.BytesIO(), "PNG", compress_level=PNG_EFFORT)
        seconds.append(time.perf_counter() - started)
    grown = (peak_bytes() - before) / 1e6
    print(f"{arguments.tiles} tiles, {arguments.width} px wide, {arguments.repeats} maps")
    print(f"seconds: median {statistics.median(seconds):.2f}, longest {max(seconds):.2f}")
    print(f"memory: {grown:.0f} MB beyond the {before / 1e6:.0f} MB that the process held with everything imported")


if __name__ == "__main__":
    main()
