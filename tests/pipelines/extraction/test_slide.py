from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from comel.bags.bag import read_bag, write_bag
from comel.errors import SlideError
from pipelines.extraction.settings import ExtractSettings, content_settings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_slide

SETTINGS = ExtractSettings(batch_size=5)


def test_bag_of_a_slide(slide_path: Path, tmp_path: Path, encoder: MeanColour) -> None:
    seen: list[tuple[str, int, int]] = []
    extracted = extract_slide(
        slide_path, slide_id="s", encoder=encoder, settings=SETTINGS, progress=lambda *stage: seen.append(stage)
    )
    bag = extracted.bag
    assert bag.features.shape == (12, 12)
    assert bag.features.dtype == np.float16
    assert np.allclose(bag.features[5].reshape(4, 3), np.array([170, 80, 160]) / 255, atol=0.01)
    assert bag.contract.mpp == 0.5
    assert bag.labels is None
    assert (bag.quality["tissue"] > 0.9).all()
    assert extracted.overlay.size[0] == 1024
    assert extracted.notes == []
    assert extracted.mpp_source == "slide"
    assert [stage for stage, *_ in seen][:3] == ["open", "tissue", "tiles"]
    assert seen[-1] == ("encode", 12, 12)
    write_bag(tmp_path / "s.h5", bag)
    assert read_bag(tmp_path / "s.h5", verify=True).contract == bag.contract


def test_slide_without_tissue_gives_an_empty_bag(tmp_path: Path, encoder: MeanColour) -> None:
    path = write_slide(tmp_path / "glass.tif", tissue_picture(800, 800))
    extracted = extract_slide(path, slide_id="glass", encoder=encoder, settings=SETTINGS)
    assert extracted.bag.features.shape == (0, 12)
    assert extracted.notes == ["no tissue found"]
    assert extracted.tissue_area_mm2 == 0
    write_bag(tmp_path / "glass.h5", extracted.bag)
    assert read_bag(tmp_path / "glass.h5", verify=True).features.shape == (0, 12)


@pytest.mark.parametrize("side", [200, 224, 255])
def test_a_slide_smaller_than_a_tile_says_so_and_nothing_of_its_tissue(tmp_path: Path, encoder: MeanColour, side: int) -> None:
    path = write_slide(tmp_path / "small.tif", tissue_picture(side, side, (0, 0, side, side)))
    settings = ExtractSettings(target_mpp=0.5, tile_size=256)
    [note] = extract_slide(path, slide_id="s", encoder=encoder, settings=settings).notes
    assert note == f"smaller than a tile: {side} x {side} px at 0.5 um/px, a tile has 256 x 256 of them: --tile-size {side}"
    fitting = ExtractSettings(target_mpp=0.5, tile_size=side)
    extracted = extract_slide(path, slide_id="s", encoder=encoder, settings=fitting)
    assert (len(extracted.bag), extracted.notes) == (1, [])


def test_enlarged_tiles_are_noted(slide_path: Path, encoder: MeanColour) -> None:
    extracted = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=SETTINGS, mpp=0.525)
    assert extracted.bag.geometry is not None
    assert extracted.bag.geometry.interpolated
    assert extracted.mpp_source == "manifest"
    assert any("enlarged" in note for note in extracted.notes)


def test_an_encoder_that_does_not_look_is_noted(slide_path: Path) -> None:
    class Blind(MeanColour):
        def encode(self, tiles: np.ndarray) -> np.ndarray:
            return np.zeros((len(tiles), self.dimension), np.float32)

    extracted = extract_slide(slide_path, slide_id="s", encoder=Blind(), settings=SETTINGS)
    assert extracted.notes == ["mean-colour gave all 12 tiles the same features"]


SQUARE = [[100, 100], [700, 100], [700, 700], [100, 700], [100, 100]]
NO_AREA = "the annotation encloses no area, so no tile is positive"
NO_TILE = "the annotation marks 25% of no tile, so none is positive; its coordinates are pixels of level 0"


def feature(kind: str, coordinates: Any, name: str = "Tumor") -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}


@pytest.mark.parametrize(
    ("features", "notes"),
    [
        ([feature("Polygon", [SQUARE])], []),
        ([], [NO_AREA]),
        ([feature("LineString", SQUARE), feature("Point", SQUARE[0])], [NO_AREA]),
        ([feature("Polygon", [[[x / 1000, y / 1000] for x, y in SQUARE]])], [NO_TILE]),
        ([feature("Polygon", [SQUARE], "Normal")], []),
    ],
    ids=["an outline", "nothing", "a line and a point", "an outline in millimetres", "normal tissue"],
)
def test_outlines_that_make_no_tile_positive_are_noted(
    features: list[dict[str, Any]], notes: list[str], slide_path: Path, tmp_path: Path, encoder: MeanColour
) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    extracted = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=SETTINGS, annotation=tmp_path / "a.geojson")
    assert extracted.notes == notes
    assert extracted.bag.labels is not None
    assert extracted.bag.labels.any() == (not notes and "Normal" not in str(features))


@pytest.mark.parametrize(("background", "marked", "notes"), [(0, 1, 0), (0, 0, 0), (1, 2, 1), (255, 255, 1)])
def test_a_mask_that_marks_everything_is_noted(
    background: int, marked: int, notes: int, slide_path: Path, tmp_path: Path, encoder: MeanColour
) -> None:
    from PIL import Image

    with open_slide(slide_path) as slide:
        width, height = slide.dimensions
    mask = np.full((height // 4, width // 4), background, np.uint8)
    mask[20:160, 20:160] = marked
    Image.fromarray(mask).save(tmp_path / "m.png")
    extracted = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=SETTINGS, annotation=tmp_path / "m.png")
    assert [note.startswith("the mask marks all of the slide") for note in extracted.notes] == [True] * notes


def test_annotation_gives_labels(slide_path: Path, tmp_path: Path, encoder: MeanColour) -> None:
    import tifffile

    mask = np.zeros((1200, 1600), np.uint8)
    mask[:512] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    extracted = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=SETTINGS, annotation=tmp_path / "mask.tif")
    assert extracted.bag.labels is not None
    assert extracted.bag.labels.tolist() == [1] * 4 + [0] * 8
    red = np.asarray(extracted.overlay).astype(int)
    assert (red[200:300, 300:700, 0] - red[200:300, 300:700, 2]).mean() > (
        red[600:640, 300:700, 0] - red[600:640, 300:700, 2]
    ).mean()


def test_a_model_reads_new_slides_with_the_same_ink_and_folds(slide_path: Path, encoder: MeanColour) -> None:
    chosen = ExtractSettings(ink=("red",), max_pen=0.1, max_fold=0.5)
    contract = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=chosen).bag.contract
    again = ExtractSettings(**contract.reading)
    assert (again.ink, again.max_pen, again.max_fold) == (("red",), 0.1, 0.5)
    # The device decides it, and another machine's may lack it.
    assert "precision" not in contract.reading


def test_batch_size_and_threads_do_not_change_features(slide_path: Path, encoder: MeanColour) -> None:
    features = [
        extract_slide(slide_path, slide_id="s", encoder=encoder, settings=ExtractSettings(batch_size=size)).bag.features
        for size in (1, 5, 64)
    ]
    assert np.array_equal(features[0], features[1])
    assert np.array_equal(features[0], features[2])


def test_encoder_failure_ends_the_decoders(slide_path: Path) -> None:
    class Broken(MeanColour):
        def encode(self, tiles: np.ndarray) -> np.ndarray:
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_slide(slide_path, slide_id="s", encoder=Broken(), settings=SETTINGS)
    assert threading.active_count() <= before


def test_features_beyond_float16_say_so(slide_path: Path) -> None:
    class Large(MeanColour):
        def encode(self, tiles: np.ndarray) -> np.ndarray:
            return super().encode(tiles) * 1e6

    with pytest.raises(SlideError, match="--dtype float32") as caught:
        extract_slide(slide_path, slide_id="s", encoder=Large(), settings=SETTINGS)
    assert caught.value.stage == "encode"
    wide = ExtractSettings(dtype="float32")
    assert extract_slide(slide_path, slide_id="s", encoder=Large(), settings=wide).bag.features.dtype == np.float32


def test_settings_refuse_what_makes_no_sense() -> None:
    for wrong in ({"tile": 256}, {"overlap": 256}, {"target_mpp": 264}, {"tissue": "otsu"}, {"min_tissue": 1.5}):
        with pytest.raises(ValidationError):
            ExtractSettings(**wrong)
    assert all(field.description for field in ExtractSettings.model_fields.values())


def test_content_settings_change_with_the_content(slide_path: Path, tmp_path: Path, encoder: MeanColour) -> None:
    base = content_settings(SETTINGS, encoder, slide=slide_path, mpp=None, annotation=None)
    same = content_settings(ExtractSettings(batch_size=9), encoder, slide=slide_path, mpp=None, annotation=None)
    assert base == same
    note = tmp_path / "note.xml"
    note.write_text("a")
    others = [
        content_settings(ExtractSettings(target_mpp=1.0), encoder, slide=slide_path, mpp=None, annotation=None),
        content_settings(SETTINGS, MeanColour(weights_hash="1" * 64), slide=slide_path, mpp=None, annotation=None),
        content_settings(SETTINGS, encoder, slide=slide_path, mpp=0.5, annotation=None),
        content_settings(SETTINGS, encoder, slide=slide_path, mpp=None, annotation=note),
    ]
    note.write_text("b")
    others.append(content_settings(SETTINGS, encoder, slide=slide_path, mpp=None, annotation=note))
    assert all(other != base for other in others)
    assert others[-1] != others[-2]
