"""Maps lie where the tiles lie, mean the same on every slide, and stay small."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comel.bags.bag import TileGeometry
from comel.errors import ComelError
from comel.prediction.geojson import to_geojson
from comel.prediction.picture import MAX_MAP_PIXELS, MAX_MAP_SIDE, draw_map, map_size
from comel.prediction.prediction import Prediction
from comel.prediction.raster import sample_raster, score_raster


def prediction_at(coords: Any, scores: Any, geometry: TileGeometry | None, threshold: float = 0.5) -> Prediction:
    return Prediction(
        slide_id="slide-1",
        mode="class-incremental",
        task="breast",
        label="tumour",
        classes=("breast/normal", "breast/tumour"),
        probabilities=np.array([0.1, 0.9]),
        instance_scores=np.asarray(scores, np.float32),
        threshold=threshold,
        positive=True,
        coords=None if coords is None else np.asarray(coords).reshape(-1, 2),
        geometry=geometry,
    )


def geometry_of(width: int, height: int, *, level0_mpp: float = 0.25, patch: int = 64, **more: Any) -> TileGeometry:
    return TileGeometry(patch, 0.5, 0.5, level0_mpp, level0_mpp, width, height, **more)


def grid(geometry: TileGeometry, columns: int, rows: int, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Tiles in row-major order, each corner rounded by itself from the float stride."""
    y, x = np.mgrid[:rows, :columns]
    x, y = offset[0] + x.ravel() * geometry.stride_x, offset[1] + y.ravel() * geometry.stride_y
    coords: np.ndarray = np.rint(np.stack([x, y], axis=1)).astype(np.int64)
    return coords


@st.composite
def placed_tiles(draw: st.DrawFn) -> tuple[Prediction, int]:
    level0_mpp = draw(st.floats(0.11, 1.05))
    columns, rows = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    geometry = geometry_of(1, 1, level0_mpp=level0_mpp, patch=draw(st.integers(32, 300)))
    offset = (draw(st.floats(0, 5000)), draw(st.floats(0, 5000)))
    size = [
        int(np.ceil(o + n * s)) + 1
        for o, n, s in zip(offset, (columns, rows), (geometry.stride_x, geometry.stride_y), strict=True)
    ]
    geometry = dataclasses.replace(geometry, level0_width=size[0], level0_height=size[1])
    coords = grid(geometry, columns, rows, offset)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = np.flatnonzero(random.random(len(coords)) < 0.6)
    kept = kept if len(kept) else np.arange(1)
    scores = random.random(len(kept)).astype(np.float32)
    smallest_tile = min(geometry.tile_width, geometry.tile_height)
    width = max(256, int(np.ceil(2 * max(size) / smallest_tile)))
    return prediction_at(coords[kept], scores, geometry), width


@given(placed_tiles())
@settings(max_examples=60, deadline=None)
def test_every_tile_centre_is_a_pixel_with_its_score(case: tuple[Prediction, int]) -> None:
    prediction, width = case
    geometry, coords = prediction.geometry, prediction.coords
    assert geometry is not None
    assert coords is not None
    size = (width, max(1, round(width * geometry.level0_height / geometry.level0_width)))
    raster, transform = score_raster(prediction)
    assert np.isfinite(raster).sum() == len(coords)
    extent = (0.0, 0.0, geometry.level0_width, geometry.level0_height)
    if min(geometry.level0_height / size[1], geometry.level0_width / size[0]) > 0.5 * geometry.tile_width:
        return
    sampled = sample_raster(raster, transform, size, extent)
    x = (coords[:, 0] + geometry.tile_width / 2) * size[0] / geometry.level0_width
    y = (coords[:, 1] + geometry.tile_height / 2) * size[1] / geometry.level0_height
    pixels = sampled[np.minimum(y.astype(int), size[1] - 1), np.minimum(x.astype(int), size[0] - 1)]
    np.testing.assert_array_equal(pixels, prediction.instance_scores)


@pytest.mark.parametrize("has_bounds", [False, True])
def test_a_known_square_is_drawn_where_it_lies(has_bounds: bool) -> None:
    geometry = geometry_of(20_000, 16_000, level0_mpp=0.2527, has_bounds=has_bounds, bounds_x=900, bounds_y=700)
    coords = grid(geometry, 120, 100, (1003.4, 811.8))
    (left, top), side = coords[30 * 120 + 40], 20
    inside = (coords[:, 0] >= left) & (coords[:, 0] < left + side * geometry.stride_x - 5)
    inside &= (coords[:, 1] >= top) & (coords[:, 1] < top + side * geometry.stride_y - 5)
    picture = np.asarray(draw_map(prediction_at(coords, inside, geometry), Image.new("RGB", (500, 400), "white"), alpha=1.0))
    drawn = (picture[:819] != 255).any(axis=2)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    scale = 1024 / 20_000
    expected = [left * scale, (left + side * geometry.stride_x) * scale, top * scale, (top + side * geometry.stride_y) * scale]
    np.testing.assert_allclose([columns[0], columns[-1] + 1, rows[0], rows[-1] + 1], expected, atol=1.0)


def test_overlapping_tiles_are_averaged() -> None:
    geometry = geometry_of(1000, 1000, overlap=32)
    coords = grid(geometry, 3, 1)
    raster, transform = score_raster(prediction_at(coords, [0.0, 1.0, 0.5], geometry))
    np.testing.assert_allclose(raster, [[0.0, 0.5, 0.75, 0.5]] * 2)
    assert (transform.cell_width, transform.cell_height) == (64.0, 64.0)


def test_tiles_of_two_grids_keep_their_places() -> None:
    geometry = geometry_of(10_000, 2_000)
    coords = np.concatenate([grid(geometry, 10, 10), grid(geometry, 10, 10, (5_000 + 60, 61))])
    scores = np.linspace(0.0, 1.0, 200)
    raster, transform = score_raster(prediction_at(coords, scores, geometry))
    centre = coords + 64
    np.testing.assert_array_equal(
        raster[transform.rows(centre[:, 1]), transform.columns(centre[:, 0])], scores.astype(np.float32)
    )
    sampled = sample_raster(raster, transform, (10_000, 1), (0, 300, 10_000, 1))
    edge = np.flatnonzero(np.isfinite(sampled[0, 2000:]))[0] + 2000
    assert abs(edge - 5_060) <= geometry.stride_x / 8


def test_a_lone_tile_smaller_than_a_pixel_stays_visible() -> None:
    geometry = geometry_of(128 * 3000, 128 * 3000)
    coords = grid(geometry, 3000, 30)
    scores = np.zeros(len(coords))
    scores[10 * 3000 + 1501] = 1.0
    prediction = prediction_at(coords, scores, geometry)
    sampled = sample_raster(*score_raster(prediction), (512, 512), (0, 0, 128 * 3000, 128 * 3000))
    assert np.nanmax(sampled) == 1.0


def test_without_geometry_the_coordinates_give_the_spacing() -> None:
    geometry = geometry_of(20_000, 20_000, level0_mpp=0.2527)
    coords = grid(geometry, 60, 40, (300.3, 400.7))
    keep = np.random.default_rng(0).random(len(coords)) < 0.7
    scores = np.random.default_rng(1).random(int(keep.sum()))
    placed, own = prediction_at(coords[keep], scores, geometry), prediction_at(coords[keep], scores, None)
    np.testing.assert_array_equal(score_raster(placed)[0], score_raster(own)[0])
    assert draw_map(own, Image.new("RGB", (50, 10))).width == 1024
    with pytest.raises(ComelError, match="cannot be placed"):
        to_geojson(own)


def test_one_tile_and_no_tile() -> None:
    geometry = geometry_of(3000, 2000)
    raster, transform = score_raster(prediction_at([[700, 900]], [0.8], geometry))
    assert raster.tolist() == [[np.float32(0.8)]]
    assert (transform.origin_x, transform.origin_y) == (700, 900)
    assert draw_map(prediction_at([[700, 900]], [0.8], None), None).width == 1024
    nothing = Prediction.nothing("s", mode="class-incremental", classes=(), threshold=0.5, model={}, geometry=geometry)
    assert score_raster(nothing)[0].shape == (0, 0)
    thumbnail = Image.new("RGB", (300, 200), (200, 100, 50))
    assert np.asarray(draw_map(nothing, thumbnail))[:600].reshape(-1, 3).max(axis=0).tolist() == [200, 100, 50]
    assert to_geojson(nothing)["features"] == to_geojson(nothing, merge=True)["features"] == []


def test_a_slide_without_evidence_does_not_light_up() -> None:
    geometry = geometry_of(6400, 6400)
    coords = grid(geometry, 40, 40)
    tissue = Image.new("RGB", (400, 400), (220, 160, 200))
    scores = np.random.default_rng(0).random(1600)
    quiet, loud = (
        np.asarray(draw_map(prediction_at(coords, scores * top, geometry), tissue), int)[:1024] for top in (0.05, 1.0)
    )
    ground = np.array([220, 160, 200])
    assert np.abs(quiet - ground).max() <= 10
    assert np.abs(loud - ground).max() > 80


def test_equal_scores_look_equal_on_every_slide() -> None:
    geometry, tissue = geometry_of(6400, 6400), Image.new("RGB", (400, 400), (220, 160, 200))
    coords = grid(geometry, 20, 20)
    centre = round((coords[0, 0] + 64) * 1024 / 6400)
    pictures = [np.asarray(draw_map(prediction_at(coords, [0.4, *[rest] * 399], geometry), tissue)) for rest in (0.0, 0.9)]
    assert (pictures[0][centre, centre] == pictures[1][centre, centre]).all()


def test_a_hundred_thousand_tiles_take_little_memory() -> None:
    geometry = geometry_of(128 * 330, 128 * 330)
    coords = grid(geometry, 320, 320)
    prediction = prediction_at(coords, np.random.default_rng(0).random(len(coords)), geometry)
    thumbnail = Image.new("RGB", (1024, 1024))
    draw_map(prediction, thumbnail, width=256)
    tracemalloc.start()
    draw_map(prediction, thumbnail)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"threshold": -0.1}, "threshold"),
        ({"width": 10}, "no room"),
        ({"colormap": "infrno"}, "not known"),
        ({"thumbnail": Image.new("RGB", (100, 300))}, "thumbnail"),
    ],
)
def test_what_a_user_can_get_wrong_is_said(arguments: dict[str, Any], said: str) -> None:
    prediction = prediction_at([[0, 0]], [0.5], geometry_of(3000, 2000))
    with pytest.raises(ComelError, match=said):
        draw_map(prediction, **{"thumbnail": None, **arguments})


def test_hostile_coordinates_are_refused_before_memory() -> None:
    far = prediction_at([[0, 0], [10**15, 10**15]], [0.5, 0.6], geometry_of(3000, 2000))
    for work in (score_raster, lambda p: to_geojson(p, merge=True)):
        with pytest.raises(ComelError, match="spread over"):
            work(far)
    with pytest.raises(ComelError, match="no usable coordinates"):
        score_raster(prediction_at(None, [0.5], None))


@pytest.mark.parametrize(
    ("has_bounds", "origin", "first"), [(True, "bounds", 100), (True, "level0", 600), (False, "bounds", 600)]
)
def test_geojson_counts_from_where_qupath_does(has_bounds: bool, origin: Any, first: int) -> None:
    geometry = geometry_of(3000, 2000, has_bounds=has_bounds, bounds_x=500, bounds_y=500)
    for merge in (False, True):
        features = to_geojson(prediction_at([[600, 600]], [0.9], geometry), origin=origin, merge=merge)["features"]
        ring = features[0]["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        assert shapely.Polygon(ring).equals(shapely.box(first, first, first + 128, first + 128))


def test_geojson_tiles_carry_score_and_class() -> None:
    coords = [[0, 0], [128, 0], [256, 0]]
    prediction = prediction_at(coords, [0.2, 0.5, 0.9], geometry_of(3000, 2000))
    assert len(to_geojson(prediction)["features"]) == 2
    collection = json.loads(json.dumps(to_geojson(prediction, minimum_score=0.0), allow_nan=False))
    properties = [feature["properties"] for feature in collection["features"]]
    assert [entry["measurements"]["score"] for entry in properties] == [0.2, 0.5, 0.9]
    assert [entry["classification"]["name"] for entry in properties] == ["below threshold", "tumour", "tumour"]
    assert {entry["objectType"] for entry in properties} == {"tile"}
    for wrong in ({"minimum_score": 2.0}, {"origin": "corner"}):
        with pytest.raises(ComelError):
            to_geojson(prediction, **wrong)


def test_merged_regions_have_holes_and_account_for_every_tile() -> None:
    geometry = geometry_of(60_000, 60_000, level0_mpp=0.2527)
    coords = grid(geometry, 30, 30, (400.4, 200.2))
    scores = np.zeros((30, 30))
    scores[2:9, 2:9] = 0.9
    scores[5, 5] = 0.1
    scores[20, 20:24] = 0.7
    features = to_geojson(prediction_at(coords, scores.ravel(), geometry), merge=True)["features"]
    by_size = sorted(features, key=lambda feature: feature["properties"]["measurements"]["tiles"])
    assert [feature["properties"]["measurements"]["tiles"] for feature in by_size] == [4, 48]
    assert [len(feature["geometry"]["coordinates"]) for feature in by_size] == [1, 2]
    area = by_size[1]["properties"]["measurements"]["area mm^2"]
    assert area == pytest.approx(48 * (64 * 0.5e-3) ** 2, rel=1e-4)
    region = shapely.Polygon(*[by_size[1]["geometry"]["coordinates"][0]], [by_size[1]["geometry"]["coordinates"][1]])
    assert region.area * (0.2527e-3) ** 2 == pytest.approx(area, rel=1e-4)


@pytest.mark.parametrize(("columns", "rows"), [(10, 240), (1, 400), (1, 20_000), (400, 1), (20_000, 1), (1, 1)])
@pytest.mark.parametrize("width", [256, 1024, 100_000])
def test_a_slide_of_any_shape_has_a_map_as_large_as_fits(columns: int, rows: int, width: int) -> None:
    geometry = geometry_of(columns * 128, rows * 128)
    prediction = prediction_at(grid(geometry, columns, rows), np.linspace(0, 1, columns * rows), geometry)
    across, down = map_size(prediction, width)
    assert across <= width
    assert across * down <= MAX_MAP_PIXELS * 1.01
    assert down <= MAX_MAP_SIDE
    if across < width:  # the next larger one would not fit
        assert max(across + 2, (across + 2) * rows / columns) > MAX_MAP_SIDE or (
            (across + 2) ** 2 * rows / columns > MAX_MAP_PIXELS
        )
    assert abs(down - across * rows / columns) <= max(1, rows / columns)
    assert to_geojson(prediction)["features"] or columns * rows == 1


def test_a_shrunk_map_has_its_caption_and_says_so() -> None:
    geometry = geometry_of(128, 128 * 400)
    prediction = prediction_at(grid(geometry, 1, 400), np.linspace(0, 1, 400), geometry)
    picture = draw_map(prediction, None, width=1024)
    assert (picture.width, map_size(prediction, 1024)) == (256, (75, 30_000))
    assert 30_000 < picture.height < 30_200
    small = draw_map(prediction, Image.new("RGB", (3, 1200)), width=256, tallest=400)
    assert small.height < 600


def test_among_equal_scores_nothing_is_marked() -> None:
    geometry = geometry_of(2048, 2048)
    equal = prediction_at(grid(geometry, 8, 8), np.full(64, 0.5), geometry)
    assert equal.positive_instances == 0
    assert equal.equal_scores
    assert to_geojson(equal)["features"] == to_geojson(equal, merge=True)["features"] == []
    assert len(to_geojson(equal, minimum_score=0)["features"]) == 64
    marked, plain = (np.asarray(draw_map(equal, None, threshold=threshold)) for threshold in (0.0, 0.5))
    assert (marked[:1024] == (20, 20, 24)).all(axis=-1).any()
    assert not (plain[:1024] == (20, 20, 24)).all(axis=-1).any()
