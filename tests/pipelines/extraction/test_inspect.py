"""``comel inspect`` as a user types it, and the overlay that it shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.situations import draw_situation
from comel.app.cli import app
from comel.app.commands.picture import can_show, picture_text
from comel.errors import SlideError
from pipelines.extraction.overlay import draw_overlay
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import find_tissue
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_slide


def inspect(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_it_says(slide_path: Path, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "overlay.png"
    said = inspect(slide_path, "--overlay", picture)
    assert "1600 x 1200 px" in said
    assert "0.5, stated by the slide" in said
    assert "level 2      400 x 300 px, 1:4, tiles of 256 x 256 px" in said
    assert "mm2 by hsv-otsu" in said
    assert "tiles        12" in said
    assert "\x1b" not in said
    with Image.open(picture) as image:
        assert image.mode == "RGB"
        assert image.width == 1024
        assert "icc_profile" not in image.info
    inspect(slide_path)
    assert {file.name for file in tmp_path.iterdir()} == {"slide.tif", "new"}


def test_a_level_that_is_not_read_and_a_slide_smaller_than_a_tile(tmp_path: Path) -> None:
    pixels = tissue_picture(1000, 700)
    with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
        for number, level in enumerate((pixels, np.pad(pixels[::2, ::2], ((0, 162), (0, 12), (0, 0))))):
            tiff.write(level, tile=(256, 256), photometric="rgb", metadata=None, subfiletype=number)
    said = inspect(tmp_path / "s.tif", "--mpp", 0.5, "--tile-size", 2000)
    assert "level 1      512 x 512 px, not read: its factor is unknown" in said
    assert "tiles        0, smaller than a tile: 1000 x 700 px" in said
    found = json.loads(inspect(tmp_path / "s.tif", "--mpp", 0.5, "--json"))
    assert [level["downsample"] for level in found["levels"]] == [1.0, None]
    assert found["too_small"] is None


def test_json_agrees_with_an_extraction(slide_path: Path, encoder: MeanColour) -> None:
    options = ("--tissue", "stain-density", "--tile-size", 128, "--min-tissue", 0.6, "--max-pen", 0.1, "--ink", "red,black")
    found = json.loads(inspect(slide_path, "--json", *options))
    settings = ExtractSettings(tissue="stain-density", tile_size=128, min_tissue=0.6, max_pen=0.1, ink=("red", "black"))
    extracted = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=settings)
    assert found["tiles"] == len(extracted.bag)
    assert found["tissue_area_mm2"] == pytest.approx(extracted.tissue_area_mm2)
    assert set(extracted.bag.quality) == {"tissue", "pen", "fold", "blur"}
    assert all(values.dtype == np.float32 for values in extracted.bag.quality.values())


def test_ink_is_said_and_spoils_tiles(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", draw_situation("blue pen", seed=1).pixels, mpp=8.0)
    grid = ("--target-mpp", 8, "--tile-size", 16, "--json")
    found = json.loads(inspect(path, *grid))
    assert found["ink_colours"] == ["blue"]
    assert found["ink_share"] > 0.05
    kept = [json.loads(inspect(path, *grid, "--max-pen", most))["tiles"] for most in (0, 0.25, 1)]
    assert kept[0] < kept[1] <= kept[2]
    assert json.loads(inspect(path, *grid, "--ink", "none"))["ink_colours"] == []


def test_nothing_of_a_person_is_printed(tmp_path: Path) -> None:
    import tifffile

    secret = "Aperio Image|AppMag = 20|MPP = 0.5|User = ANNA-SMITH|Title = CASE-4711|Date = 01/02/03"
    with tifffile.TiffWriter(tmp_path / "s.svs") as tiff:
        tiff.write(
            tissue_picture(600, 600, (50, 50, 550, 550)), tile=(256, 256), photometric="rgb", compression="jpeg",
            description=secret, metadata=None,
        )  # fmt: skip
    with open_slide(tmp_path / "s.svs") as slide:
        assert slide.facts()["format"] == "aperio"
    for said in (inspect(tmp_path / "s.svs"), inspect(tmp_path / "s.svs", "--json")):
        assert "20" in said
        assert not any(word in said for word in ("ANNA", "4711", "01/02"))


def test_own_tissue_is_named_like_the_slide(slide_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(SlideError, match=r"slide\.png"):
        inspect(slide_path, "--tissue", "mask", "--tissue-folder", folder)
    Image.fromarray(np.eye(4, dtype=np.uint8).repeat(75, 0).repeat(100, 1) * 255).save(folder / "slide.png")
    found = json.loads(inspect(slide_path, "--json", "--tissue-folder", folder))
    assert found["tissue"].endswith("slide.png")
    assert found["tissue_area_mm2"] == pytest.approx(4 * 400 * 300 * 0.25e-6, rel=0.03)


def test_overlay_shows_holes_ink_folds_and_blur(tmp_path: Path) -> None:
    situation = draw_situation("folds", seed=0)
    path = write_slide(tmp_path / "s.tif", situation.pixels, mpp=8.0)
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        plan = plan_tiles(slide, tissue, tile_size=32, target_mpp=8.0)
        plain = np.asarray(draw_overlay(slide, tissue, plan))
        blur = np.linspace(0, 1, len(plan.coords))
        crossed = np.asarray(draw_overlay(slide, tissue, plan, blur=blur))
        shown = np.asarray(draw_overlay(slide, tissue, plan, labels=(blur > 0.5).astype(np.int8)))
    assert plain.shape[1] == 500
    assert plain.shape[0] > 500
    assert (plain == (0, 205, 215)).all(axis=2).any(), "folds"
    outline = (plain[:500] == (0, 130, 50)).all(axis=2)
    assert outline.sum() > 300
    yellow, red = (crossed[:500] == (250, 225, 0)).all(axis=2), shown[:500, :, 0].astype(int) - shown[:500, :, 1]
    assert yellow.any()
    assert not (plain == (250, 225, 0)).all(axis=2).any()
    assert red.mean() > (plain[:500, :, 0].astype(int) - plain[:500, :, 1]).mean()


def test_picture_in_a_terminal() -> None:
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[:20], pixels[20:] = (255, 0, 0), (0, 0, 255)
    text = picture_text(Image.fromarray(pixels), columns=10, lines=50)
    lines = text.plain.splitlines()
    assert [len(line) for line in lines] == [10] * 10
    assert text.spans[0].style.color.triplet == (255, 0, 0)  # type: ignore[union-attr]
    assert text.spans[-1].style.bgcolor.triplet == (0, 0, 255)  # type: ignore[union-attr]


def test_no_picture_where_it_cannot_be_seen() -> None:
    assert can_show(Console(force_terminal=True, color_system="truecolor"))
    assert not can_show(Console(force_terminal=True, color_system="standard"))
    assert not can_show(Console(force_terminal=False))
