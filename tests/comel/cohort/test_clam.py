"""CLAM's folder: loaded by a loader written after CLAM's, complete or refused, and resumed."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pytest
import torch
import typer
from typer.testing import CliRunner

from comel.app.commands import slides
from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.foreign import read_any_bag
from comel.cohort.clam import export_clam
from comel.errors import BagError, ConfigError, ManifestError
from tests.comel.toys import make_bag, write_manifest

SPLITS = ("train", "train", "val", "test")


def bag_of(slide: str, tiles: int = 6, seed: int = 0) -> Bag:
    features = np.random.default_rng(seed).normal(size=(tiles, 32)).astype(np.float16)
    return replace(make_bag(slide, features), features=features)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path]:
    """Folder of bags and manifest: two tasks of four slides, one bag more than the manifest has."""
    rows: list[dict[str, str]] = []
    for task in ("colon", "kidney"):
        for number, split in enumerate(SPLITS):
            slide = f"{task}-{number}"
            write_bag(tmp_path / "bags" / f"{slide}.h5", bag_of(slide, 5 + number, seed=len(rows)))
            rows.append({"slide_id": slide, "path": f"{slide}.svs", "label": "tumour" if number % 2 else "normal", "task": task,
                         "patient_id": f"{task}-p{number // 2}" if number < 2 else "", "split": split})  # fmt: skip
    write_bag(tmp_path / "bags" / "extra.h5", bag_of("extra"))
    return tmp_path / "bags", write_manifest(tmp_path / "m.csv", rows)


def clam_loads(folder: Path, task: str, split: str, labels: dict[str, int]) -> dict[str, tuple[Any, int, Any]]:
    """What CLAM's data set gives for a split: tables by pandas' defaults, tensors by torch's, arrays by h5py."""
    table = pandas.read_csv(folder / "dataset_csv" / f"{task}.csv")
    named = pandas.read_csv(folder / "splits" / task / "splits_0.csv", dtype=table["slide_id"].dtype)[split].dropna()
    chosen = table[table["slide_id"].isin(named.tolist())].reset_index(drop=True)
    loaded = {}
    for slide, label in zip(chosen["slide_id"], chosen["label"], strict=True):
        with h5py.File(folder / "h5_files" / f"{slide}.h5") as file:
            features, coords = file["features"][:], file["coords"][:]
        tensor = torch.load(folder / "pt_files" / f"{slide}.pt", weights_only=True)
        assert torch.equal(tensor, torch.from_numpy(features))
        loaded[slide] = (tensor, labels[label], coords)
    return loaded


def test_clam_loads_the_folder(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    bags, manifest = cohort
    report = export_clam([bags], tmp_path / "clam", manifest=manifest, quiet=True)
    assert (report.written, report.kept, report.empty) == (8, 0, ())
    assert len(report.tables) == 4
    assert not list((tmp_path / "clam").rglob("*extra*"))
    labels = {"normal": 0, "tumour": 1}
    seen: dict[str, int] = {}
    for task in ("colon", "kidney"):
        for split in ("train", "val", "test"):
            loaded = clam_loads(tmp_path / "clam", task, split, labels)
            assert sorted(loaded) == [f"{task}-{number}" for number in range(4) if SPLITS[number] == split]
            for slide, (tensor, label, coords) in loaded.items():
                bag = read_any_bag(bags / f"{slide}.h5")
                assert tensor.dtype == torch.float32
                np.testing.assert_array_equal(tensor.numpy().astype(np.float16), bag.features)
                np.testing.assert_array_equal(coords, bag.coords)
                torch.nn.Linear(32, 4)(tensor)
                seen[slide] = label
    assert len(seen) == 8
    assert all(label == int(slide[-1]) % 2 for slide, label in seen.items())
    with open(tmp_path / "clam/dataset_csv/colon.csv", newline="") as stream:
        cases = [row["case_id"] for row in csv.DictReader(stream)]
    assert cases == ["colon-p0", "colon-p0", "colon-2", "colon-3"]


def test_tiles_are_described_at_level_0(tmp_path: Path) -> None:
    geometry = TileGeometry(256, 0.5, 0.5, 0.2321, 0.2321, 90_000, 70_000, name="s1.svs")
    write_bag(tmp_path / "s1.h5", replace(bag_of("s1"), geometry=geometry))
    export_clam([tmp_path / "s1.h5"], tmp_path / "clam", quiet=True)
    with h5py.File(tmp_path / "clam/patches/s1.h5") as file:
        about = dict(file["coords"].attrs)
        assert list(file) == ["coords"]
    assert about["patch_level"] == 0
    assert about["patch_size"] == round(256 * 0.5 / 0.2321)
    assert isinstance(about["patch_size"], np.integer)
    assert about["name"] == "s1"
    for name, value in {"downsample": (1, 1), "level_dim": (90_000, 70_000), "downsampled_level_dim": (90_000, 70_000)}.items():
        np.testing.assert_array_equal(about[name], value)
    back = read_any_bag(tmp_path / "clam/h5_files/s1.h5")
    assert back.settings == {"format": "clam", "patch_size_level0": 551}
    assert not (tmp_path / "clam" / "dataset_csv").exists()


def test_a_second_run_goes_on_and_rewrites_nothing(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    bags, manifest = cohort
    out = tmp_path / "clam"
    export_clam([bags], out, manifest=manifest, quiet=True)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    lost = [out / "pt_files/colon-1.pt", out / "splits/kidney/splits_0.csv"]
    for path in lost:
        path.unlink()
    report = export_clam([bags], out, manifest=manifest, quiet=True)
    assert (report.written, report.kept) == (1, 7)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert {path: content for path, (content, _) in after.items()} == {path: content for path, (content, _) in before.items()}
    assert all(after[path] == before[path] for path in before if path not in lost)


@pytest.mark.parametrize("name", ["pt_files/s1.pt", "h5_files/s1.h5", "patches/s1.h5"])
@pytest.mark.parametrize("other", ["bag", "rubbish"])
def test_other_content_is_refused_and_left_alone(tmp_path: Path, name: str, other: str) -> None:
    write_bag(tmp_path / "a/s1.h5", bag_of("s1", 6, seed=0))
    write_bag(tmp_path / "b/s1.h5", bag_of("s1", 7, seed=1))
    export_clam([tmp_path / "b"], tmp_path / "other", quiet=True)
    there = tmp_path / "out" / name
    there.parent.mkdir(parents=True)
    there.write_bytes((tmp_path / "other" / name).read_bytes() if other == "bag" else b"mine")
    content = there.read_bytes()
    with pytest.raises(ConfigError, match=r"s1\.(pt|h5): exists already, with other content; give another folder"):
        export_clam([tmp_path / "a"], tmp_path / "out", quiet=True)
    assert there.read_bytes() == content
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_a_bag_without_a_tile_is_left_out(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    bags, manifest = cohort
    empty = bag_of("colon-0", 1)
    write_bag(bags / "colon-0.h5", replace(empty, features=empty.features[:0], coords=np.zeros((0, 2), np.int64)))
    report = export_clam([bags], tmp_path / "clam", manifest=manifest, quiet=True)
    assert (report.written, report.empty) == (7, ("colon-0",))
    assert not list((tmp_path / "clam").rglob("colon-0.*"))
    assert not any("colon-0" in table.read_text() for table in report.tables)


def test_slides_without_a_split_are_dealt_out_as_in_training(tmp_path: Path) -> None:
    from comel.cohort.manifest import read_manifest
    from comel.cohort.splits import assign_splits

    rows = [{"slide_id": f"s{i}", "path": f"s{i}.svs", "label": "ab"[i % 2], "task": "t"} for i in range(16)]
    for row in rows:
        write_bag(tmp_path / "bags" / f"{row['slide_id']}.h5", bag_of(row["slide_id"]))
    manifest = write_manifest(tmp_path / "m.csv", rows)
    export_clam([tmp_path / "bags"], tmp_path / "clam", manifest=manifest, quiet=True)
    table = pandas.read_csv(tmp_path / "clam/splits/t/splits_0.csv", dtype=object)
    found = {slide: split for split in table.columns for slide in table[split].dropna()}
    assert found == assign_splits(read_manifest(manifest).rows)


@pytest.mark.parametrize("slide", ["007", "12", "-0", "True", "1e5"])
def test_names_that_clams_reader_changes_are_refused(tmp_path: Path, slide: str) -> None:
    write_bag(tmp_path / f"bags/{slide}.h5", bag_of(slide))
    manifest = write_manifest(tmp_path / "m.csv", [{"slide_id": slide, "path": "a.svs", "label": "x", "task": "t"}])
    with pytest.raises(ManifestError, match=rf"m\.csv row 2: CLAM's table reader takes slide_id '{slide}' for"):
        export_clam([tmp_path / "bags"], tmp_path / "clam", manifest=manifest, quiet=True)
    assert not (tmp_path / "clam").exists()


def test_what_cannot_be_exported_says_so(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    bags, manifest = cohort
    torch.save(torch.zeros(3, 4), tmp_path / "only.pt")
    with h5py.File(tmp_path / "stamp.h5", "w") as file:
        file["feats"], file["coords"] = np.zeros((3, 4), np.float16), np.zeros((3, 2))
        file.attrs.update(unit="um", tile_size_um=256.0, tile_size_px=224)
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((3, 4), np.float32), np.zeros((3, 2), np.int64)
    cases: list[tuple[list[Path], str]] = [
        ([tmp_path / "only.pt"], r"only\.pt: no coordinates in level-0 pixels"),
        ([tmp_path / "stamp.h5"], r"stamp\.h5: no coordinates in level-0 pixels"),
        ([tmp_path / "bare.h5"], r"bare\.h5: the tile size in level-0 pixels is not stated"),
        ([bags, bags / "extra.h5"], "are both of slide 'extra'"),
        ([tmp_path / "none.h5"], "no such file"),
    ]
    for paths, message in cases:
        with pytest.raises(BagError, match=message):
            export_clam(paths, tmp_path / "out", quiet=True)
    (bags / "kidney-0.h5").unlink()
    with pytest.raises(BagError, match=r"m\.csv: no feature file of kidney-0; extract them first"):
        export_clam([bags], tmp_path / "out", manifest=manifest, quiet=True)
    assert not (tmp_path / "out").exists()


def test_tridents_features_go_to_clam(tmp_path: Path) -> None:
    (tmp_path / "20x/features_uni").mkdir(parents=True)
    features = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    with h5py.File(tmp_path / "20x/features_uni/s1.h5", "w") as file:
        file["features"], file["coords"] = features, np.arange(8).reshape(4, 2) * 512
        file["coords"].attrs.update(patch_size=256, patch_size_level0=512, level0_width=9000, level0_height=8000)
    export_clam([tmp_path], tmp_path / "clam", quiet=True)
    np.testing.assert_array_equal(torch.load(tmp_path / "clam/pt_files/s1.pt", weights_only=True).numpy(), features)
    with h5py.File(tmp_path / "clam/patches/s1.h5") as file:
        assert (file["coords"].attrs["patch_size"], tuple(file["coords"].attrs["level_dim"])) == (512, (9000, 8000))


def test_the_command(cohort: tuple[Path, Path], tmp_path: Path) -> None:
    bags, manifest = cohort
    app = typer.Typer()
    app.command()(slides.bags_export)
    arguments = [str(bags), "--out", str(tmp_path / "clam"), "--manifest", str(manifest), "-q"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith("8 bags written, 0 existed")
    assert str(tmp_path / "clam/dataset_csv/colon.csv") in done.stdout
    again = CliRunner().invoke(app, [*arguments, "--clam"])
    assert again.stdout.startswith("0 bags written, 8 existed")
