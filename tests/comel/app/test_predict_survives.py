"""A slide that cannot be used costs its own row and no other's, whatever is wrong with it."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from comel.app.predict.files import write_prediction
from comel.bags.bag import Bag
from comel.prediction.predictor import Predictor
from tests.comel.toys import Stream, write_manifest

Cli = Callable[..., tuple[int, str, str]]
GOOD = ("colon-06", "colon-07", "kidney-06")


@pytest.fixture
def bags(toy_stream: Stream, tmp_path: Path) -> Path:
    (tmp_path / "bags").mkdir()
    for slide in (*GOOD, "kidney-07"):
        shutil.copy(toy_stream.bag(slide), tmp_path / "bags")
    return tmp_path / "bags"


def table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "predictions.csv", newline="") as stream:
        return {row["slide_id"]: row for row in csv.DictReader(stream)}


def absurd(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] = 1e25


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def linked(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink(str(path.with_name("pipe")), "/features")


def text(path: Path) -> None:
    path.write_text("not a bag")


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 99


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "absurd numbers": (absurd, "have features beyond 1e+06"),
    "truncated": (truncated, "truncated or not HDF5"),
    "a link": (linked, "'features' is a link"),
    "no bag": (text, "truncated or not HDF5"),
    "a newer format": (newer, "update comel"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_others_are_predicted_and_the_reason_is_in_the_table(
    kind: str, toy_run: Path, bags: Path, comel_cli: Cli, tmp_path: Path
) -> None:
    spoil, said = BAD[kind]
    os.mkfifo(bags / "pipe")
    spoil(bags / "kidney-07.h5")
    code, _, err = comel_cli("predict", toy_run, bags, "--out", tmp_path / "out", "--quiet")
    assert code == 1
    assert err.count("\n") == 1
    assert said in err
    rows = table(tmp_path / "out")
    assert {name for name, row in rows.items() if not row["error"]} == set(GOOD)
    assert said in rows["kidney-07"]["error"]
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == set(GOOD)
    code, _, err = comel_cli("predict", toy_run, bags / "kidney-07.h5", "--out", tmp_path / "one", "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a defect\nof two lines"), RuntimeError("out of memory"), MemoryError(), KeyError("x"),
        ZeroDivisionError("by zero"), RecursionError("deep"),
        OSError(errno.EIO, "Input/output error"), UnicodeDecodeError("utf-8", b"x", 0, 1, "no"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("where", ["read", "predict", "write"])
def test_whatever_is_raised_costs_one_row(
    error: Exception, where: str, toy_run: Path, bags: Path, comel_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comel.app.predict.slides as slides
    import comel.bags.foreign as foreign

    def failing(original: Callable[..., Any], slide_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if slide_of(*arguments) == "colon-07":
                raise error
            return original(*arguments, **named)

        return call

    if where == "read":
        monkeypatch.setattr(foreign, "read_any_bag", failing(foreign.read_any_bag, lambda path: path.stem))
    elif where == "predict":
        monkeypatch.setattr(Predictor, "predict", failing(Predictor.predict, lambda self, bag: bag.slide_id))
    else:
        monkeypatch.setattr(slides, "write_prediction", failing(write_prediction, lambda made, *_: made.slide_id))
    code, _, err = comel_cli("predict", toy_run, bags, "--out", tmp_path / "out", "--quiet")
    assert (code, err.count("\n")) == (1, 1)
    rows = table(tmp_path / "out")
    assert {name for name, row in rows.items() if row["error"]} == {"colon-07"}
    if not isinstance(error, OSError):
        assert rows["colon-07"]["error"].startswith(f"colon-07: cannot be predicted ({type(error).__name__}: ")
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"colon-06", "kidney-06", "kidney-07"}


def test_of_a_case_none_is_predicted_and_each_says_why(
    toy_run: Path, bags: Path, comel_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"slide_id": slide, "path": f"{slide}.tif", "label": "normal", "task": "colon", "case_id": case}
        for slide, case in (("colon-06", "a"), ("colon-07", "a"), ("kidney-06", "b"))
    ]
    original = Predictor.predict

    def failing(self: Predictor, bag: Bag, **named: Any) -> Any:
        if bag.slide_id == "a":
            raise ValueError("a defect")
        return original(self, bag, **named)

    monkeypatch.setattr(Predictor, "predict", failing)
    manifest = write_manifest(tmp_path / "cohort.csv", rows)
    code, _, _ = comel_cli("predict", toy_run, manifest, "--bags", bags, "--out", tmp_path / "out", "--quiet")
    assert code == 1
    found = table(tmp_path / "out")
    assert {name: bool(row["error"]) for name, row in found.items()} == {"colon-06": True, "colon-07": True, "kidney-06": False}


def test_a_full_disk_ends_it_all(
    toy_run: Path, bags: Path, comel_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No slide is to blame, and the next would fail alike."""
    import comel.app.predict.slides as slides

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr(slides, "write_prediction", full)
    code, _, err = comel_cli("predict", toy_run, bags, "--out", tmp_path / "out", "--quiet")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err


@pytest.mark.parametrize("name", ["pipe.h5", "pipe.pt", "pipe.csv", "pipe.tif"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, toy_run: Path, comel_cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    code, _, err = comel_cli("predict", toy_run, tmp_path / name, "--out", tmp_path / "out")
    assert code == 2
    assert err == f"comel: {tmp_path / name}: not a file but a pipe or a device; save it as a file\n"


def test_pipes_in_a_manifest_are_refused_too(toy_run: Path, bags: Path, comel_cli: Cli, tmp_path: Path) -> None:
    for name in ("slide.tif", "mask.png"):
        os.mkfifo(tmp_path / name)
    row = {"slide_id": "colon-06", "path": "slide.tif", "label": "normal", "task": "colon", "annotation": "mask.png"}
    manifest = write_manifest(tmp_path / "cohort.csv", [row])
    code, _, err = comel_cli("predict", toy_run, manifest, "--bags", bags, "--out", tmp_path / "out", "--quiet")
    assert code == 0  # the slide is there to be drawn on alone
    encoder = ("--encoder", "efficientnet-lite0", "--quiet")
    code, _, err = comel_cli("extract", manifest, "--out", tmp_path / "extracted", *encoder)
    assert code == 1
    assert "slide.tif: cannot be read (not a file but a folder, a pipe or a device)" in err
    for command in (("inspect", tmp_path / "slide.tif"), ("bags", "check", tmp_path / "slide.tif")):
        code, out, err = comel_cli(*command)
        assert code in (1, 2)
        assert "a pipe or a device" in out + err


def test_big_endian_and_long_doubles_are_predicted_alike(toy_run: Path, bags: Path, comel_cli: Cli, tmp_path: Path) -> None:
    assert comel_cli("predict", toy_run, bags, "--out", tmp_path / "before", "--quiet")[0] == 0
    for path, kind in zip(sorted(bags.glob("*.h5")), (">f4", "longdouble", ">f8", "<f8"), strict=True):
        with h5py.File(path, "r+") as file:
            features = np.asarray(file["features"])
            del file["features"]
            file["features"] = features.astype(kind)
    assert comel_cli("predict", toy_run, bags, "--out", tmp_path / "after", "--quiet")[0] == 0
    assert table(tmp_path / "before") == table(tmp_path / "after")
