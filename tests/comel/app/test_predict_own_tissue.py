"""Slides for a model whose training bags have tissue that a user drew."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import comel
from comel.bags.bag import write_bag
from comel.prediction.prediction import read_prediction
from tests.comel.toys import CONTRACT, ENCODER_FILE, FINETUNE, TILE, Stream, features_of, make_bag, write_stream

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on bags that were made with --tissue geojson."""
    folder = tmp_path_factory.mktemp("drawn")
    stream: Stream = write_stream(folder, ["colon"], slides=8)
    contract = dataclasses.replace(CONTRACT, reading={"tissue": "geojson"})
    for number, row in enumerate(stream.rows):
        features, labels = features_of("colon", row["label"], np.random.default_rng(number), 12)
        bag = make_bag(row["slide_id"], features, labels, contract)
        write_bag(stream.bag(row["slide_id"]), dataclasses.replace(bag, settings={"tissue": "geojson"}))
    return comel.train(stream.settings(FINETUNE, epochs=1), folder / "run", quiet=True)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """4 x 3 tiles of grey, which no method would take for tissue."""
    path = tmp_path / "new.tif"
    pixels = np.full((3 * TILE, 4 * TILE, 3), 200, np.uint8)
    resolution: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}  # 0.5 um/px
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **resolution)
    (tmp_path / "toy.py").write_text(ENCODER_FILE)
    return path


def test_without_the_folder_one_line_names_the_option(run: Path, slide: Path, tmp_path: Path, comel_cli: Cli) -> None:
    wanted = ["predict", run, slide, slide.with_name("toy.tif"), "--out", tmp_path / "out", "-q"]
    slide.with_name("toy.tif").write_bytes(slide.read_bytes())
    code, out, said = comel_cli(*wanted)
    assert (code, out) == (2, "")
    assert said.startswith(
        "comel: the model reads slides only with their tissue drawn by hand (it was trained with --tissue geojson)"
    )
    assert "--tissue-folder" in said
    assert said.count("\n") == 1
    code, _, said = comel_cli(*wanted, "--tissue-folder", tmp_path / "none")
    assert code == 2
    assert said.endswith("none: no such folder; check --tissue-folder\n")
    assert not (tmp_path / "out").exists()


def test_tiles_are_cut_where_tissue_was_drawn(run: Path, slide: Path, tmp_path: Path, comel_cli: Cli) -> None:
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    ring = [[TILE, TILE], [3 * TILE, TILE], [3 * TILE, 3 * TILE], [TILE, 3 * TILE], [TILE, TILE]]
    shape = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    outline = json.dumps({"type": "FeatureCollection", "features": [shape]})
    options = ["--out", tmp_path / "out", "--tissue-folder", drawn, "--encoder", f"{tmp_path / 'toy.py'}:Toy", "-q"]
    code, _, said = comel_cli("predict", run, slide, *options)
    assert code == 2
    assert "no new.geojson or new.json" in said
    (drawn / "new.geojson").write_text(outline)
    code, _, said = comel_cli("predict", run, slide, *options)
    assert (code, said) == (0, "")
    prediction = read_prediction(tmp_path / "out" / "new.json")
    assert prediction.coords is not None
    assert prediction.coords.tolist() == [[x * TILE, y * TILE] for y in (1, 2) for x in (1, 2)]
    (drawn / "new.geojson").write_text(outline.replace(str(3 * TILE), str(2 * TILE)))
    assert comel_cli("predict", run, slide, *options)[0] == 0
    assert len(read_prediction(tmp_path / "out" / "new.json").instance_scores) == 1
