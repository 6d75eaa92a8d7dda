"""A toy stream of feature bags: three organs whose tumours differ, small enough to learn in a second or two."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.contract import FeatureContract

DIMENSION = 32
TILE = 256
CONTRACT = FeatureContract("toy", "ab" * 32, DIMENSION, 0.5, TILE)
ENCODER_FILE = f"""
import numpy
class Toy:
    name, dimension, weights_hash = "toy", {DIMENSION}, "{CONTRACT.weights_hash}"
    def __init__(self, device):
        pass
    def encode(self, tiles):
        return numpy.repeat(tiles.mean(axis=(1, 2, 3))[:, None], self.dimension, axis=1).astype(numpy.float32)
"""
"""A patch encoder of one's own that meets :data:`CONTRACT`, as a user's file."""
TASKS = ("colon", "kidney", "liver")
MODEL = {"name": "comel", "dim": 32, "attention_hidden": 16, "blocks": 1, "num_heads": 4, "region_size": 4}
OWLORA = {"name": "owlora", "rank": 4, "tasks": 4}
FINETUNE = {"name": "finetune"}
TRAINER = {"epochs": 3, "lr": 1e-3, "threads": 1, "device": "cpu"}


@dataclass(frozen=True)
class Stream:
    """A manifest and the folder of its bags."""

    manifest: Path
    bags: Path
    rows: list[dict[str, str]]

    def bag(self, slide: str) -> Path:
        return self.bags / f"{slide}.h5"

    def slides(self, **wanted: str) -> list[str]:
        """Names of the slides whose manifest row has these values."""
        return [row["slide_id"] for row in self.rows if all(row[key] == value for key, value in wanted.items())]

    def settings(
        self, strategy: dict[str, Any] = OWLORA, *, tasks: Iterable[str] | None = None, **trainer: Any
    ) -> dict[str, Any]:
        """Settings of a run over the stream."""
        data = {"manifest": self.manifest, "bags": self.bags, "tasks": list(tasks) if tasks else None}
        return {"data": data, "model": MODEL, "strategy": strategy, "trainer": TRAINER | trainer}


def make_bag(slide: str, features: np.ndarray, labels: np.ndarray | None = None, contract: FeatureContract = CONTRACT) -> Bag:
    """A bag whose tiles lie in rows of five."""
    index = np.arange(len(features))
    coords = np.stack([index % 5, index // 5], axis=1).astype(np.int64) * TILE
    geometry = TileGeometry(TILE, 0.5, 0.5, 0.5, 0.5, 6 * TILE, 8 * TILE, name=f"{slide}.tif")
    return Bag(slide, features.astype(np.float32), coords, geometry, contract, labels=labels)


def features_of(task: str, label: str, generator: np.random.Generator, instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Instance features (N, D) and labels (N,) of a slide: an organ is a shift, a tumour a direction."""
    own = np.random.default_rng(TASKS.index(task))
    shift, direction = 1.5 * own.normal(size=DIMENSION), 2.5 * own.normal(size=DIMENSION)
    labels = np.zeros(instances, np.int8)
    if label != "normal":
        labels[: max(1, instances // 4)] = 1
    return generator.normal(size=(instances, DIMENSION)) + shift + labels[:, None] * direction, labels


def write_stream(
    folder: Path,
    tasks: Iterable[str] = TASKS,
    *,
    slides: int = 16,
    change: Callable[[list[dict[str, str]]], None] | None = None,
) -> Stream:
    """Write manifest and bags: half the slides are normal, half of them train, a quarter each validate and test."""
    generator = np.random.default_rng(7)
    rows = []
    (folder / "bags").mkdir(parents=True)
    for task in tasks:
        for i in range(slides):
            label = "tumour" if i % 2 else "normal"
            split = ("train", "train", "val", "test")[i // 2 % 4]
            slide = f"{task}-{i:02d}"
            features, labels = features_of(task, label, generator, int(generator.integers(12, 25)))
            write_bag(folder / "bags" / f"{slide}.h5", make_bag(slide, features, labels))
            rows.append({"slide_id": slide, "path": f"{slide}.tif", "label": label, "task": task, "split": split})
    if change is not None:
        change(rows)
    write_manifest(folder / "manifest.csv", rows)
    return Stream(folder / "manifest.csv", folder / "bags", rows)


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as CSV, with the columns of the first."""
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def scores_of(run: Path) -> dict[str, Any]:
    """What ``comel train --json`` prints of a run."""
    from comel.runs.metrics import read_metrics
    from comel.scoring.continual import nested_run

    content: dict[str, Any] = json.loads(json.dumps(nested_run(read_metrics(run / "metrics.json"))))
    return content


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def killed(work: Callable[[], Any], *, at: int | None = None) -> int:
    """Do ``work`` in a process that SIGKILLs itself right before its ``at``-th rename; None counts the renames instead.

    Every file and folder that a run leaves gets its final name by a rename, so this reaches each state in which a killed
    process can leave the disk.

    Returns:
        With ``at``: 1 where the process was killed, 0 where it finished first. Without: the number of renames.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 70
        try:
            done = 0

            def counting(original: Callable[..., None]) -> Callable[..., None]:
                def rename(*arguments: Any, **named: Any) -> None:
                    nonlocal done
                    done += 1
                    if done == at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    original(*arguments, **named)

                return rename

            os.rename, os.replace = counting(os.rename), counting(os.replace)
            work()
            os.write(writer, str(done).encode())
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        renames = answer.read()
    _, status = os.waitpid(child, 0)
    if at is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return 1
    assert os.waitstatus_to_exitcode(status) == 0, "the work failed in the child process, see its traceback above"
    return 0 if at is not None else int(renames)
