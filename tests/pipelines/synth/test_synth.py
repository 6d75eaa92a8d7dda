"""The synthetic cohort: the same by seed, honest, readable by OpenSlide, and resumable."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from comel.errors import ComelError, ConfigError
from pipelines.synth.cohort import _splits, generate_cohort
from pipelines.synth.fields import tissue_field, tumour_region
from pipelines.synth.render import render_slide
from pipelines.synth.settings import ORGANS, SynthSettings

TINY = SynthSettings(seed=7, organs=("colon", "liver"), slides_per_organ=4, size=512)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny cohort; tests only read it."""
    return generate_cohort(tmp_path_factory.mktemp("cohort"), settings=TINY)


def _rows(manifest: Path) -> list[dict[str, str]]:
    with open(manifest, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _pixels(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_same_seed_gives_same_pixels_however_many_are_asked(cohort: Path, tmp_path: Path) -> None:
    fewer = generate_cohort(tmp_path, settings=TINY.model_copy(update={"organs": ("liver",), "slides_per_organ": 2}))
    for row in _rows(fewer):
        np.testing.assert_array_equal(_pixels(tmp_path / row["path"]), _pixels(cohort.parent / row["path"]))
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / row["annotation"])), np.asarray(Image.open(cohort.parent / row["annotation"]))
        )


@pytest.mark.parametrize("organ", ORGANS)
def test_seeds_and_indices_differ_and_slides_look_stained(organ: str) -> None:
    first = render_slide(TINY, organ, 1)
    again = render_slide(TINY, organ, 1)
    other_seed = render_slide(TINY.model_copy(update={"seed": 8}), organ, 1)
    other_index = render_slide(TINY, organ, 3)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other_seed.image).mean() > 0.2
    assert (first.image != other_index.image).mean() > 0.2
    tissue = np.kron(first.tissue, np.ones((8, 8), bool))
    background = first.image[~tissue].astype(float)
    red, green, blue = (first.image[tissue][:, channel].astype(float).mean() for channel in range(3))
    assert np.median(background) > 225
    assert green < red
    assert green < blue
    assert green < 215


def test_openslide_sees_a_pyramid_with_the_right_resolution(cohort: Path) -> None:
    for row in _rows(cohort):
        with openslide.OpenSlide(cohort.parent / row["path"]) as slide:
            assert slide.level_count >= 2
            assert slide.dimensions == (512, 512)
            assert slide.level_downsamples[1] == pytest.approx(2)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-3)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-3)


def test_levels_show_the_same_picture(cohort: Path) -> None:
    with openslide.OpenSlide(cohort.parent / _rows(cohort)[1]["path"]) as slide:
        full = np.asarray(slide.read_region((0, 0), 0, (512, 512)).convert("RGB"), float)
        half = np.asarray(slide.read_region((0, 0), 1, (256, 256)).convert("RGB"), float)
    assert np.abs(full.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3)) - half).mean() < 4


def test_masks_fit_the_slides_and_the_labels(cohort: Path) -> None:
    for row in _rows(cohort):
        with Image.open(cohort.parent / row["annotation"]) as image:
            mask = np.asarray(image)
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) <= {0, 255}
        assert bool(mask.any()) == (row["label"] == "tumour")


@pytest.mark.parametrize("organ", ORGANS)
def test_tumour_covers_the_share_of_tissue_that_was_asked(organ: str) -> None:
    low, high = 0.1, 0.2
    for index in (1, 3):
        slide = render_slide(TINY.model_copy(update={"tumour_fraction": (low, high)}), organ, index)
        assert not (slide.tumour & ~slide.tissue).any()
        assert low - 0.01 <= slide.tumour.sum() / slide.tissue.sum() <= high + 0.01


@given(seed=st.integers(0, 2**32), fraction=st.floats(0.01, 0.9))
@hypothesis_settings(max_examples=25, deadline=None)
def test_region_is_inside_the_tissue_and_of_the_asked_size(seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    tissue = tissue_field(rng, 512) > 0
    assert 0.2 < tissue.mean() < 0.9
    region = tumour_region(rng, tissue, fraction)
    assert not (region & ~tissue).any()
    assert region.sum() == pytest.approx(fraction * tissue.sum(), abs=2)


def test_manifest_has_its_columns_and_splits_are_patient_disjoint(tmp_path: Path, cohort: Path) -> None:
    rows = _rows(cohort)
    assert list(rows[0]) == ["slide_id", "path", "label", "task", "patient_id", "split", "annotation"]
    assert [row["task"] for row in rows] == ["colon"] * 4 + ["liver"] * 4
    assert len({row["slide_id"] for row in rows}) == len(rows)
    for row in rows:
        assert (cohort.parent / row["path"]).is_file()
        assert not Path(row["path"]).is_absolute()
    for patient in {row["patient_id"] for row in rows}:
        assert len({row["split"] for row in rows if row["patient_id"] == patient}) == 1


@given(patients=st.integers(3, 400))
def test_splits_are_all_there_and_near_their_shares(patients: int) -> None:
    splits = _splits(patients)
    assert len(splits) == patients
    for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        assert splits.count(name) >= 1
        assert abs(splits.count(name) - share * patients) <= 1


def test_it_says_that_it_is_synthetic(cohort: Path) -> None:
    notice = (cohort.parent / "SYNTHETIC.txt").read_text(encoding="utf-8")
    assert "computer-generated" in notice
    assert "Not for diagnosis" in notice
    with openslide.OpenSlide(cohort.parent / _rows(cohort)[0]["path"]) as slide:
        assert "computer-generated" in slide.properties["tiff.ImageDescription"]


def test_rerun_keeps_whole_slides_and_redoes_damaged_ones(tmp_path: Path) -> None:
    settings = SynthSettings(seed=3, organs=("kidney",), slides_per_organ=4, size=256)
    seen: list[tuple[int, int, str]] = []
    rows = _rows(generate_cohort(tmp_path, settings=settings, progress=lambda *report: seen.append(report)))
    assert [report[:2] for report in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    slides = [tmp_path / row["path"] for row in rows]
    before = [slide.stat().st_mtime_ns for slide in slides]
    whole = slides[1].read_bytes()
    slides[1].write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / rows[2]["annotation"]).unlink()
    generate_cohort(tmp_path, settings=settings)
    after = [slide.stat().st_mtime_ns for slide in slides]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False, True]
    assert slides[1].read_bytes() == whole
    assert (tmp_path / rows[2]["annotation"]).is_file()

    generate_cohort(tmp_path, settings=settings.model_copy(update={"seed": 4}))
    assert all(slide.stat().st_mtime_ns != old for slide, old in zip(slides, after, strict=True))
    assert not list(tmp_path.rglob(".partial-*"))


def test_finer_resolution_is_written_and_drawn(tmp_path: Path) -> None:
    manifest = generate_cohort(tmp_path, settings=SynthSettings(organs=("lymph_node",), slides_per_organ=2, size=512, mpp=0.25))
    with openslide.OpenSlide(tmp_path / _rows(manifest)[1]["path"]) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-3)


def test_wrong_settings_are_one_line_errors() -> None:
    with pytest.raises(ConfigError, match=r"'kidny' cannot be drawn; did you mean 'kidney'\?"):
        SynthSettings(organs=("kidny",))
    with pytest.raises(ConfigError, match="names one twice"):
        SynthSettings(organs=("colon", "colon"))
    with pytest.raises(ConfigError, match="give the smaller share first"):
        SynthSettings(tumour_fraction=(0.4, 0.1))
    with pytest.raises(ValidationError):
        SynthSettings(slidesperorgan=3)  # type: ignore[call-arg]


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ComelError, match="choose a writable folder"):
        generate_cohort(tmp_path / "file" / "cohort", settings=TINY)
