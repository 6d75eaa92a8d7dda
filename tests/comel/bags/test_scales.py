"""Bags of several scales: as a file, one scale taken out, and the scales joined."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from comel.app.cli import app
from comel.bags.bag import Bag, check_bag, read_bag, write_bag
from comel.bags.contract import FeatureContract
from comel.bags.foreign import read_any_bag
from comel.bags.scales import ScaledBags, join_scales, take_scale, write_scaled
from comel.bags.summary import bag_statistics, statistics_table
from comel.cohort.bags import check_contract, join_slides
from comel.errors import BagError, ConfigError, FeatureMismatch
from tests.comel.toys import CONTRACT, DIMENSION, make_bag

TRIDENT_NAMES = {
    "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name", "level0_width",
    "level0_height",
}  # fmt: skip


def pyramid(slide: str = "s", tiles: tuple[int, ...] = (9, 4, 2), seed: int = 0) -> Bag:
    """A bag of tiles at 0.5, 1, 2, ... um/px in which every tile has some parent."""
    random = np.random.default_rng(seed)
    levels: list[Bag] = []
    for index, count in enumerate(tiles):
        bag = make_bag(slide, random.normal(size=(count, DIMENSION)), random.integers(-1, 2, count).astype(np.int8))
        mpp = 0.5 * 2**index
        assert bag.geometry is not None
        bag.geometry = replace(bag.geometry, mpp_x=mpp, mpp_y=mpp)
        bag.contract = replace(CONTRACT, mpp=mpp)
        bag.quality = {"tissue": random.random(count).astype(np.float32)}
        bag.settings = {"also_mpp": [1.0, 2.0]}
        if index + 1 < len(tiles):
            bag.parent = random.integers(0, tiles[index + 1], count)
        levels.append(bag)
    return replace(levels[0], scales=tuple(levels[1:]))


def same(one: Bag, other: Bag) -> bool:
    arrays = one.arrays(), other.arrays()
    return arrays[0].keys() == arrays[1].keys() and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scales_come_back(tmp_path: Path, tiles: list[int], seed: int) -> None:
    bag = pyramid(tiles=tuple(tiles), seed=seed)
    write_bag(tmp_path / "s.h5", bag)
    back = read_bag(tmp_path / "s.h5", verify=True)
    assert same(back, bag)
    assert [scale.contract for scale in back.scales] == [scale.contract for scale in bag.scales]
    assert [scale.geometry for scale in back.scales] == [scale.geometry for scale in bag.scales]


def test_empty_bag_of_several_scales_comes_back(tmp_path: Path) -> None:
    bag = pyramid(tiles=(0, 0))
    write_bag(tmp_path / "s.h5", bag)
    assert same(read_bag(tmp_path / "s.h5", verify=True), bag)


def test_every_scale_carries_the_attributes_that_other_tools_look_for(tmp_path: Path) -> None:
    write_bag(tmp_path / "s.h5", pyramid())
    with h5py.File(tmp_path / "s.h5") as file:
        assert sorted(file["scales"]) == ["1", "2"]
        for place, side, magnification in (("coords", 256, 20), ("scales/1/coords", 512, 10), ("scales/2/coords", 1024, 5)):
            about = dict(file[place].attrs)
            assert set(about) >= TRIDENT_NAMES
            assert (about["patch_size"], about["patch_size_level0"], about["target_magnification"]) == (
                256,
                side,
                magnification,
            )
        # What a tool that knows no scales reads is the finest one, whole.
        assert len(file["features"]) == len(file["coords"]) == len(file["parent"]) == 9
        assert "parent" not in file["scales/2"]


def alter(change: Callable[[h5py.File], None], path: Path) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def move(source: str, target: str) -> Callable[[h5py.File], None]:
    return lambda file: file.move(source, target)


def delete(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def lead_nowhere(file: h5py.File) -> None:
    file["parent"][3] = 4


def change_a_coarse_feature(file: h5py.File) -> None:
    file["scales/2/features"][0, 0] += 1


def link_the_scales_outside(file: h5py.File) -> None:
    del file["scales"]
    file["scales"] = h5py.ExternalLink("/etc/passwd", "/x")


def link_a_scale_inside(file: h5py.File) -> None:
    file.move("scales/2", "elsewhere")
    file["scales/2"] = h5py.SoftLink("/elsewhere")


def crowd(file: h5py.File) -> None:
    for number in range(20):
        file.create_group(f"scales/x{number}")


def coarsen_the_finest(file: h5py.File) -> None:
    for name in ("mpp_x", "mpp_y"):
        file["coords"].attrs[name] = 1.5


def forget_a_geometry(file: h5py.File) -> None:
    del file["scales/1/coords"].attrs["mpp_x"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lead_nowhere, "'parent' does not lead"),
        (delete("parent"), "'parent' does not lead"),
        (delete("scales"), "'parent' does not lead"),
        (delete("scales/2"), "'parent' does not lead"),
        (delete("scales/1/coords"), "no datasets 'scales/1/features' and 'scales/1/coords'"),
        (move("scales/1/features", "scales/1/quality/features"), "no datasets"),
        (move("scales/1/quality/tissue", "scales/1/quality/a/b"), "does not hold its own data"),
        (link_the_scales_outside, "'scales' is a link"),
        (link_a_scale_inside, "'scales/2' is a link"),
        (crowd, "22 scales"),
        (coarsen_the_finest, "not ordered from fine to coarse"),
        (forget_a_geometry, "scale 1 differs in kind"),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[h5py.File], None], said: str) -> None:
    path = tmp_path / "s.h5"
    write_bag(path, pyramid())
    alter(change, path)
    with pytest.raises(BagError, match=said) as caught:
        read_bag(path)
    assert str(path) in str(caught.value)


def test_the_checksum_covers_the_coarser_scales(tmp_path: Path) -> None:
    write_bag(tmp_path / "s.h5", pyramid())
    alter(change_a_coarse_feature, tmp_path / "s.h5")
    read_bag(tmp_path / "s.h5")
    with pytest.raises(BagError, match="checksum"):
        read_bag(tmp_path / "s.h5", verify=True)


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    bag = pyramid()
    for wrong in (
        replace(bag, parent=None),
        replace(bag, scales=bag.scales[::-1]),
        replace(bag, scales=()),
        replace(bag, scales=(replace(bag.scales[0], geometry=None), bag.scales[1])),
        replace(bag, scales=(replace(bag.scales[0], features=np.ones((4, 3), np.float32)), bag.scales[1])),
    ):
        with pytest.raises(BagError):
            write_bag(tmp_path / "s.h5", wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mpp", "index"), [(0.5, -1), (0.501, -1), (1.0, 0), (2.0, 1)])
def test_one_scale_taken_out_is_an_ordinary_bag(tmp_path: Path, mpp: float, index: int) -> None:
    bag = pyramid()
    taken = take_scale(bag, mpp)
    wanted = bag if index < 0 else bag.scales[index]
    assert same(taken, replace(wanted, parent=None, scales=()))
    assert taken.contract == wanted.contract
    assert taken.settings != bag.settings
    write_bag(tmp_path / "s.h5", taken)
    assert read_bag(tmp_path / "s.h5", verify=True).scales == ()


def test_a_scale_that_is_not_there_is_named() -> None:
    with pytest.raises(BagError, match=r"no scale of 4 um/px \(it has 0\.5, 1, 2\); .*--also-mpp 4"):
        take_scale(pyramid(), 4)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_joined_features_are_those_of_tile_parent_and_grandparent(tiles: list[int], seed: int) -> None:
    """Compared tile by tile, following the parents one by one."""
    bag = pyramid(tiles=tuple(tiles), seed=seed)
    joined = join_scales(bag)
    assert joined.features.shape == (tiles[0], DIMENSION * len(tiles))
    assert joined.contract.dimension == DIMENSION * len(tiles)
    for tile in range(tiles[0]):
        level, row, expected = bag, tile, [bag.features[tile]]
        for coarser in bag.scales:
            assert level.parent is not None
            row = int(level.parent[row])
            expected.append(coarser.features[row])
            level = coarser
        assert np.array_equal(joined.features[tile], np.concatenate(expected))
    check_bag("joined", joined)
    assert np.array_equal(joined.coords, bag.coords)  # type: ignore[arg-type]


def test_the_contract_says_which_scales_are_joined(tmp_path: Path) -> None:
    joined = join_scales(pyramid())
    assert joined.contract.joined_mpp == (1.0, 2.0)
    write_bag(tmp_path / "s.h5", joined)
    assert read_bag(tmp_path / "s.h5", verify=True).contract == joined.contract
    assert FeatureContract(**json.loads(json.dumps(asdict(joined.contract)))) == joined.contract
    other = replace(joined.contract, joined_mpp=(1.0, 4.0))
    assert joined.contract.difference(other) == (
        "features of each tile and its parents at 1, 4 um/px instead of each tile and its parents at 1, 2 um/px"
    )
    assert (
        CONTRACT.difference(joined.contract) == "features of each tile and its parents at 1, 2 um/px instead of each tile alone"
    )
    alter(lambda file: file.attrs.__setitem__("joined_mpp", [1.0, -2.0]), tmp_path / "s.h5")
    with pytest.raises(BagError, match="joined_mpp is absurd"):
        read_bag(tmp_path / "s.h5")


def test_a_run_of_joined_bags_says_what_to_do_with_others() -> None:
    bag = pyramid()
    check_contract(join_scales(bag).contract, join_scales(bag), "s")
    with pytest.raises(FeatureMismatch, match=r"each tile alone instead of .*; .* comel bags join-scales"):
        check_contract(join_scales(bag).contract, bag, "s")


def test_a_bag_of_one_scale_has_nothing_to_join() -> None:
    with pytest.raises(BagError, match="one scale; extract with --also-mpp"):
        join_scales(make_bag("s", np.ones((3, DIMENSION))))


def test_slides_of_a_case_are_joined_at_the_finest_scale() -> None:
    case = join_slides("case", [pyramid("a"), pyramid("b", seed=1)])
    assert (len(case), case.scales, case.parent) == (18, (), None)


def test_commands_write_check_and_go_on(tmp_path: Path) -> None:
    for slide in ("a", "b"):
        write_bag(tmp_path / "bags" / f"{slide}.h5", pyramid(slide, seed=ord(slide)))

    def run(*command: object) -> str:
        done = CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert json.loads(run("bags", "scale", tmp_path / "bags", "--mpp", 1, "--out", tmp_path / "10x", "--json")) == {
        "written": 2, "kept": 0,
    }  # fmt: skip
    assert len(read_any_bag(tmp_path / "10x/a.h5")) == 4
    assert "0 bags written, 2 existed" in run("bags", "scale", tmp_path / "bags", "--mpp", "1.0", "--out", tmp_path / "10x")
    assert "2 bags written" in run("bags", "join-scales", tmp_path / "bags", "--out", tmp_path / "joined")
    checked = {
        entry["file"]: entry for entry in json.loads(run("bags", "check", tmp_path / "bags", tmp_path / "joined", "--json"))
    }
    assert checked[str(tmp_path / "bags/a.h5")]["scales"] == {"1": 4, "2": 2}
    assert checked[str(tmp_path / "joined/b.h5")]["dimension"] == 3 * DIMENSION
    assert "9 x 32, toy; 4 at 1 um/px, 2 at 2 um/px" in run("bags", "check", tmp_path / "bags")
    assert "0.5, 1, 2" in statistics_table(bag_statistics([tmp_path / "bags"]))
    with pytest.raises(ConfigError, match="holds another bag"):
        write_scaled([tmp_path / "bags"], tmp_path / "10x", join_scales, quiet=True)
    assert write_scaled([tmp_path / "bags"], tmp_path / "joined", join_scales, quiet=True) == ScaledBags(0, 2)
