"""The bag format: what is written comes back, and what is damaged or hostile is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from comel.bags.bag import Bag, TileGeometry, read_bag, read_bag_header, write_bag
from comel.bags.contract import FeatureContract
from comel.errors import BagError
from tests.comel.toys import CONTRACT, DIMENSION, killed, make_bag, tree
from tests.places import ROOT

FEATURES = np.random.default_rng(0).normal(size=(12, DIMENSION)).astype(np.float32)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_bag(tmp_path / "s.h5", make_bag("s", FEATURES, np.arange(12).astype(np.int8) % 3 - 1))
    return tmp_path / "s.h5"


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(BagError) as caught:
        read_bag(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@given(
    features=npst.arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(0, 40), st.integers(1, 9)),
        elements={"min_value": -60_000, "max_value": 60_000},
    ),
    labelled=st.booleans(),
    overlap=st.integers(0, 255),
    mpp=st.floats(0.1, 4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back(tmp_path: Path, features: np.ndarray, labelled: bool, overlap: int, mpp: float) -> None:
    n = len(features)
    geometry = TileGeometry(256, mpp, mpp, 0.25, 0.3, 90_000, 80_000, overlap, 10, 20, True, "slide µ.svs", True)
    bag = Bag(
        slide_id="slide µ",
        features=features,
        coords=np.stack([np.arange(n) * 512, np.arange(n)], axis=1),
        geometry=geometry,
        contract=FeatureContract("encoder", "cd" * 32, features.shape[1], mpp, 256),
        labels=np.zeros(n, np.int8) if labelled else None,
        quality={"blur": np.linspace(0, 1, n)},
        settings={"tile_size": 256, "nested": {"a": [1, 2]}},
    )
    write_bag(tmp_path / "bag.h5", bag)
    back = read_bag(tmp_path / "bag.h5", verify=True)
    assert back.arrays().keys() == bag.arrays().keys()
    for name, array in bag.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)
        assert back.arrays()[name].dtype == array.dtype
    for name in ("slide_id", "geometry", "contract", "settings"):
        assert getattr(back, name) == getattr(bag, name)
    header = read_bag_header(tmp_path / "bag.h5")
    assert (header["instances"], header["dimension"], header["encoder"]) == (n, features.shape[1], "encoder")


def test_attributes_have_the_names_that_other_tools_look_for(written: Path) -> None:
    with h5py.File(written) as file:
        about = dict(file["coords"].attrs)
    assert {"patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name"} <= set(about)
    assert about["patch_size_level0"] == 256
    assert about["target_magnification"] == 20


def test_tile_sizes_are_not_rounded() -> None:
    geometry = TileGeometry(256, 0.5, 0.5, 0.2527, 0.2494, 1000, 1000, overlap=32)
    assert geometry.tile_width == pytest.approx(256 * 0.5 / 0.2527)
    assert geometry.stride_y == pytest.approx(224 * 0.5 / 0.2494)
    assert geometry.patch_size_level0 == 507


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(CONTRACT, dimension=64), "dimension 64 instead of 32"),
        (replace(CONTRACT, encoder="uni"), "encoder uni instead of toy"),
        (replace(CONTRACT, encoder=None), "encoder not stated instead of toy"),
        (replace(CONTRACT, weights_hash="ef" * 32), "other weights of toy"),
        (replace(CONTRACT, mpp=0.51), "0.51 um/px instead of 0.5"),
        (replace(CONTRACT, tile_size=224), "224 px instead of 256"),
        (replace(CONTRACT, mpp=0.504), None),
        (replace(CONTRACT, mpp=None, tile_size=None, weights_hash=None), None),
    ],
)
def test_contracts_say_where_they_differ(other: FeatureContract, said: str | None) -> None:
    difference = CONTRACT.difference(other)
    assert difference == said if said is None else difference is not None and said in difference


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bag_with_nan_is_not_written(tmp_path: Path, value: float) -> None:
    features = FEATURES.copy()
    features[3, 5] = value
    with pytest.raises(BagError, match="1 of 12 instances have NaN or infinite"):
        write_bag(tmp_path / "s.h5", make_bag("s", features))
    assert tree(tmp_path) == {}


def test_a_bag_without_geometry_or_with_unequal_arrays_is_not_written(tmp_path: Path) -> None:
    bag = make_bag("s", FEATURES)
    assert bag.coords is not None
    for wrong, said in [
        (replace(bag, geometry=None), "no coords or no geometry"),
        (replace(bag, coords=bag.coords[:5]), r"12 features but coords of shape \(5, 2\)"),
        (replace(bag, labels=np.zeros(5, np.int8)), "12 features but labels"),
        (replace(bag, features=FEATURES.astype(int)), "expected .* floats"),
        (replace(bag, contract=replace(CONTRACT, dimension=8)), "expected .* floats"),
    ]:
        with pytest.raises(BagError, match=said):
            write_bag(tmp_path / "s.h5", wrong)
    assert tree(tmp_path) == {}


def rewrite(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def set_nan(file: h5py.File) -> None:
    file["features"][2, 2] = np.nan


def shorten(file: h5py.File) -> None:
    del file["coords"]
    file["coords"] = np.zeros((3, 2), np.int64)


def flatten(file: h5py.File) -> None:
    del file["features"]
    file["features"] = np.zeros(12, np.float32)


def write_words(file: h5py.File) -> None:
    del file["features"]
    file["features"] = np.array([[b"a"] * DIMENSION] * 12)


def make_group(file: h5py.File) -> None:
    del file["features"]
    file.create_group("features")


def link_outside(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("/etc/passwd", "/x")


def link_inside(file: h5py.File) -> None:
    file["copy"] = file["features"][()]
    del file["features"]
    file["features"] = h5py.SoftLink("/copy")


def link_quality_outside(file: h5py.File) -> None:
    file["quality"] = h5py.ExternalLink("/etc/passwd", "/x")


def declare_terabytes(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", shape=(1 << 40, DIMENSION), dtype="f4", chunks=(1024, DIMENSION))


def declare_more_than_stored(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", shape=(1 << 20, DIMENSION), dtype="f4", chunks=(1024, DIMENSION))


def absurd_geometry(file: h5py.File) -> None:
    file["coords"].attrs["mpp_x"] = np.nan


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated or not HDF5"),
        (lambda path: path.write_bytes(b"not HDF5 at all"), "truncated or not HDF5"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.unlink(), "no such file"),
        (rewrite(set_nan), "NaN or infinite"),
        (rewrite(shorten), "12 features but coords"),
        (rewrite(flatten), "expected (N, D) floats"),
        (rewrite(write_words), "not numbers"),
        (rewrite(make_group), "does not hold its own data"),
        (rewrite(link_outside), "is a link"),
        (rewrite(link_inside), "is a link"),
        (rewrite(link_quality_outside), "'quality' is a link"),
        (rewrite(declare_terabytes), "GiB"),
        (rewrite(declare_more_than_stored), "but stores"),
        (rewrite(lambda file: file.__delitem__("coords")), "no datasets 'features' and 'coords'"),
        (rewrite(lambda file: file.attrs.__setitem__("settings", "{")), "not JSON"),
        (rewrite(lambda file: file.attrs.__setitem__("notes", "[")), "not JSON"),
    ],
)
def test_damaged_and_hostile_files_are_refused(written: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(written)
    assert said in refusal(written)


def test_absurd_geometry_is_refused(written: Path) -> None:
    rewrite(absurd_geometry)(written)
    with pytest.raises(BagError, match="absurd"):
        read_bag(written)


def test_any_truncation_is_refused(written: Path) -> None:
    whole = written.read_bytes()
    for size in range(1, len(whole), max(1, len(whole) // 40)):
        written.write_bytes(whole[:size])
        refusal(written, verify=True)


def test_a_changed_value_does_not_match_the_checksum(written: Path) -> None:
    with h5py.File(written, "r+") as file:
        file["features"][0, 0] += 1
    assert "does not match its checksum" in refusal(written, verify=True)


def test_size_limit_is_checked_before_reading(written: Path) -> None:
    assert "GiB is read" in refusal(written, max_bytes=100)


def test_a_killed_write_leaves_no_bag(tmp_path: Path) -> None:
    assert killed(lambda: write_bag(tmp_path / "s.h5", make_bag("s", FEATURES)), at=1) == 1
    assert not (tmp_path / "s.h5").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from comel.bags.bag import write_bag
from tests.comel.toys import make_bag
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_bag(Path(sys.argv[1]), make_bag("s", np.ones((4000, 32))))
except OSError as error:
    print("OSError:", error)
    sys.exit(2)
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "bags" / "s.h5")]
    environment = {"PYTHONPATH": ":".join([str(ROOT), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 2, done.stderr
    assert "OSError" in done.stdout
    assert tree(tmp_path) == {}
