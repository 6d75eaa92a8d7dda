"""Tiles inside annotated regions only, and extraction at several scales, by the command line as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from comel.app.cli import app
from comel.bags.bag import Bag, read_bag
from comel.bags.contract import FeatureContract
from comel.bags.scales import join_scales
from comel.errors import ConfigError, FeatureMismatch, SlideError
from pipelines.annotations import read_annotation
from pipelines.batch.run import SlideOutcome
from pipelines.extraction.contract import ContractReader
from pipelines.extraction.regions import within_regions
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import TissueMask
from tests.pipelines.annotation_files import asap, qupath, square
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_manifest, write_slide

EVERYWHERE = TissueMask(np.ones((1, 1), bool), 1e6, 1e6, 0.0)

COLOUR = """
import numpy as np

class Colour:
    name, dimension, weights_hash = "colour", 3, "0" * 64

    def __init__(self, device):
        self.device = device

    def encode(self, tiles):
        return (tiles.mean(axis=(1, 2)) / 255).astype(np.float32)
"""


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """4 x 4 tiles of 256 px at 0.5 um/px, all on tissue."""
    return write_slide(tmp_path / "slide.tif", tissue_picture(1024, 1024, (0, 0, 1024, 1024)), levels=3)


def places(bag: Bag) -> set[tuple[int, int]]:
    """Columns and rows of the tiles."""
    assert bag.coords is not None
    return {(int(x) // 256, int(y) // 256) for x, y in bag.coords}


def extracted(slide: Path, annotation: Path | None, **settings: Any) -> Bag:
    chosen = ExtractSettings(**settings)
    return extract_slide(slide, slide_id="s", encoder=MeanColour(), settings=chosen, annotation=annotation).bag


@pytest.mark.parametrize("kind", ["asap", "qupath"])
def test_tiles_inside_regions_only(tmp_path: Path, slide: Path, kind: str) -> None:
    """Tumour on the left half, stroma on the right one, and a smudge of half a tile's height across the top row."""
    areas = {
        "Tumor": square(0, 0, 512, 1024),
        "Stroma": square(512, 0, 1024, 1024),
        "Smudge": square(0, 0, 1024, 128),
        "Exclusion": square(0, 768, 256, 1024),
    }
    if kind == "asap":
        file = asap(tmp_path / "a.xml", *areas.items())
    else:
        file = qupath(tmp_path / "q.geojson", *[(name, [points]) for name, points in areas.items()])
    everything = {(x, y) for x in range(4) for y in range(4)}
    left = {(x, y) for x, y in everything if x < 2} - {(0, 3)}
    top = {(x, 0) for x in range(4)}
    for settings, wanted in (
        ({}, everything),
        ({"regions_only": True}, everything - {(0, 3)}),
        ({"regions": ("tumor",)}, left),
        ({"regions": ("Tumor",), "exclude_regions": ("Smudge",)}, left - top),
        ({"exclude_regions": ("Smudge",)}, everything - top),
        ({"exclude_regions": ("Smudge",), "annotation_overlap": 0.6}, everything),
        ({"regions": ("Smudge",), "annotation_overlap": 0.5}, top),
        ({"regions": ("Exclusion",)}, {(0, 3)}),
        ({"regions": ("no such class",)}, set()),
    ):
        with open_slide(slide) as opened:
            plan = plan_tiles(opened, EVERYWHERE, tile_size=256, target_mpp=0.5)
        annotation = read_annotation(file, plan.geometry)
        kept = within_regions(plan, annotation, ExtractSettings(**settings), slide)
        assert {(x // 256, y // 256) for x, y in kept.coords.tolist()} == wanted, settings
        assert len(kept.tissue) == len(kept.coords)


def test_labels_within_regions_are_of_the_positive_classes(tmp_path: Path, slide: Path) -> None:
    areas = [("Region", [square(0, 0, 512, 1024)]), ("Tumor", [square(0, 0, 1024, 256)])]
    file = qupath(tmp_path / "q.geojson", *areas)
    bag = extracted(slide, file, regions=("Region",), positive_classes=("Tumor",), also_mpp=(1.0,))
    assert bag.labels is not None
    assert bag.labels.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    # A coarser tile is labelled by its own area: the upper one of the left column is half tumour.
    assert places(bag.scales[0]) == {(0, 0), (0, 2)}
    assert bag.scales[0].labels is not None
    assert bag.scales[0].labels.tolist() == [1, 0]


def test_a_slide_without_annotation(tmp_path: Path, slide: Path) -> None:
    for settings in ({"regions_only": True}, {"regions": ("Tumor",)}):
        with pytest.raises(SlideError, match="no annotation marks its regions") as caught:
            extracted(slide, None, **settings)
        assert caught.value.stage == "annotation"
    assert len(extracted(slide, None, exclude_regions=("Tumor",))) == 16


def test_mask_as_regions(tmp_path: Path, slide: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert places(extracted(slide, tmp_path / "mask.png", regions_only=True)) == {(x, 0) for x in range(4)}
    with pytest.raises(SlideError, match="a mask has no classes such as 'Tumor'"):
        extracted(slide, tmp_path / "mask.png", regions=("Tumor",))


def test_nothing_in_the_regions_is_said(tmp_path: Path, slide: Path) -> None:
    file = asap(tmp_path / "a.xml", ("Stroma", square(0, 0, 512, 512)))
    found = extract_slide(
        slide, slide_id="s", encoder=MeanColour(), settings=ExtractSettings(regions=("Tumor",)), annotation=file
    )
    assert found.notes == ["no tile with enough tissue in its regions", "no area of class Tumor (the annotation marks Stroma)"]
    assert len(found.bag) == 0


@pytest.mark.parametrize("option", ["positive_classes", "exclude_regions"])
def test_a_misspelt_class_is_said_of_each_slide_and_at_the_end(
    tmp_path: Path, slide: Path, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = {
        "one": asap(tmp_path / "one.xml", ("Tumor: Positive", square(0, 0, 512, 512)), ("Fold", square(0, 0, 9, 9))),
        "two": asap(tmp_path / "two.xml", ("tumor", square(0, 0, 512, 512))),
        "bare": asap(tmp_path / "bare.xml"),
    }
    slides = {name: write_slide(tmp_path / f"{name}.tif", tissue_picture(512, 512, (0, 0, 512, 512))) for name in drawn}
    slides["without"] = write_slide(tmp_path / "without.tif", tissue_picture(512, 512, (0, 0, 512, 512)))
    manifest = write_manifest(tmp_path / "m.csv", slides, annotation={name: str(path) for name, path in drawn.items()})

    def run(*classes: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        caplog.clear()
        said: list[SlideOutcome] = []
        extract_cohort(
            manifest, tmp_path / "bags", ExtractSettings(**{option: classes}), encoder=MeanColour(), progress=said.append
        )
        warned = [record.getMessage() for record in caplog.records if "no slide has" in record.getMessage()]
        return {outcome.slide_id: tuple(note for note in outcome.notes if "area of" in note) for outcome in said}, warned

    absent = {
        "one": ("no area of class Tumour (the annotation marks Fold, Tumor: Positive)",),
        "two": ("no area of class Tumour (the annotation marks tumor)",),
        "bare": ("no area of class Tumour (the annotation marks no class)",),
        "without": (),
    }
    warning = "no slide has an area of class Tumour; check its name in the annotations"
    assert run("Tumour") == (absent, [warning])
    assert run("Tumour") == (absent, [warning])  # of slides that were done before too
    assert run("TUMOR") == ({**dict.fromkeys(absent, ()), "bare": (absent["bare"][0].replace("Tumour", "TUMOR"),)}, [])
    notes, warned = run("Fold", "tumour")
    assert (len(notes["one"]), len(notes["two"]), warned) == (1, 2, [warning.replace("Tumour", "tumour")])


def test_features_of_each_scale_are_those_of_its_own_extraction(slide: Path) -> None:
    bag = extracted(slide, None, also_mpp=(2.0, 1.0), dtype="float32")
    for scale, mpp in zip((bag, *bag.scales), (0.5, 1.0, 2.0), strict=True):
        alone = extracted(slide, None, target_mpp=mpp, dtype="float32")
        assert np.array_equal(scale.features, alone.features)
        assert np.array_equal(scale.coords, alone.coords)  # type: ignore[arg-type]
        assert scale.contract == alone.contract
        assert np.array_equal(scale.quality["tissue"], alone.quality["tissue"])


def test_progress_counts_the_tiles_of_all_scales(slide: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    settings = ExtractSettings(also_mpp=(1.0, 2.0), batch_size=5)
    extract_slide(slide, slide_id="s", encoder=MeanColour(), settings=settings, progress=lambda *stage: seen.append(stage))
    encoding = [(done, total) for stage, done, total in seen if stage == "encode"]
    assert encoding[0] == (0, 21)
    assert encoding[-1] == (21, 21)
    assert [done for done, _ in encoding] == sorted(done for done, _ in encoding)


def test_a_joined_contract_reads_slides_as_it_says(tmp_path: Path, slide: Path) -> None:
    (tmp_path / "colour.py").write_text(COLOUR)
    contract = FeatureContract("colour", "0" * 64, 9, 0.5, 256, joined_mpp=(1.0, 2.0))
    reader = ContractReader(contract, encoder=f"{tmp_path / 'colour.py'}:Colour", device="cpu")
    bag = reader.extract(slide, slide_id="s").bag
    assert contract.difference(bag.contract) is None
    assert bag.features.shape == (16, 9)
    assert bag.scales == ()


@pytest.mark.slow
def test_extract_at_several_scales_by_the_command_line(tmp_path: Path, slide: Path) -> None:
    (tmp_path / "colour.py").write_text(COLOUR)
    annotation = qupath(tmp_path / "q.geojson", ("Tumor", [square(0, 0, 512, 512)]), ("Ink", [square(768, 768, 1024, 1024)]))
    manifest = write_manifest(tmp_path / "cohort.csv", {"a": slide}, annotation={"a": str(annotation)})
    out = tmp_path / "bags"
    command = [
        "extract", str(manifest), "--out", str(out), "--encoder", f"{tmp_path / 'colour.py'}:Colour", "--also-mpp", "2",
        "--also-mpp", "1.0", "--exclude-regions", "Ink", "--positive", "Tumor", "--device", "cpu", "--json",
    ]  # fmt: skip

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    first = run(*command)
    assert (first["done"], first["tiles"]) == (1, 15)
    bag = read_bag(out / "a.h5", verify=True)
    assert [len(level) for level in (bag, *bag.scales)] == [15, 4, 1]
    assert bag.settings["also_mpp"] == [1.0, 2.0]
    assert bag.labels is not None
    assert bag.labels.sum() == 4
    with h5py.File(out / "a.h5") as file:
        assert file["scales/2/coords"].attrs["target_magnification"] == 5
    # Run again it is kept; at other scales it is done anew.
    assert run(*command)["skipped"] == 1
    assert run(*[part for part in command if part not in ("--also-mpp", "2", "1.0")])["done"] == 1
    assert read_bag(out / "a.h5").scales == ()
    run(*command)
    joined = tmp_path / "joined"
    assert run("bags", "join-scales", str(out), "--out", str(joined), "--json")["written"] == 1
    back, expected = read_bag(joined / "a.h5", verify=True), join_scales(bag)
    assert np.array_equal(back.features, expected.features)
    assert back.contract == expected.contract
    with pytest.raises(ConfigError, match=r"also_mpp 0\.75 is not 2, 3, \.\.\. times the next finer scale, 0\.5"):
        CliRunner().invoke(app, [*command, "--also-mpp", "0.75"], catch_exceptions=False)


@pytest.mark.slow
def test_train_on_joined_scales_and_predict_a_slide(tmp_path: Path) -> None:
    """A slide given as it is and its joined bag are predicted alike."""
    (tmp_path / "colour.py").write_text(COLOUR)
    encoder = f"{tmp_path / 'colour.py'}:Colour"

    def run(*arguments: object) -> None:
        done = CliRunner().invoke(app, [*map(str, arguments), "--quiet"], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    manifest, bags, joined, trained = (tmp_path / name for name in ("cohort/manifest.csv", "bags", "joined", "run"))
    run("synth", tmp_path / "cohort", "--organs", "colon", "--slides", 8, "--size", 2048)
    scales = ("--tile-size", 128, "--also-mpp", 1, "--also-mpp", 2)
    run("extract", manifest, "--out", bags, "--encoder", encoder, *scales)
    run("bags", "join-scales", bags, "--out", joined)
    few = ("--set", "trainer.epochs=1", "--set", "strategy.name=finetune")
    run("train", "--manifest", manifest, "--bags", joined, "--out", trained, *few)
    for source, out in ((tmp_path / "cohort/slides/colon-0000.tif", "slide"), (joined / "colon-0000.h5", "bag")):
        run("predict", trained, source, "--out", tmp_path / out, "--encoder", encoder)
    slide, bag = (json.loads((tmp_path / out / "colon-0000.json").read_text()) for out in ("slide", "bag"))
    assert slide["probabilities"] == pytest.approx(bag["probabilities"])
    assert slide["instances"]["coords"] == bag["instances"]["coords"]
    with pytest.raises(FeatureMismatch, match="comel bags join-scales"):
        run("predict", trained, bags / "colon-0000.h5", "--out", tmp_path / "refused")
