"""Stain normalisation: as torchstain does it to one image, but measured once a slide, recorded, and part of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from comel.bags.bag import read_bag
from comel.bags.contract import FeatureContract
from comel.base.files import sha256_of_file
from comel.cohort.bags import check_contract
from comel.errors import ConfigError, FeatureMismatch, SlideError
from pipelines.extraction.appearance import tile_appearance
from pipelines.extraction.contract import ContractReader
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from pipelines.stain.matrix import drawn_shift, restain
from pipelines.stain.normalisation import measure_staining, normaliser, read_reference
from pipelines.stain.staining import STAINS, MacenkoStaining
from pipelines.tiles.decode import decoded_batches
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import find_tissue
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import GLASS, MeanColour, read_tile, write_manifest, write_slide
from tests.places import ROOT

Method = Literal["macenko", "reinhard"]
METHODS = get_args(Method)
PURPLE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
BLUISH = np.array([[0.75, 0.60, 0.28], [0.20, 0.90, 0.38]])


def stained(vectors: np.ndarray, strength: float, height: int = 256, width: int = 256, seed: int = 0) -> np.ndarray:
    """The same tissue, (height, width, 3) uint8, in the two stains given by optical density."""
    draw = np.random.default_rng(seed)
    amounts = np.stack([draw.gamma(2, 0.35, (height, width)), draw.gamma(3, 0.25, (height, width))], axis=-1) * strength + 0.15
    pixels: np.ndarray = np.clip(np.rint(240 * np.exp(-amounts @ vectors)), 0, 255).astype(np.uint8)
    return pixels


def slide_in(path: Path, vectors: np.ndarray, strength: float) -> Path:
    """1024 x 768 px of glass with 768 x 512 px of the tissue."""
    pixels = np.full((768, 1024, 3), GLASS, np.uint8)
    pixels[128:640, 128:896] = stained(vectors, strength, 512, 768)
    return write_slide(path, pixels)


@pytest.fixture
def slides(tmp_path: Path) -> dict[str, Path]:
    return {"a": slide_in(tmp_path / "a.tif", PURPLE, 1.0), "b": slide_in(tmp_path / "b.tif", BLUISH, 0.7)}


def test_macenko_is_what_torchstain_does_to_one_image() -> None:
    image, target = stained(BLUISH, 0.7), stained(PURPLE, 1.0, seed=1)
    theirs: Any = NumpyMacenkoNormalizer()
    theirs.fit(target)
    expected, _, _ = theirs.normalize(image, stains=False)
    own = normaliser(*(measure_staining(picture.reshape(-1, 3), "macenko", "s") for picture in (image, target)))
    assert np.abs(own(image[None])[0].astype(int) - expected).max() <= 1


def test_reinhard_is_what_torchstain_does_to_one_image_without_glass() -> None:
    image, target = stained(BLUISH, 0.7), stained(PURPLE, 0.8, seed=1)
    theirs: Any = NumpyReinhardNormalizer()
    theirs.fit(target)
    expected = theirs.normalize(image).astype(int)
    own = normaliser(*(measure_staining(picture.reshape(-1, 3), "reinhard", "s") for picture in (image, target)))
    inside = ((expected > 0) & (expected < 254)).all(axis=-1)  # theirs wraps around where ours is cut off
    assert inside.mean() > 0.9
    assert np.abs(own(image[None])[0].astype(int) - expected)[inside].max() <= 3


@pytest.mark.parametrize("method", METHODS)
def test_two_stainings_of_one_tissue_come_together_and_glass_stays_glass(method: Method) -> None:
    pictures = [stained(PURPLE, 1.0), stained(BLUISH, 0.7)]
    reference = read_reference(None, method)
    done = [normaliser(measure_staining(p.reshape(-1, 3), method, "s"), reference) for p in pictures]
    before = np.abs(pictures[0].astype(float).mean((0, 1)) - pictures[1].mean((0, 1))).max()
    after = [apply(picture[None]).astype(float).mean((0, 1, 2)) for apply, picture in zip(done, pictures, strict=True)]
    assert np.abs(after[0] - after[1]).max() < 0.25 * before
    for apply in done:
        assert (apply(np.full((1, 8, 8, 3), 243, np.uint8)) >= 235).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), method=st.sampled_from(METHODS))
def test_a_tile_does_not_depend_on_its_company(seed: int, method: Method) -> None:
    tiles = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    apply = normaliser(measure_staining(stained(BLUISH, 0.7).reshape(-1, 3), method, "s"), read_reference(None, method))
    together = apply(tiles)
    assert together.dtype == np.uint8
    np.testing.assert_array_equal(together[1:2], apply(tiles[1:2]))


def test_what_has_no_two_stains_is_refused() -> None:
    glass = np.full((50_000, 3), 243, np.uint8)
    for method in METHODS:
        with pytest.raises(SlideError, match="s1: 0 stained pixels are too few") as caught:
            measure_staining(glass, method, "s1")
        assert caught.value.stage == "stain"
    grey = np.random.default_rng(0).integers(30, 180, (50_000, 1)).repeat(3, axis=1).astype(np.uint8)
    blood = np.array([[0.55, 0.62, 0.56], [0.60, 0.75, 0.25]])
    for pixels in (grey, stained(blood, 1.0).reshape(-1, 3)):
        with pytest.raises(SlideError, match="cannot be separated") as caught:
            measure_staining(pixels, "macenko", "s1")
        assert "reinhard" in caught.value.remedy


def test_a_reference_is_known_by_its_content(tmp_path: Path) -> None:
    image = tmp_path / "reference.png"
    Image.fromarray(stained(PURPLE, 1.0)).save(image)
    chosen = ExtractSettings(stain_normalisation="macenko", stain_reference=image)
    assert isinstance(chosen.stain_reference, MacenkoStaining)
    assert chosen.stain_reference.image == sha256_of_file(image)
    again = ExtractSettings.model_validate(json.loads(chosen.model_dump_json()))
    assert again == chosen
    assert ExtractSettings(stain_normalisation="macenko").stain_reference != chosen.stain_reference
    assert ExtractSettings().stain_reference is None


def test_references_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (300, 300), (243, 243, 243)).save(tmp_path / "glass.png")
    for name, said in (("text.png", "neither"), ("glass.png", "0 stained pixels"), ("missing.png", "cannot be read")):
        with pytest.raises(ConfigError, match=f"stain reference.*{name}") as caught:
            ExtractSettings(stain_normalisation="reinhard", stain_reference=tmp_path / name)
        assert said in str(caught.value) or name == "missing.png"
        assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError, match="needs stain_normalisation"):
        ExtractSettings(stain_reference=tmp_path / "text.png")
    macenko = ExtractSettings(stain_normalisation="macenko").stain_reference
    with pytest.raises(ValidationError, match="measured for macenko"):
        ExtractSettings(stain_normalisation="reinhard", stain_reference=macenko)


def test_staining_is_measured_on_the_pixels_that_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a coarser level that is no whole number of times as coarse, where a read of OpenSlide's own begins elsewhere."""
    path = write_slide(tmp_path / "s.tif", stained(PURPLE, 1.0, 1501, 2303), levels=2)
    seen: list[np.ndarray] = []

    def look(pixels: np.ndarray, method: Method, where: str) -> Any:
        seen.append(pixels)
        return measure_staining(pixels, method, where)

    monkeypatch.setattr("pipelines.extraction.appearance.measure_staining", look)
    with open_slide(path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=64, target_mpp=1.0)
        assert plan.level == 1
        assert len(plan.coords) > 32
        tile_appearance(slide, plan, ExtractSettings(tile_size=64, stain_normalisation="macenko"), "s")
        encoded = np.concatenate(list(decoded_batches(slide, plan, 32)))
        shifted = np.stack([read_tile(slide, plan, index) for index in range(len(plan.coords))])
    [pixels] = seen
    chosen = [round(place * (len(encoded) - 1) / 31) for place in range(32)]
    assert np.array_equal(pixels, encoded[chosen].reshape(-1, 3))
    assert not np.array_equal(pixels, shifted[chosen].reshape(-1, 3))


@pytest.mark.parametrize("method", METHODS)
def test_a_cohort_comes_together_and_says_so(
    slides: dict[str, Path], tmp_path: Path, encoder: MeanColour, method: Method
) -> None:
    manifest = write_manifest(tmp_path / "m.csv", slides)
    apart = {}
    for chosen in ("none", method):
        how = ExtractSettings(tile_size=128, stain_normalisation=chosen)
        assert extract_cohort(manifest, tmp_path / chosen, how, encoder=encoder).done == 2
        bags = {name: read_bag(tmp_path / chosen / f"{name}.h5", verify=True) for name in slides}
        apart[chosen] = np.abs(bags["a"].features.astype(float).mean(0) - bags["b"].features.mean(0)).max()
        assert bags["a"].settings["stain_normalisation"] == chosen
    assert apart[method] < 0.3 * apart["none"]
    assert bags["a"].settings["stain_reference"] == how.model_dump(mode="json")["stain_reference"]
    assert extract_cohort(manifest, tmp_path / method, how, encoder=encoder).skipped == 2
    other = read_bag(tmp_path / "none" / "a.h5")
    with pytest.raises(FeatureMismatch, match=f"stain normalisation none instead of {method}"):
        check_contract(bags["a"].contract, other, "a.h5")


def test_a_slide_whose_staining_cannot_be_measured_is_the_only_one_that_fails(
    slides: dict[str, Path], tmp_path: Path, encoder: MeanColour
) -> None:
    tiny = np.full((256, 256, 3), GLASS, np.uint8)
    tiny[64:158, 64:158] = stained(PURPLE, 1.0, 94, 94)
    manifest = write_manifest(tmp_path / "m.csv", {**slides, "tiny": write_slide(tmp_path / "tiny.tif", tiny)})
    how = ExtractSettings(tile_size=64, stain_normalisation="macenko", min_tissue=0)
    report = extract_cohort(manifest, tmp_path / "out", how, encoder=encoder)
    assert (report.done, report.failed) == (2, 1)
    assert (report.failures[0].slide, report.failures[0].stage) == ("tiny", "stain")
    assert "too few" in report.failures[0].reason


def test_a_model_reads_a_slide_as_it_was_extracted(
    slides: dict[str, Path], encoder: MeanColour, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ExtractSettings(
        encoder="mean-colour", tile_size=128, overlap=32, min_tissue=0.6, stain_normalisation="reinhard", dtype="float32"
    )
    bag = extract_slide(slides["a"], slide_id="a", encoder=encoder, settings=how).bag
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: encoder)
    stored = FeatureContract(**json.loads(json.dumps(bag.contract.__dict__)))  # as model.json keeps it
    read = ContractReader(stored).extract(slides["a"], slide_id="a").bag
    np.testing.assert_array_equal(read.features, bag.features)
    np.testing.assert_array_equal(read.coords, bag.coords)
    assert read.contract == bag.contract
    plain = ContractReader(FeatureContract("mean-colour", "0" * 64, 12, 0.5, 128)).extract(slides["a"], slide_id="a").bag
    assert len(plain) != len(bag)


def test_a_contract_of_a_method_that_is_not_known_here(slides: dict[str, Path]) -> None:
    contract = FeatureContract("mean-colour", None, 12, 0.5, 128, reading={"stain_normalisation": "vahadane"})
    with pytest.raises(FeatureMismatch, match="cannot be read as the model's were: stain_normalisation"):
        ContractReader(contract).extract(slides["a"], slide_id="a")


def test_the_random_shift_is_the_slides_own(slides: dict[str, Path]) -> None:
    drawn = {drawn_shift(f"slide-{number}") for number in range(40)}
    assert len(drawn) == 40
    assert {stain for stain, _, _ in drawn} <= set(STAINS[1:])
    assert drawn_shift("slide-1") == drawn_shift("slide-1")
    how = ExtractSettings(tile_size=128, stain="random")
    tiles = stained(PURPLE, 1.0, 128, 128)[None]
    with open_slide(slides["a"]) as slide:
        plan = plan_tiles(slide, find_tissue(slide, "hsv-otsu"), tile_size=128, target_mpp=0.5)
        seen = [tile_appearance(slide, plan, how, name)(tiles) for name in ("x", "x", "y")]
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], restain(tiles, *drawn_shift("x")))
    assert np.abs(seen[0].astype(int) - seen[2]).max() > 2


def test_one_slide_extracted_again_as_if_from_elsewhere(slides: dict[str, Path], tmp_path: Path, encoder: MeanColour) -> None:
    """Rows of one path under several names: other colours, the same tiles, and bags that may be mixed."""
    manifest = write_manifest(tmp_path / "m.csv", {"a": slides["a"], "a-2": slides["a"]})
    extract_cohort(manifest, tmp_path / "random", ExtractSettings(tile_size=128, stain="random"), encoder=encoder)
    extract_cohort(manifest, tmp_path / "plain", ExtractSettings(tile_size=128), encoder=encoder)
    first, second = (read_bag(tmp_path / "random" / f"{name}.h5") for name in ("a", "a-2"))
    scanned = read_bag(tmp_path / "plain" / "a.h5")
    np.testing.assert_array_equal(first.coords, second.coords)
    assert np.abs(first.features - second.features).max() > 0.01
    for bag in (first, second):
        assert scanned.contract.difference(bag.contract) is None
        assert "stain" not in bag.contract.reading


def test_real_slides_come_together(real_slide: Callable[[str], Path], encoder: MeanColour) -> None:
    """Two scanners' Aperio slides, one purple and one red: their tiles' mean colours, before and after."""
    colours: dict[str, list[np.ndarray]] = {"none": [], "macenko": [], "reinhard": []}
    for name, assumed in (("CMU-1-Small-Region.svs", None), ("TCGA-CR-7395-01A-01-TS1.svs", 0.5)):
        for chosen, found in colours.items():
            how = ExtractSettings(target_mpp=2.0, stain_normalisation=chosen, assume_mpp=assumed, tile_size=128)
            found.append(extract_slide(real_slide(name), slide_id=name, encoder=encoder, settings=how).bag.features.mean(0))
    apart = {chosen: np.abs(found[0].astype(float) - found[1]).max() for chosen, found in colours.items()}
    assert apart["macenko"] < apart["none"]
    assert apart["reinhard"] < apart["none"]


def test_no_other_file_imports_torchstain() -> None:
    root = ROOT
    found = [
        str(path.relative_to(root))
        for folder in ("comel", "pipelines", "service")
        for path in sorted((root / folder).rglob("*.py"))
        if "torchstain" in path.read_text(encoding="utf-8")
    ]
    assert found == ["pipelines/stain/normalisation.py"]
