"""The suite ``composite``: real slides' tiles cut into parts that share no pixel, and bags put together from them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from comel.app.benchmark.composite import CompositeSettings, make_composite, parts_of
from comel.bags.bag import Bag, TileGeometry, read_bag
from comel.bags.contract import FeatureContract
from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError, FeatureMismatch
from tests.comel.app.benchmark.tiny_benchmark import CUT, cohort, slide

TINY = CompositeSettings(seed=4, train=4, val=2, test=6, tiles=(8, 14))


def made(folder: Path, rows: list[tuple[str, str, str, str]] = CUT, chosen: CompositeSettings = TINY, **slides: Bag) -> Path:
    return make_composite(folder / "stream", cohort(folder, rows, **slides), folder / "slides", chosen)


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.sampled_from([64, 224, 256]),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    st.floats(0.5, 4.0),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=10, max_size=200, unique=True),
)
def test_parts_share_no_tile_and_no_pixel(tile: int, share: float, scale: float, places: list[tuple[int, int]]) -> None:
    overlap = int(share * tile)
    coords = np.round(np.array(sorted(places, key=lambda p: p[::-1])) * (tile - overlap) * scale).astype(np.int64)
    geometry = TileGeometry(tile, 0.25 * scale, 0.25 * scale, 0.25, 0.25, 10**6, 10**6, overlap=overlap)
    bag = Bag("s", np.zeros((len(coords), 1)), coords, geometry, FeatureContract("toy", None, 1, None, tile))
    try:
        parts = parts_of(bag)
    except ConfigError:
        assume(False)
    rows = np.concatenate(list(parts.values()))
    assert len(set(rows)) == len(rows)
    side = tile * scale  # pixels at level 0
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        apart = np.abs(coords[parts[first]][:, None] - coords[parts[second]][None]).max(axis=2)
        assert apart.min() >= side


@pytest.mark.parametrize(("columns", "rows", "axis"), [(40, 9, 0), (9, 40, 1)])
def test_a_slide_is_cut_across_its_longer_side_in_halves(columns: int, rows: int, axis: int) -> None:
    bag = slide("s", columns, rows)
    assert bag.coords is not None
    parts = {split: bag.coords[tiles][:, axis] for split, tiles in parts_of(bag).items()}
    middle = bag.coords[:, axis].mean()
    assert parts["train"].max() + 256 <= parts["val"].min()
    assert parts["val"].max() + 256 <= parts["test"].min()
    assert parts["train"].max() + 256 <= middle < parts["test"].min()
    # With an overlap of half a tile, one column is left out at each cut, and no more.
    assert sum(len(np.unique(part)) for part in parts.values()) == 38


def test_other_heights_than_widths_are_cut_by_the_height() -> None:
    bag = slide("s", 3, 40)
    assert bag.coords is not None
    assert bag.geometry is not None
    tall = TileGeometry(256, 0.5, 1.0, 0.5, 0.5, 10**5, 10**5, overlap=128)
    parts = parts_of(Bag("s", bag.features, bag.coords, tall, bag.contract))
    assert bag.coords[parts["val"], 1].min() - bag.coords[parts["train"], 1].max() >= 512


def test_tiles_come_from_their_slides_and_labels_are_true(tmp_path: Path) -> None:
    manifest = read_manifest(made(tmp_path))
    marks = {name: number for number, (name, *_) in enumerate(CUT)}
    neoplastic = {"colon": {marks["adenoma"]}, "stomach": {marks["signet"]}}
    normal = {"colon": {marks["colitis"]}, "stomach": {marks["gastritis"], marks["erosion"]}}
    used: dict[str, set[tuple[float, ...]]] = defaultdict(set)
    assert manifest.tasks == ["colon", "stomach"]
    for row in manifest.rows:
        bag = read_bag(tmp_path / "stream" / "bags" / f"{row.slide_id}.h5", verify=True)
        assert bag.labels is not None
        assert row.split is not None
        assert set(bag.features[bag.labels == 1, 0]) <= neoplastic[row.task]
        assert set(bag.features[bag.labels == 0, 0]) <= normal[row.task]
        assert 8 <= len(bag) <= 14
        assert bag.labels.any() == (row.label == "tumour")
        if row.label == "tumour":
            assert 0.04 <= bag.labels.mean() <= 0.30
        assert len(np.unique(bag.features, axis=0)) == len(bag)
        used[row.split] |= {tuple(tile) for tile in bag.features}
    assert not used["train"] & used["test"]
    assert not used["train"] & used["val"]
    assert not used["val"] & used["test"]
    for mark, _, _ in (tile for tiles in used.values() for tile in tiles):
        columns = {split: [column for m, column, _ in used[split] if m == mark] for split in used}
        if columns["train"] and columns["test"]:  # a tile is two columns wide
            assert max(columns["train"]) + 2 <= min(columns["test"])


def test_tumour_tiles_are_contiguous_on_their_slide_and_in_the_bag(tmp_path: Path) -> None:
    made(tmp_path, chosen=CompositeSettings(train=20, val=2, test=2, tiles=(30, 40)))
    seen = 0
    for path in sorted((tmp_path / "stream" / "bags").glob("*-train-*.h5")):
        bag = read_bag(path)
        assert bag.labels is not None
        assert bag.coords is not None
        tumour = bag.labels == 1
        for places in (bag.coords[tumour] // 256, bag.features[tumour, 1:]):
            for place in places if tumour.sum() > 1 else ():
                apart = np.abs(places - place).max(axis=1)
                assert np.sort(apart)[1] == 1
        seen += tumour.sum() > 1
    assert seen > 10


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, chosen in (("one", TINY), ("two", TINY), ("three", TINY.model_copy(update={"seed": 5}))):
        make_composite(tmp_path / name, cohort(tmp_path, CUT), tmp_path / "slides", chosen)
    one, two, three = ({p.name: p.read_bytes() for p in (tmp_path / n / "bags").iterdir()} for n in ("one", "two", "three"))
    assert one == two
    assert one != three
    assert (tmp_path / "one" / "manifest.csv").read_bytes() == (tmp_path / "two" / "manifest.csv").read_bytes()


def test_a_slide_with_a_split_gives_all_its_tiles_to_it(tmp_path: Path) -> None:
    rows = [(f"{kind}-{split}", kind, "colon", split) for kind in ("normal", "adenoma") for split in ("train", "val", "test")]
    manifest = read_manifest(made(tmp_path, rows, CompositeSettings(train=60, val=30, test=60, tiles=(20, 40))))
    columns = set()
    for row in manifest.rows:
        bag = read_bag(tmp_path / "stream" / "bags" / f"{row.slide_id}.h5")
        assert {rows[int(mark)][3] for mark in bag.features[:, 0]} == {row.split}
        columns |= set(bag.features[:, 1]) if row.split == "train" else set()
    assert columns == set(range(24))  # a slide that is cut has 8 or 9 of its 24 columns for training


def test_slides_with_and_without_a_split_go_together(tmp_path: Path) -> None:
    rows = [("cut", "normal", "colon", ""), ("adenoma", "adenoma", "colon", ""), ("more", "normal", "colon", "test")]
    made(tmp_path, rows, CompositeSettings(train=20, val=4, test=20, tiles=(8, 14)))
    marks: dict[str, set[int]] = defaultdict(set)
    for path in (tmp_path / "stream" / "bags").iterdir():
        bag = read_bag(path)
        marks[path.stem.split("-")[1]] |= {int(mark) for mark in bag.features[bag.labels == 0, 0]}
    assert marks == {"train": {0}, "val": {0}, "test": {0, 2}}


def test_small_slides_are_filled_up_from_the_organs_others(tmp_path: Path) -> None:
    small = {"gastritis": slide("gastritis", 8, 1, overlap=0, mark=2)}
    manifest = read_manifest(made(tmp_path, CUT, CompositeSettings(train=10, val=2, test=20, tiles=(10, 12)), **small))
    mixed = 0
    for row in manifest.select(task="stomach", split="test"):
        bag = read_bag(tmp_path / "stream" / "bags" / f"{row.slide_id}.h5")
        assert 10 <= len(bag) <= 12
        mixed += len(set(bag.features[bag.labels == 0, 0])) == 2
    assert mixed


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "normal", "colon", ""), ("b", "adenoma", "lung", "")], "no task has slides labelled 'normal' and others"),
        ([("a", "normal", "colon", "train"), ("b", "adenoma", "colon", "")], "colon: no 'normal' slide for the split 'val'"),
        ([("a", "normal", "colon", ""), ("b", "adenoma", "colon", "test")], "colon: no neoplastic slide for the split 'train'"),
    ],
)
def test_kinds_that_are_missing(tmp_path: Path, rows: list[tuple[str, str, str, str]], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(tmp_path, rows)
    assert said in str(error.value)
    assert not (tmp_path / "stream").exists()


def test_slides_that_are_too_small(tmp_path: Path) -> None:
    rows = CUT[:2]
    with pytest.raises(ConfigError, match="adenoma: too small to be cut into train, val and test"):
        made(tmp_path / "a", rows, adenoma=slide("adenoma", 4, 1))
    with pytest.raises(ConfigError, match="colon: 3 tiles of 'normal' slides for the split 'train', but a bag has 8 or more"):
        made(tmp_path / "b", rows, colitis=slide("colitis", 8, 1, overlap=0))
    many = CompositeSettings(tiles=(8, 80))
    with pytest.raises(ConfigError, match="adenoma: 2 tiles for the split 'val', but up to 4 are needed"):
        made(tmp_path / "c", rows, many, adenoma=slide("adenoma", 16, 1), colitis=slide("colitis", 40, 20))


def test_slides_that_cannot_be_mixed(tmp_path: Path) -> None:
    with pytest.raises(FeatureMismatch, match=r"adenoma: tiles at 1 um/px instead of 0\.5"):
        made(tmp_path, CUT[:2], adenoma=slide("adenoma", 24, 8, scale=2.0))
