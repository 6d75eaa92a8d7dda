from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydantic import ValidationError

from comel.bags.bag import read_bag
from comel.bags.contract import FeatureContract
from comel.errors import ConfigError, SlideError
from pipelines.batch.work import SlideWork, describe
from pipelines.extraction.contract import ContractReader
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from pipelines.tissue import find_tissue, own_tissue
from tests.pipelines.annotation_files import asap, imagescope, qupath
from tests.pipelines.in_process import Given, extract_cohort
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_manifest, write_slide

SQUARE: list[Any] = [[200, 100], [900, 100], [900, 800], [200, 800], [200, 100]]
HOLE: list[Any] = [[400, 300], [400, 600], [700, 600], [700, 300], [400, 300]]


def write_outline(path: Path, *rings: list[list[int]], name: str = "Tissue") -> Path:
    shape = {"type": "Polygon", "coordinates": list(rings)}
    feature = {"type": "Feature", "geometry": shape, "properties": {"classification": {"name": name}}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    return path


def test_outline_with_a_hole(slide_path: Path, tmp_path: Path) -> None:
    with open_slide(slide_path) as slide:
        found = find_tissue(slide, "geojson", file=write_outline(tmp_path / "o.geojson", SQUARE, HOLE))
    assert found.area_mm2 == pytest.approx((700 * 700 - 300 * 300) * 0.25e-6, rel=0.03)
    row, column = round(450 / found.scale_y), round(550 / found.scale_x)
    assert not found.mask[row, column]
    assert found.mask[round(200 / found.scale_y), column]


@pytest.mark.parametrize(
    ("name", "is_tissue"),
    [
        *[(name, True) for name in ("", "Tissue", "Normal", "Region*", "None", "Negative", "_2", "Tumor*")],
        *[(name, False) for name in ("Ignore*", "ignore", "Hole", "Exclude", "Exclusion")],
    ],
)
def test_areas_of_every_class_are_tissue_but_those_left_out(
    slide_path: Path, tmp_path: Path, name: str, is_tissue: bool
) -> None:
    """A second area within the first and one beside it: what is left out cuts the first, what is tissue adds to it."""
    beside: list[Any] = [[1000, 100], [1400, 100], [1400, 500], [1000, 500]]
    files = [
        qupath(tmp_path / "o.geojson", ("Tissue", [SQUARE[:-1]]), (name, [HOLE[:-1]]), (name, [beside])),
        asap(tmp_path / "o.xml", ("Tissue", SQUARE[:-1]), (name, HOLE[:-1]), (name, beside)),
    ]
    area = 700 * 700 + 400 * 400 if is_tissue else 700 * 700 - 300 * 300
    for file in files:
        with open_slide(slide_path) as slide:
            assert find_tissue(slide, file=file).area_mm2 == pytest.approx(area * 0.25e-6, rel=0.03)


def test_negative_regions_are_no_tissue(slide_path: Path, tmp_path: Path) -> None:
    regions = [("", SQUARE[:-1]), ('NegativeROA="1"', HOLE[:-1])]
    with open_slide(slide_path) as slide:
        found = find_tissue(slide, file=imagescope(tmp_path / "o.xml", ('Name="Normal"', regions)))
    assert found.area_mm2 == pytest.approx((700 * 700 - 300 * 300) * 0.25e-6, rel=0.03)


def test_a_wrong_file_is_said_of_the_tissue_folder(slide_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corrected"
    folder.mkdir()
    Image.new("L", (300, 300), 1).save(folder / "s.png")
    with open_slide(slide_path) as slide, pytest.raises(SlideError, match=r"s\.png: a mask of 300 x 300 px") as caught:
        find_tissue(slide, file=folder / "s.png")
    assert caught.value.stage == "tissue"
    assert caught.value.remedy.startswith(f"in the tissue folder {folder}: give the mask of this slide")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_mask_image_of_any_scale(slide_path: Path, tmp_path: Path, suffix: str) -> None:
    values = np.zeros((300, 400), np.uint8)
    values[25:200, 50:225] = 1
    path = tmp_path / f"m{suffix}"
    if suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tifffile.imwrite(path, values)
    with open_slide(slide_path) as slide:
        found = find_tissue(slide, "mask", file=path)
    assert found.area_mm2 == pytest.approx(700 * 700 * 0.25e-6, rel=0.03)


def test_outline_counts_from_the_bounds(slide_path: Path, tmp_path: Path) -> None:
    path = write_outline(tmp_path / "o.geojson", SQUARE)
    with open_slide(slide_path) as slide:
        slide.bounds = (100, 50, 1200, 1000)
        found = find_tissue(slide, file=path)
    rows, columns = np.nonzero(found.mask)
    assert columns.min() * found.scale_x == pytest.approx(300, abs=2 * found.scale_x)
    assert rows.min() * found.scale_y == pytest.approx(150, abs=2 * found.scale_y)


def test_a_large_slide_is_drawn_in_coarser_cells(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tissue.own._MOST_CELLS", 3000)
    with open_slide(slide_path) as slide:
        found = find_tissue(slide, file=write_outline(tmp_path / "o.geojson", SQUARE))
    assert found.mask.shape == (192, 256)
    assert found.area_mm2 == pytest.approx(700 * 700 * 0.25e-6, rel=0.08)


def test_which_file_is_taken(tmp_path: Path) -> None:
    for name in ("a.geojson", "b.png", "c.x.tif", "d.geojson", "d.png"):
        (tmp_path / name).touch()
    assert own_tissue(None, "a", "hsv-otsu") is None
    assert own_tissue(tmp_path, "a", "hsv-otsu") == tmp_path / "a.geojson"
    assert own_tissue(tmp_path, "c.x", "stain-density") == tmp_path / "c.x.tif"
    assert own_tissue(tmp_path, "missing", "hsv-otsu") is None
    assert own_tissue(tmp_path, "d", "mask") == tmp_path / "d.png"
    (tmp_path / "e.GeoJSON").touch()
    (tmp_path / "f.PNG").touch()
    assert own_tissue(tmp_path, "e", "geojson") == tmp_path / "e.GeoJSON"
    assert own_tissue(tmp_path, "f", "hsv-otsu") == tmp_path / "f.PNG"
    for slide_id, method, said in (
        ("b", "geojson", "no b.geojson or b.json"),
        ("a", "mask", "no a.png or a.tif or a.tiff"),
        ("d", "hsv-otsu", "d.png and d.geojson"),
    ):
        with pytest.raises(SlideError, match=said) as caught:
            own_tissue(tmp_path, slide_id, method)
        assert caught.value.stage == "tissue"


def test_files_of_no_slide_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slides = {
        name: write_slide(tmp_path / f"{name}.tif", tissue_picture(512, 512, (0, 0, 512, 512))) for name in ("one", "two")
    }
    folder = tmp_path / "corrected"
    folder.mkdir()
    for name in ("two.geojson", "one.svs.PNG", "One.json", "three.xml", "four.tif", "notes.txt", ".hidden.png"):
        write_outline(folder / name, SQUARE)
    manifest = write_manifest(tmp_path / "m.csv", slides)
    settings = ExtractSettings(tissue_folder=folder)
    assert extract_cohort(manifest, tmp_path / "bags", settings, encoder=MeanColour()).done == 2
    [said] = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert said == f"{folder}: not used, since no slide_id of the manifest matches: One.json, four.tif, one.svs.PNG and 1 more"


def test_own_tissue_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="tissue_folder"):
        ExtractSettings(tissue="geojson")
    with pytest.raises(ValidationError, match="nowhere: no such folder"):
        ExtractSettings(tissue_folder=tmp_path / "nowhere")
    with pytest.raises(ValidationError, match=r"cannot be read \(File name too long\)"):
        ExtractSettings(tissue_folder=tmp_path / ("x" * 300))


def test_a_relative_folder_means_the_same_in_a_worker_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "drawn").mkdir(parents=True)
    write_outline(tmp_path / "here" / "drawn" / "s.geojson", SQUARE)
    monkeypatch.chdir(tmp_path / "here")
    drawn = ExtractSettings(tissue_folder=Path("drawn"))
    sent = pickle.dumps(SlideWork(tmp_path, drawn, "cpu", "run", encoder_loader=Given(MeanColour())))
    monkeypatch.chdir(tmp_path)
    job = pickle.loads(sent)
    assert own_tissue(job.settings.tissue_folder, "s", "hsv-otsu") == tmp_path / "here" / "drawn" / "s.geojson"
    assert describe(job).encoder["name"] == "mean-colour"
    (tmp_path / "here").rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match="drawn: the tissue folder cannot be read"):
        describe(job)
    with pytest.raises(SlideError, match="drawn: cannot be read") as caught:
        own_tissue(job.settings.tissue_folder, "s", "hsv-otsu")
    assert caught.value.stage == "tissue"


def test_a_model_reads_a_slide_as_it_was_drawn(
    slide_path: Path, tmp_path: Path, encoder: MeanColour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tissue that has to be drawn, and with a method whose faults were corrected on some slides."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    write_outline(folder / "s.geojson", [[0, 0], [512, 0], [512, 256], [0, 256], [0, 0]])
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: encoder)
    for method in ("geojson", "hsv-otsu"):
        settings = ExtractSettings(encoder="mean-colour", tissue=method, tissue_folder=folder)
        bag = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=settings).bag
        stored = FeatureContract(**json.loads(json.dumps(bag.contract.__dict__)))  # as model.json keeps it
        read = ContractReader(stored, tissue_folder=folder).extract(slide_path, slide_id="s").bag
        assert np.array_equal(read.features, bag.features)
        assert read.coords is not None
        assert bag.coords is not None
        assert np.array_equal(read.coords, bag.coords)
        assert read.contract == bag.contract
        if method == "geojson":
            with pytest.raises(ConfigError, match=r"trained with --tissue geojson.*--tissue-folder"):
                ContractReader(stored).extract(slide_path, slide_id="s")
        else:
            assert len(ContractReader(stored).extract(slide_path, slide_id="s").bag) > len(bag)


def test_tiles_follow_the_outline(slide_path: Path, tmp_path: Path, encoder: MeanColour) -> None:
    write_outline(tmp_path / "s.geojson", [[0, 0], [512, 0], [512, 256], [0, 256], [0, 0]])
    settings = ExtractSettings(tissue="geojson", tissue_folder=tmp_path)
    bag = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=settings).bag
    assert bag.coords is not None
    assert bag.coords.tolist() == [[0, 0], [256, 0]]
    assert "tissue_folder" not in bag.settings
    assert len(bag.settings["tissue_file"]) == 64


def test_a_corrected_outline_redoes_its_slide_alone(tmp_path: Path) -> None:
    """Look at the overlays, correct one slide's tissue, run again."""
    box = (0, 0, 1024, 1024)
    slides = {name: write_slide(tmp_path / f"{name}.tif", tissue_picture(1024, 1024, box)) for name in ("one", "two")}
    manifest = write_manifest(tmp_path / "m.csv", slides)
    folder, out = tmp_path / "corrected", tmp_path / "bags"
    folder.mkdir()
    settings = ExtractSettings(tissue_folder=folder)

    def run() -> tuple[int, int, int]:
        report = extract_cohort(manifest, out, settings, encoder=MeanColour())
        return report.done, report.skipped, report.failed

    assert run() == (2, 0, 0)
    write_outline(folder / "two.geojson", [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]])
    assert run() == (1, 1, 0)
    assert len(read_bag(out / "two.h5")) == 1
    assert len(read_bag(out / "one.h5")) == 16
    write_outline(folder / "two.geojson", [[0, 0], [512, 0], [512, 256], [0, 256], [0, 0]])
    assert run() == (1, 1, 0)
    assert run() == (0, 2, 0)
    moved = ExtractSettings(tissue_folder=folder.rename(tmp_path / "elsewhere"))
    assert extract_cohort(manifest, out, moved, encoder=MeanColour()).skipped == 2
    (tmp_path / "elsewhere" / "two.geojson").write_text("{", encoding="utf-8")
    report = extract_cohort(manifest, out, moved, encoder=MeanColour())
    assert (report.skipped, report.failed) == (1, 1)
    assert "two.geojson" in report.failures[0].reason
