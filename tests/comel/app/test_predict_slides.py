"""Slides given to ``comel predict``: read by the model's contract, or as the picture under a bag's map."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from comel.bags.bag import read_bag
from comel.prediction.prediction import read_prediction
from pipelines.extraction.contract import ContractReader
from tests.comel.toys import ENCODER_FILE, TILE, Stream, write_manifest

Cli = Callable[..., tuple[int, str, str]]

COLOUR = (200, 60, 150)


def write_slide(path: Path, columns: int, rows: int, *, mpp: float | None, colour: tuple[int, int, int] = COLOUR) -> Path:
    """A slide of so many tiles, all of it of one colour."""
    pixels = np.full((rows * TILE, columns * TILE, 3), colour, np.uint8)
    stated: dict[str, Any] = {} if mpp is None else {"resolution": (10_000 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None, **stated)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> list[object]:
    """The option that gives the toy encoder."""
    (tmp_path / "toy.py").write_text(ENCODER_FILE)
    return ["--encoder", f"{tmp_path / 'toy.py'}:Toy"]


def corner_of_map(path: Path) -> list[int]:
    """Colour of the map near the slide's lower right corner, where no bag of these tests has a tile."""
    with Image.open(path) as picture:
        pixel = picture.convert("RGB").getpixel((picture.width - 20, round(picture.width * 8 / 6) - 20))
    return list(pixel) if isinstance(pixel, tuple) else []


@pytest.mark.parametrize("by_manifest", [False, True])
def test_a_bags_map_lies_on_a_slide_that_states_no_mpp(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli, by_manifest: bool
) -> None:
    slide = write_slide(tmp_path / "colon-07.tif", 6, 8, mpp=None)
    rows = [row for row in toy_stream.rows if row["slide_id"] == "colon-07"]
    words: list[object] = [toy_stream.bag("colon-07"), "--slide", slide]
    if by_manifest:
        words = [write_manifest(tmp_path / "m.csv", rows), "--bags", toy_stream.bags]
    code, out, said = comel_cli("predict", toy_run, *words, "--out", tmp_path / "out", "-q")
    assert (code, said) == (0, "")
    assert out.splitlines()[-1] == f"maps, GeoJSON and JSON: {tmp_path / 'out'}; table: {tmp_path / 'out' / 'predictions.csv'}"
    np.testing.assert_allclose(corner_of_map(tmp_path / "out" / "colon-07.png"), COLOUR, atol=2)
    assert read_prediction(tmp_path / "out" / "colon-07.json").notes == ()


def test_a_picture_that_cannot_be_used_leaves_its_remedy(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli
) -> None:
    (tmp_path / "x.svs").write_text("no slide")
    words = ["predict", toy_run, toy_stream.bag("colon-07"), "--slide", tmp_path / "x.svs", "--out", tmp_path / "out", "-q"]
    assert comel_cli(*words)[0] == 0
    [note] = read_prediction(tmp_path / "out" / "colon-07.json").notes
    assert note.startswith(f"the map is drawn without the slide: {tmp_path / 'x.svs'}: not a slide that OpenSlide reads; ")
    assert "copy it again" in note


def test_without_geometry_the_map_says_why_it_is_not_on_the_slide(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli
) -> None:
    bag = read_bag(toy_stream.bag("colon-07"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = bag.features, bag.coords
    slide = write_slide(tmp_path / "a.tif", 6, 8, mpp=0.5)
    options = ["--slide", slide, "--assume-encoder", "toy", "--out", tmp_path / "out", "-q"]
    code, out, _ = comel_cli("predict", toy_run, tmp_path / "a.h5", *options)
    assert code == 0
    assert out.splitlines()[-1].startswith("maps and JSON: ")
    [note] = read_prediction(tmp_path / "out" / "a.json").notes
    assert "does not state where its tiles lie; extract it with comel extract" in note
    torch.save(torch.from_numpy(bag.features), tmp_path / "b.pt")
    code, out, _ = comel_cli("predict", toy_run, tmp_path / "b.pt", "--slide", slide, *options[2:])
    assert code == 0
    assert out.splitlines()[-1].startswith("JSON: ")
    assert {path.name for path in (tmp_path / "out").glob("b.*")} == {"b.json"}


def test_a_slide_too_coarse_for_the_model(toy_run: Path, tmp_path: Path, comel_cli: Cli, encoder: list[object]) -> None:
    slide = write_slide(tmp_path / "a.tif", 2, 2, mpp=0.5)
    code, _, said = comel_cli("predict", toy_run, slide, *encoder, "--mpp", 4.2, "--out", tmp_path / "out", "-q")
    assert code == 2
    assert "the slide has 4.2 um/px, too coarse for tiles at 0.5 um/px; the model needs a finer scan" in said
    assert "--target-mpp" not in said


def test_a_slide_is_extracted_again_only_where_something_changed(
    toy_run: Path, tmp_path: Path, comel_cli: Cli, encoder: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_slide(tmp_path / "a.tif", 3, 2, mpp=None)
    read: list[str] = []
    extract = ContractReader.extract

    def recorded(self: ContractReader, path: Path, **named: Any) -> Any:
        read.append(path.name)
        return extract(self, path, **named)

    monkeypatch.setattr(ContractReader, "extract", recorded)

    def again(*options: object, source: Path = slide) -> bool:
        read.clear()
        code, _, said = comel_cli("predict", toy_run, source, *encoder, "--out", tmp_path / "out", "-q", *options)
        assert (code, said) == (0, "")
        return bool(read)

    assert again("--mpp", 0.5)
    assert not again("--mpp", 0.5)
    assert again("--mpp", 0.25)
    assert again("--assume-mpp", 0.5)
    assert not again("--assume-mpp", 0.5)
    (tmp_path / "copy").mkdir()
    assert not again("--assume-mpp", 0.5, source=Path(shutil.copy(slide, tmp_path / "copy")))
    write_slide(slide, 3, 2, mpp=None, colour=(150, 60, 200))
    assert again("--assume-mpp", 0.5)
