"""How many tiles a forward pass on a CPU should take: time and page faults for several numbers, and how far features differ.

    python benchmarks/encoder_slices.py --encoder efficientnet-lite0 --encoder hf:FOLDER

One thread encodes the same 32 tiles of noise, in turn with each number and again. Time is this process' processor time, so
that others on the machine count for little. The system's part of it grows with page faults: memory that is asked for anew.
"""

from __future__ import annotations

import argparse
import resource
import time
from statistics import median

import numpy as np
import torch

from comel.errors import ConfigError
from pipelines.patch_encoders import load_encoder
from pipelines.patch_encoders.torch_encoder import TorchEncoder, tiles_at_once

TILES = 32
SIDE = 256
SLICES = (32, 16, 8, 4, 2, 1)


def encode(encoder: TorchEncoder, tiles: np.ndarray, count: int) -> np.ndarray:
    """Features (B, dimension) of ``tiles``, ``count`` of them in each forward pass."""
    return np.concatenate([encoder.one_pass(tiles[first : first + count])() for first in range(0, len(tiles), count)])


def measure(encoder: TorchEncoder, repeats: int) -> dict[int, list[tuple[float, float, float]]]:
    """By tiles per pass: of each repeat the seconds per tile, the page faults per tile, and the largest relative difference."""
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    whole = encode(encoder, tiles, TILES)
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in SLICES}
    for _ in range(repeats):
        for count in SLICES:
            begun, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            features = encode(encoder, tiles, count)
            seconds = time.process_time() - begun
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            apart = float(np.abs(features - whole).max() / np.abs(whole).max())
            found[count].append((seconds / TILES, faults / TILES, apart))
    return found


def main() -> None:
    """Print one table for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="as for comel extract; may be given again")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.encoder or ["efficientnet-lite0"]:
        encoder = load_encoder(name, "cpu")
        if not isinstance(encoder, TorchEncoder):
            raise ConfigError(f"{name} is not computed in slices", "name a built-in encoder or hf:FOLDER")
        found = measure(encoder, options.repeats)
        print(f"\n{encoder.name}, {encoder.input_size} px, takes {tiles_at_once(encoder.input_size)} tiles per pass\n")
        print("| tiles per pass | ms per tile | speed-up (range) | page faults per tile | features differ |")
        print("|---:|---:|---:|---:|---:|")
        for count, rows in found.items():
            gains = [before[0] / now[0] for before, now in zip(found[TILES], rows, strict=True)]
            spread = f"{median(gains):.2f} ({min(gains):.2f}-{max(gains):.2f})"
            ms, faults, apart = (median(values) for values in zip(*rows, strict=True))
            print(f"| {count} | {1000 * ms:.1f} | {spread} | {faults:.0f} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
