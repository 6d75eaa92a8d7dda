"""Statistics of bags against counts by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from comel.app.commands import slides
from comel.bags.bag import TileGeometry, write_bag
from comel.bags.summary import bag_statistics, statistics_table
from comel.errors import BagError
from tests.comel.toys import make_bag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four bags: annotated, not annotated, TRIDENT's, and empty; and a damaged file."""
    labels = np.array([1, 0, 0, -1, 0], np.int8)
    first = make_bag("a", np.ones((5, 32)), labels)
    write_bag(tmp_path / "bags/a.h5", replace(first, quality={"tissue": np.array([1, 1, 0.5, 0.25, 0.25], np.float32)}))
    overlapping = TileGeometry(256, 0.5, 0.5, 0.25, 0.25, 9000, 9000, overlap=64)
    second = make_bag("b", np.ones((3, 32)))
    write_bag(tmp_path / "bags/b.h5", replace(second, geometry=overlapping, quality={"tissue": np.ones(3, np.float32)}))
    with h5py.File(tmp_path / "bags/c.h5", "w") as file:
        file["features"], file["coords"] = np.ones((4, 8), np.float32), np.zeros((4, 2), np.int64)
        file["coords"].attrs.update(patch_size=256, patch_size_level0=512)
    write_bag(tmp_path / "bags/d.h5", make_bag("d", np.ones((0, 32)), np.zeros(0, np.int8)))
    (tmp_path / "bags/e.h5").write_bytes(b"no bag")
    return tmp_path / "bags"


def test_each_bag_and_all(folder: Path) -> None:
    found = bag_statistics([folder])
    a, b, c, d, e = found["bags"]
    tile = (256 * 0.5 / 1000) ** 2
    assert a == {
        "file": str(folder / "a.h5"), "tiles": 5, "tissue_mm2": pytest.approx(3 * tile), "labelled_tiles": 4,
        "positive_tiles": 1, "positive_share": 0.25, "encoder": "toy", "mpp": 0.5, "scales": {},
        "dimension": 32, "pen_over_tenth": None, "fold_over_tenth": None, "blurred": None,
    }  # fmt: skip
    assert b["tissue_mm2"] == pytest.approx(3 * (192 * 0.5 / 1000) ** 2)
    assert (b["labelled_tiles"], b["positive_share"]) == (0, None)
    assert (c["tiles"], c["tissue_mm2"], c["encoder"], c["mpp"], c["dimension"]) == (4, None, None, None, 8)
    assert (d["tiles"], d["positive_share"]) == (0, None)
    assert "not HDF5" in e["error"]
    assert found["all"] == {
        "bags": 4, "unreadable": 1, "tiles": 12, "tiles_fewest": 0, "tiles_median": 3.5, "tiles_most": 5,
        "tissue_mm2": pytest.approx(a["tissue_mm2"] + b["tissue_mm2"]), "labelled_tiles": 4, "positive_tiles": 1,
        "positive_share": 0.25, "encoders": ["toy", None], "mpps": [0.5, None], "dimensions": [8, 32],
        "pen_over_tenth": None, "fold_over_tenth": None, "blurred": None,
    }  # fmt: skip


def test_the_table_has_a_line_a_bag_and_columns_that_stand_still(folder: Path) -> None:
    lines = statistics_table(bag_statistics([folder])).splitlines()
    assert len(lines) == 7
    assert lines[1].split() == ["a", "5", "0.05", "0.250", "-", "-", "-", "toy", "0.5", "32"]
    assert lines[3].split() == ["c", "4", "-", "-", "-", "-", "-", "not", "stated", "-", "8"]
    assert lines[5].startswith("all 4")
    assert all(line[lines[0].index("tiles") - 1] == " " for line in lines[:6])
    assert "not HDF5" in lines[6]


def test_spoilt_tiles_are_counted(tmp_path: Path) -> None:
    for name, tiles, blurred in (("a", 4, 2), ("b", 12, 0)):
        bag = make_bag(name, np.ones((tiles, 32)))
        blur = np.where(np.arange(tiles) < blurred, 0.9, 0.2).astype(np.float32)
        pen = np.where(np.arange(tiles) < 1, 0.2, 0.1).astype(np.float32)
        write_bag(tmp_path / f"{name}.h5", replace(bag, quality={"blur": blur, "pen": pen}))
    found = bag_statistics([tmp_path])
    assert [entry["blurred"] for entry in found["bags"]] == [0.5, 0.0]
    assert found["all"]["blurred"] == pytest.approx(2 / 16)
    assert found["all"]["pen_over_tenth"] == pytest.approx(2 / 16)
    assert found["all"]["fold_over_tenth"] is None


def test_nothing_readable_and_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"no bag")
    found = bag_statistics([tmp_path / "x.h5"])
    assert (found["all"]["bags"], found["all"]["tiles_median"], found["all"]["tissue_mm2"]) == (0, None, None)
    assert statistics_table(found).splitlines()[1].startswith("all 0")
    (tmp_path / "none").mkdir()
    with pytest.raises(BagError, match=r"no feature file; give \.h5 or \.pt files"):
        bag_statistics([tmp_path / "none"])


def test_the_command(folder: Path) -> None:
    app = typer.Typer()
    app.command()(slides.bags_stats)
    done = CliRunner().invoke(app, [str(folder), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == bag_statistics([folder])
    done = CliRunner().invoke(app, [str(folder / "a.h5")])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].startswith("bag")
