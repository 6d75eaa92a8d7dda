from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from comel.bags.bag import TileGeometry
from comel.errors import SlideError
from pipelines.annotations import instance_labels, read_annotation
from tests.pipelines.annotation_files import Ring, asap, imagescope, qupath, square

GEOMETRY = TileGeometry(100, 0.5, 0.5, 0.5, 0.5, level0_width=1000, level0_height=800)
COORDS = np.array([(x, y) for y in range(0, 800, 100) for x in range(0, 1000, 100)])


def positives(
    path: Path, geometry: TileGeometry = GEOMETRY, overlap: float = 0.25, classes: tuple[str, ...] = ()
) -> set[tuple[int, int]]:
    annotation = read_annotation(path, geometry)
    labels = instance_labels(annotation, COORDS, geometry, positive_overlap=overlap, classes=classes)
    assert labels.dtype == np.int8
    assert labels.shape == (len(COORDS),)
    return {(int(x), int(y)) for x, y in COORDS[labels == 1]}


@pytest.mark.parametrize("hole", ["_2", "Exclusion", "None", "normal"])
def test_asap_with_a_hole(tmp_path: Path, hole: str) -> None:
    path = asap(tmp_path / "a.xml", ("Tumor", square(100, 100, 400, 400)), (hole, square(200, 200, 300, 300)))
    ring = {(x, y) for x in (100, 200, 300) for y in (100, 200, 300)} - {(200, 200)}
    assert positives(path) == ring


def test_share_of_area_decides(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("_0", square(0, 0, 25, 100)), ("_1", square(100, 0, 124, 100)))
    assert positives(path) == {(0, 0)}
    assert positives(path, overlap=0.24) == {(0, 0), (100, 0)}


def test_polygon_that_crosses_itself_counts(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("_0", [(0, 0), (200, 200), (200, 0), (0, 200)]))
    assert positives(path) == {(0, 0), (100, 0), (0, 100), (100, 100)}


def test_imagescope_regions_of_all_layers_less_the_negative_ones(tmp_path: Path) -> None:
    path = imagescope(
        tmp_path / "a.xml",
        ("", [('Type="0" NegativeROA="0"', square(100, 100, 400, 400)), ('NegativeROA="1"', square(200, 200, 300, 300))]),
        ('Name="viable"', [('Type="1"', square(600, 0, 700, 100))]),
        ('Name="Normal"', [('Type="0"', square(300, 300, 400, 400))]),
    )
    ring = {(x, y) for x in (100, 200, 300) for y in (100, 200, 300)} - {(200, 200), (300, 300)}
    assert positives(path) == ring | {(600, 0)}


def test_imagescope_layer_may_be_named_by_its_description(tmp_path: Path) -> None:
    path = imagescope(tmp_path / "a.xml", ("", [("", square(0, 0, 100, 100))]), ("", [("", square(300, 0, 400, 100))]))
    named = '<Attributes><Attribute Name="Description" Value="Ignore"/></Attributes>'
    path.write_text(path.read_text().replace("<Attributes/>", named, 1))
    assert positives(path) == {(300, 0)}


def test_imagescope_arrow_and_ruler_have_no_area(tmp_path: Path) -> None:
    path = imagescope(
        tmp_path / "a.xml",
        ("", [('Type="3"', [(0, 0), (500, 500)]), ('Type="4"', [(0, 0), (900, 0)]), ("", square(0, 0, 100, 100))]),
    )
    assert positives(path) == {(0, 0)}


@pytest.mark.parametrize(
    "points", [[(100, 200), (500, 400)], square(100, 200, 500, 400), [(100, 300), (300, 200), (500, 300), (300, 400)]]
)
def test_imagescope_ellipse_fills_its_box(tmp_path: Path, points: list[tuple[float, float]]) -> None:
    """Share of each tile inside the ellipse by counting points of a fine lattice."""
    path = imagescope(tmp_path / "a.xml", ("", [('Type="2"', points)]))
    x, y = (
        COORDS[:, i, None, None] + offset for i, offset in enumerate(np.meshgrid(np.arange(100) + 0.5, np.arange(100) + 0.5))
    )
    share = (((x - 300) / 200) ** 2 + ((y - 300) / 100) ** 2 <= 1).mean(axis=(1, 2))
    for overlap in (0.1, 0.5, 0.9):
        assert positives(path, overlap=overlap) == {(int(x), int(y)) for x, y in COORDS[share >= overlap]}


def test_qupath_hole_ignored_class_and_skipped_class(tmp_path: Path) -> None:
    path = qupath(
        tmp_path / "q.geojson",
        ("Tumor", [square(0, 0, 300, 300), square(100, 100, 200, 200)]),
        ("Ignore*", [square(0, 0, 100, 100)]),
        ("Region*", [square(0, 0, 1000, 800)]),
    )
    assert positives(path) == {(x, y) for x in (0, 100, 200) for y in (0, 100, 200)} - {(100, 100), (0, 0)}


def test_qupath_coordinates_start_at_the_bounds(tmp_path: Path) -> None:
    path = qupath(tmp_path / "q.geojson", ("Tumor", [square(0, 0, 100, 100)]))
    bounded = dataclasses.replace(GEOMETRY, has_bounds=True, bounds_x=200, bounds_y=300)
    assert positives(path, bounded) == {(200, 300)}
    assert positives(asap(tmp_path / "a.xml", ("_0", square(0, 0, 100, 100))), bounded) == {(0, 0)}


def test_qupath_single_feature_and_list(tmp_path: Path) -> None:
    collection = json.loads(qupath(tmp_path / "q.geojson", ("Tumor", [square(0, 0, 100, 100)])).read_text())
    for content in (collection["features"], collection["features"][0]):
        (tmp_path / "one.json").write_text(json.dumps(content))
        assert positives(tmp_path / "one.json") == {(0, 0)}


@pytest.mark.parametrize("scale", [1, 4, 7.3])
@pytest.mark.parametrize("kind", ["L.png", "RGBA.png", "1.png", "P.png", "tif"])
def test_mask_image_at_any_scale(tmp_path: Path, scale: float, kind: str) -> None:
    height, width = round(800 / scale), round(1000 / scale)
    mask = np.zeros((height, width), np.uint8)
    mask[round(200 / scale) : round(400 / scale), round(300 / scale) : round(500 / scale)] = 1
    path = tmp_path / f"mask.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, mask)
    elif kind == "RGBA.png":
        Image.fromarray(np.dstack([mask * 255, mask, mask, np.full_like(mask, 255)]), "RGBA").save(path)
    elif kind == "P.png":
        image = Image.fromarray(mask, "P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(path)
    else:
        Image.fromarray(mask * 255).convert(kind[0]).save(path)
    assert positives(path, overlap=0.5) == {(300, 200), (400, 200), (300, 300), (400, 300)}


def test_transparent_pixels_of_a_mask_do_not_count(tmp_path: Path) -> None:
    Image.new("RGBA", (100, 80), (255, 0, 0, 0)).save(tmp_path / "mask.png")
    assert positives(tmp_path / "mask.png") == set()


@pytest.mark.parametrize(
    ("photometric", "samples", "said"),
    [
        ("rgb", 4, {"extrasamples": ["unassalpha"]}),
        ("rgb", 4, {"extrasamples": ["assocalpha"], "planarconfig": "separate"}),
        ("rgb", 4, {"extrasamples": ["unspecified"]}),
        ("minisblack", 2, {"extrasamples": ["unassalpha"], "planarconfig": "contig"}),
    ],
)
def test_alpha_of_a_tiff_mask_is_no_mark(tmp_path: Path, photometric: str, samples: int, said: dict[str, Any]) -> None:
    """Opaque black is not marked, and neither is a transparent colour."""
    mask = np.zeros((80, 100, samples), np.uint8)
    mask[..., -1] = 255
    mask[:10, :20, 0] = 7
    mask[:10, 10:20, -1] = 0
    if said.get("planarconfig") == "separate":
        mask = np.moveaxis(mask, -1, 0)
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric=photometric, **said)
    assert positives(tmp_path / "mask.tif") == {(0, 0)}


def test_every_colour_of_a_tiff_mask_is_a_mark(tmp_path: Path) -> None:
    """Three samples are colours, the last of them too; so is a sample that a file with more of them does not call alpha."""
    mask = np.zeros((80, 100, 3), np.uint8)
    mask[:10, :10, 2] = 1
    tifffile.imwrite(tmp_path / "rgb.tif", mask, photometric="rgb")
    assert positives(tmp_path / "rgb.tif") == {(0, 0)}
    more = np.dstack([mask, np.zeros((80, 100, 2), np.uint8)])
    more[:10, 10:20, 4] = 1
    tifffile.imwrite(tmp_path / "more.tif", more, photometric="rgb", extrasamples=["unspecified"] * 2)
    assert positives(tmp_path / "more.tif") == {(0, 0), (100, 0)}


def test_pyramidal_mask_is_read_at_a_level_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            mask = np.zeros((800 >> level, 1000 >> level), np.uint8)
            mask[: 100 >> level, : 100 >> level] = 1
            tiff.write(mask, tile=(64, 64), subifds=2 if level == 0 else 0, subfiletype=int(level > 0))
    monkeypatch.setattr("pipelines.annotations.mask._MAX_MASK_PIXELS", 60_000)
    assert positives(path) == {(0, 0)}
    monkeypatch.setattr("pipelines.annotations.mask._MAX_MASK_PIXELS", 1_000)
    with pytest.raises(SlideError, match="lower resolution"):
        positives(path)


def test_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 1).save(tmp_path / "mask.png")
    with pytest.raises(SlideError, match="does not fit"):
        positives(tmp_path / "mask.png")


def test_annotation_of_another_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="none of it lies on the slide"):
        positives(asap(tmp_path / "a.xml", ("_0", square(5000, 5000, 6000, 6000))))


def test_empty_annotation_means_all_negative(tmp_path: Path) -> None:
    assert positives(asap(tmp_path / "a.xml")) == set()
    assert positives(qupath(tmp_path / "q.geojson")) == set()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", "<ASAP_Annotations><Annot"),
        ("a.xml", "<html/>"),
        ("a.xml", '<Annotations><Annotation><Region><Vertex X="1"/></Region></Annotation></Annotations>'),
        ("a.xml", '<!DOCTYPE x [<!ENTITY e "e">]><ASAP_Annotations>&e;</ASAP_Annotations>'),
        ("a.xml", '<ASAP_Annotations><Annotation><Coordinate X="a" Y="1"/></Annotation></ASAP_Annotations>'),
        ("a.xml", "<ASAP_Annotations><Annotation>" + '<Coordinate X="nan" Y="1"/>' * 3 + "</Annotation></ASAP_Annotations>"),
        ("a.geojson", "{"),
        ("a.geojson", '{"type": "FeatureCollection"}'),
        ("a.geojson", '[{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[1, 2]]}}]'),
        ("a.geojson", "[" * 100_000),
        ("a.json", "[1, 2]"),
        ("a.png", "not a picture"),
        ("a.tif", "not a picture"),
        ("a.csv", "x,y"),
    ],
)
def test_unusable_files_are_one_clear_error(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SlideError, match=name) as caught:
        positives(tmp_path / name)
    assert caught.value.stage == "annotation"
    assert caught.value.remedy


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="no such file"):
        positives(tmp_path / "none.xml")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_polygon_and_its_mask_agree(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Boxes on whole pixels as ASAP polygons and as a mask image give the same labels."""
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("agree")
    mask = np.zeros((800, 1000), np.uint8)
    boxes = []
    for _ in range(4):
        left, top = (int(value) for value in random.integers(0, 700, 2))
        width, height = (int(value) for value in random.integers(1, 300, 2))
        boxes.append(("_0", square(left, top, left + width, min(800, top + height))))
        mask[top : top + height, left : left + width] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    assert positives(asap(folder / "a.xml", *boxes)) == positives(folder / "mask.png")


def test_asap_areas_of_no_group_count_where_there_are_no_groups(tmp_path: Path) -> None:
    """ASAP writes PartOfGroup="None" for what belongs to no group; beside groups it is cut out."""
    assert positives(asap(tmp_path / "a.xml", ("None", square(0, 0, 100, 100)), ("None", square(300, 0, 400, 100)))) == {
        (0, 0), (300, 0),
    }  # fmt: skip


def test_asap_nodes_are_joined_in_their_order(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("_0", square(0, 0, 200, 100)))
    text = path.read_text()
    path.write_text(text.replace('Order="0"', 'Order="9"'))
    assert positives(path) == {(0, 0), (100, 0)}
    # Without an order the file's own is kept, not one by coordinates: sorted, these five would cross and lose the notch.
    notched = [(0.0, 0.0), (300.0, 0.0), (300.0, 100.0), (150.0, 0.0), (0.0, 100.0)]
    path = asap(tmp_path / "b.xml", ("_0", notched))
    path.write_text(path.read_text().replace("Order=", "Was="))
    tiles = np.array([[0, 0], [100, 0], [200, 0]])
    share = read_annotation(path, GEOMETRY).share(tiles, GEOMETRY)
    assert share == pytest.approx(direct_share([shapely.Polygon(notched)], [], tiles))


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    path = asap(tmp_path / "a.xml", ("_0", square(0, 0, 100, 25.5)))
    path.write_text(path.read_text().replace("25.5", "25,5"))
    assert positives(path) == {(0, 0)}


def test_loop_drawn_over_itself_leaves_no_hole(tmp_path: Path) -> None:
    """The pen goes round a field of three by three tiles and overlaps its own start in one of them."""
    points: Ring = [(0, 0), (300, 0), (300, 300), (100, 300), (100, 100), (200, 100), (200, 400), (0, 400)]
    covered = {(x, y) for x in (0, 100, 200) for y in (0, 100, 200)} | {(0, 300), (100, 300)}
    assert positives(asap(tmp_path / "a.xml", ("_0", points)), overlap=0.99) == covered


def test_ring_that_touches_itself_keeps_its_hole(tmp_path: Path) -> None:
    """A hole drawn in one stroke: in from the edge, around, and back along the same line."""
    outer, hole = square(0, 0, 300, 300), [(100, 100), (100, 200), (200, 200), (200, 100), (100, 100)]
    points = [*outer, (0, 100), *hole, (0, 100)]
    ring = {(x, y) for x in (0, 100, 200) for y in (0, 100, 200)} - {(100, 100)}
    assert positives(asap(tmp_path / "a.xml", ("_0", points)), overlap=0.99) == ring
    assert positives(qupath(tmp_path / "q.geojson", ("Tumor", [points])), overlap=0.99) == ring


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]},
        {"type": "MultiPolygon", "coordinates": [[[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]]},
        {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "Point", "coordinates": [500, 500]},
                {"type": "LineString", "coordinates": [[0, 0], [900, 700]]},
                {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]},
            ],
        },
    ],
)
def test_bare_geometries_and_features_of_every_kind(tmp_path: Path, geometry: dict[str, object]) -> None:
    path = tmp_path / "q.geojson"
    for content in (geometry, {"type": "Feature", "geometry": geometry, "properties": None}, [geometry]):
        path.write_text(json.dumps(content))
        assert positives(path) == {(0, 0)}


@pytest.mark.parametrize(
    "rings",
    [
        [],
        [[]],
        [[[500, 500]]],
        [[[500, 500], [900, 700]]],
        [[[500, 500], [900, 700], [500, 500]]],
        [[[500, 500], [900, 700], [900, 700], [500, 500]]],
        [[[500, 500], [700, 500], [900, 500], [500, 500]]],
    ],
)
@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon"])
def test_outlines_of_too_few_points_have_no_area(tmp_path: Path, rings: list[Any], kind: str) -> None:
    """A click by mistake; the file's other outlines count, and a hole of two points is none."""
    whole = [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]], [[10, 10], [20, 20]]]
    clicked = {"type": kind, "coordinates": rings if kind == "Polygon" else [whole, rings]}
    drawn = [{"type": "Polygon", "coordinates": whole}, clicked, {"type": "LineString", "coordinates": [[5, 5]]}]
    path = tmp_path / "q.geojson"
    path.write_text(json.dumps([{"type": "Feature", "geometry": shape, "properties": {}} for shape in drawn]))
    assert read_annotation(path, GEOMETRY).share(COORDS, GEOMETRY).sum() == pytest.approx(1)


@pytest.mark.parametrize("ring", [[1, 2], [[1], [2]], [["a", "b"], [1, 2]], 7, [[0, 0], [9, 0], [9, "a"], [0, 9], [0, 0]]])
def test_rings_that_are_no_points_are_an_error(tmp_path: Path, ring: Any) -> None:
    path = tmp_path / "q.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with pytest.raises(SlideError, match=r"q\.geojson: not a usable GeoJSON file"):
        read_annotation(path, GEOMETRY)


def test_a_triangle_that_is_not_closed_counts(tmp_path: Path) -> None:
    path = tmp_path / "q.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [0, 100]]]}))
    assert read_annotation(path, GEOMETRY).share(COORDS, GEOMETRY).sum() == pytest.approx(0.5)


def test_points_alone_make_nothing_positive(tmp_path: Path) -> None:
    path = tmp_path / "q.geojson"
    path.write_text(json.dumps({"type": "MultiPoint", "coordinates": [[10, 10], [20, 20]]}))
    assert positives(path) == set()


@pytest.mark.parametrize(
    ("classification", "positive"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, True),
        ({"names": ["Tumor", "Positive"]}, True),
        ({"name": "tumor: Negative"}, True),
        ({"name": "Tumor bed"}, False),
        ("Tumor", True),
        ({"name": "Stroma"}, False),
        (None, False),
    ],
)
def test_positive_classes_by_name(tmp_path: Path, classification: object, positive: bool) -> None:
    path = qupath(tmp_path / "q.geojson", ("", [square(0, 0, 100, 100)]))
    content = json.loads(path.read_text())
    content["features"][0]["properties"]["classification"] = classification
    path.write_text(json.dumps(content))
    assert positives(path, classes=("Tumor",)) == ({(0, 0)} if positive else set())
    assert positives(path) == {(0, 0)}


def test_classes_are_told_and_named_ones_count_though_cut_out_otherwise(tmp_path: Path) -> None:
    entries = [("Tumor", square(0, 0, 200, 100)), ("Normal", square(100, 0, 300, 100)), ("_2", square(0, 0, 100, 100))]
    annotation = read_annotation(asap(tmp_path / "a.xml", *entries), GEOMETRY)
    assert annotation.classes == ("Normal", "Tumor", "_2")
    assert positives(tmp_path / "a.xml") == set()
    # Asked for by name a class is an area like any other; what else is cut out stays cut out.
    assert positives(tmp_path / "a.xml", classes=("normal",)) == {(100, 0), (200, 0)}
    assert positives(tmp_path / "a.xml", classes=("Tumor", "Normal")) == {(100, 0), (200, 0)}
    regions = qupath(tmp_path / "q.geojson", ("Region*", [square(0, 0, 100, 100)]))
    assert (positives(regions), positives(regions, classes=("Region*",))) == (set(), {(0, 0)})


def test_a_mask_has_no_classes(tmp_path: Path) -> None:
    Image.new("L", (100, 80), 1).save(tmp_path / "mask.png")
    assert read_annotation(tmp_path / "mask.png", GEOMETRY).classes == ()
    with pytest.raises(SlideError, match="has no classes such as 'Tumor'"):
        positives(tmp_path / "mask.png", classes=("Tumor",))


@pytest.mark.parametrize("size", [(100, 80), (1000, 800), (2000, 1600), (33, 26), (13, 10), (500, 401)])
def test_a_mask_of_any_size_fits_where_its_sides_are_rounded(tmp_path: Path, size: tuple[int, int]) -> None:
    mask = Image.new("L", size, 0)
    mask.paste(1, (0, 0, size[0], round(size[1] / 2)))
    mask.save(tmp_path / "mask.png")
    share = read_annotation(tmp_path / "mask.png", GEOMETRY).share(COORDS, GEOMETRY)
    assert share.reshape(8, 10)[:3].min() == pytest.approx(1)
    assert share.reshape(8, 10)[5:].max() == pytest.approx(0)


def direct_share(kept: list[shapely.Polygon], cut: list[shapely.Polygon], tiles: np.ndarray, side: float = 100) -> list[float]:
    """Share of each tile, one at a time, by cutting the tile itself down step by step."""
    shares = []
    for x, y in tiles:
        rest = shapely.box(x, y, x + side, y + side)
        for polygon in cut:
            rest = rest.difference(polygon)
        outside = rest
        for polygon in kept:
            outside = outside.difference(polygon)
        shares.append((rest.area - outside.area) / side**2)
    return shares


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shares_are_those_of_shapely_and_of_a_lattice(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Random stars with holes, overlapping, of several classes, through ASAP and QuPath: two other ways to the same share."""
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("shares")

    def star() -> list[tuple[float, float]]:
        angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 12))))
        radii, centre = random.uniform(40, 350, len(angles)), random.uniform(100, 700, 2)
        return [
            (float(x), float(y)) for x, y in (centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)).round(1)
        ]

    stars = [star() for _ in range(4)]
    polygons = [shapely.Polygon(points) for points in stars]
    assume(all(polygon.is_valid for polygon in polygons))
    entries = list(zip(("Tumor", "Tumor", "Stroma", "Exclusion"), stars, strict=True))
    files = asap(folder / "a.xml", *entries), qupath(folder / "q.geojson", *[(name, [points]) for name, points in entries])
    for classes, kept in (((), polygons[:3]), (("Tumor",), polygons[:2])):
        direct = direct_share(kept, polygons[3:], COORDS)
        points = (
            COORDS[:, None, :] + np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1).reshape(-1, 2) * 100 / 12 + 50 / 12
        )
        inside = np.zeros(points.shape[:2], bool)
        for polygon in kept:
            inside |= shapely.contains_xy(polygon, points[..., 0], points[..., 1])
        inside &= ~shapely.contains_xy(polygons[3], points[..., 0], points[..., 1])
        for file in files:
            share = read_annotation(file, GEOMETRY).share(COORDS, GEOMETRY, classes)
            assert share == pytest.approx(direct, abs=1e-9)
            assert np.abs(share - inside.mean(axis=1)).max() < 0.2
