"""Resident memory over many slides extracted in one process.

    python benchmarks/extract_memory.py --slides 200

One synthetic slide is read again and again under other names, with the encoder loaded once, as a cohort's worker does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from comel.app import api
from comel.base.progress import progress_bar
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.patch_encoders import load_encoder
from pipelines.patch_encoders.base import PatchEncoder

WARM_UP = 10


def resident_bytes() -> int:
    """Memory of this process that is in RAM now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def extract_again(slide: Path, folder: Path, slides: int, encoder: PatchEncoder, *, quiet: bool = False) -> list[int]:
    """Extract ``slides`` links to ``slide``; the resident bytes after each."""
    sizes = []
    with progress_bar(slides, "extract", quiet=quiet) as advance:
        for number in range(slides):
            link = folder / f"slide-{number:04d}{slide.suffix}"
            link.symlink_to(slide.resolve())
            extract_slide(link, slide_id=link.stem, encoder=encoder, settings=ExtractSettings())
            sizes.append(resident_bytes())
            advance()
    return sizes


def main() -> None:
    """Print the memory after the warm-up and at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        api.synth(Path(place), organs=("colon",), slides_per_organ=2, size=arguments.size, quiet=True)
        slide = Path(place) / "slides" / "colon-0000.tif"
        sizes = extract_again(slide, Path(place), arguments.slides, load_encoder(arguments.encoder))
    warm, end = sizes[min(WARM_UP, len(sizes)) - 1], sizes[-1]
    print(f"{len(sizes)} slides: {warm / 2**20:.0f} MiB after {WARM_UP}, {end / 2**20:.0f} MiB at the end, "
          f"{100 * (end - warm) / warm:+.1f} % (target: within 5 %)")  # fmt: skip


if __name__ == "__main__":
    main()
