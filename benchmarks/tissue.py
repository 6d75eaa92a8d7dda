"""How well each tissue method finds drawn tissue in each situation.

    python benchmarks/tissue.py
    python benchmarks/tissue.py --slides ../shared/data/wsi --assume-mpp 1.052

Prints, for every situation of :mod:`situations`, the IoU (intersection over union, in percent) of the tissue
found with the tissue drawn, and of ink and folds where some is drawn; the mean over seeds. Where nothing is drawn the number
is the share of the slide taken wrongly. With slides, the share of each that a method takes as tissue, as ink and as fold, and
the seconds it took.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from situations import MPP, SITUATIONS, draw_situation

from pipelines.slides.slide import open_slide
from pipelines.tissue import TISSUE_METHODS, find_tissue
from pipelines.tissue.find import segment
from pipelines.tissue.folds import find_folds
from pipelines.tissue.ink import find_ink
from pipelines.tissue.thumbnail import Thumbnail


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    """IoU in percent; of an empty truth, the share of the picture that was found, in percent."""
    return 100 * float((found & truth).sum() / (found | truth).sum() if truth.any() else found.mean())


def drawn(seeds: int) -> None:
    """Print the table of the drawn situations."""
    print(f"| situation | {' | '.join(TISSUE_METHODS)} | ink | folds |")
    print("|---|" + "---|" * (len(TISSUE_METHODS) + 2))
    for name in SITUATIONS:
        scores: list[list[float]] = []
        for seed in range(seeds):
            situation = draw_situation(name, seed)
            thumbnail = Thumbnail(situation.pixels, MPP, MPP)
            ink = find_ink(thumbnail)
            masks = [segment(thumbnail, method, ink) for method in TISSUE_METHODS]
            scores.append([agreement(mask, situation.usable) for mask in masks])
            scores[-1] += [agreement(ink > 0, situation.ink), agreement(find_folds(thumbnail, masks[0]), situation.fold)]
        wrong = [not truth.any() for truth in (*[situation.usable] * len(TISSUE_METHODS), situation.ink, situation.fold)]
        cells = [
            f"{value:.1f} wrong" if bare else f"{value:.1f}" for value, bare in zip(np.mean(scores, 0), wrong, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def real(folder: Path, assume_mpp: float | None) -> None:
    """Print the table of the slides of a folder."""
    print("| slide | method | tissue mm2 | tissue % | ink % | fold % | seconds |")
    print("|---|---|---|---|---|---|---|")
    for path in sorted(folder.iterdir()):
        for method in TISSUE_METHODS:
            with open_slide(path, assume_mpp=assume_mpp) as slide:
                started = time.perf_counter()
                found = find_tissue(slide, method)
                seconds = time.perf_counter() - started
            shares = [100 * float((what > 0).mean()) for what in (found.mask, found.ink, found.fold) if what is not None]
            print(
                f"| {path.name} | {method} | {found.area_mm2:.2f} | {' | '.join(f'{s:.2f}' for s in shares)} | {seconds:.2f} |"
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slides", type=Path)
    parser.add_argument("--assume-mpp", type=float)
    arguments = parser.parse_args()
    if arguments.slides is None:
        drawn(arguments.seeds)
    else:
        real(arguments.slides, arguments.assume_mpp)


if __name__ == "__main__":
    main()
