"""Predictions of long and narrow slides, of equal scores and of maps that cannot be drawn: the result is not lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comel.app.predict.files import Writing, write_prediction
from comel.bags.bag import read_bag, write_bag
from comel.prediction.prediction import EQUAL_SCORES, read_prediction
from comel.prediction.predictor import Predictor
from tests.comel.prediction.test_picture import geometry_of, grid, prediction_at
from tests.comel.toys import Stream


@pytest.mark.parametrize(("columns", "rows"), [(1, 400), (400, 1), (10, 240)])
def test_a_strip_has_all_its_files_and_a_note(columns: int, rows: int, tmp_path: Path) -> None:
    geometry = geometry_of(columns * 128, rows * 128)
    prediction = prediction_at(grid(geometry, columns, rows), np.linspace(0, 1, columns * rows), geometry)
    told = write_prediction(prediction, None, Writing(tmp_path, tmp_path / "t.csv", 1024, merge=False), None)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png", ".geojson"}
    assert read_prediction(tmp_path / "slide-1.json").notes == told.notes
    assert [note.startswith("the map is ") for note in told.notes] == [True] * (rows > 100)


def test_a_map_that_cannot_be_drawn_does_not_cost_the_result(tmp_path: Path) -> None:
    writing = Writing(tmp_path, tmp_path / "t.csv", 1024, merge=True)
    far = prediction_at([[0, 0], [10**15, 10**15]], [0.5, 0.6], geometry_of(3000, 2000))
    no_map, no_geojson = write_prediction(far, None, writing, None).notes
    assert no_map.startswith("no map: slide-1: tiles spread over")
    assert no_geojson.startswith("no GeoJSON: slide-1: tiles spread over")
    assert [path.name for path in tmp_path.iterdir()] == ["slide-1.json"]
    geometry = geometry_of(3000, 2000)
    prediction = prediction_at(grid(geometry, 4, 4), np.linspace(0, 1, 16), geometry)
    (note,) = write_prediction(prediction, Image.new("RGB", (100, 100)), writing, None).notes
    assert note.startswith("the map is drawn without the slide: slide-1: the thumbnail does not have the slide's shape")
    assert (tmp_path / "slide-1.png").is_file()


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_bags_of_equal_tiles_have_none_marked(count: int, toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    bag = read_bag(toy_stream.bag(str(toy_stream.rows[0]["slide_id"])))
    same = np.repeat(bag.features[:1], count, axis=0)
    place = np.stack([np.arange(count) * 512, np.zeros(count)], axis=1).astype(np.int64)
    flat = replace(bag, features=same, coords=place, labels=None, quality={}, parent=None, scales=())
    write_bag(tmp_path / "flat.h5", flat)
    predictor = Predictor.open(toy_run)
    for scores in (flat, replace(flat, features=same * 100)):
        prediction = predictor.predict(scores)
        assert len(prediction.instance_scores) == count
        if np.ptp(prediction.instance_scores if count else [0]) <= 1e-6 and count != 1:
            assert prediction.positive_instances == 0
            assert (EQUAL_SCORES in prediction.notes) == prediction.equal_scores
