"""Other tools' feature files: each layout is read, and a hostile or damaged file is refused in one line."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.contract import FeatureContract
from comel.bags.foreign import bag_path, feature_files, read_any_bag
from comel.errors import BagError

FEATURES = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
COORDS = np.array([[x, y] for y in (0, 512) for x in (100_001, 100_513, 101_025)], dtype=np.int64)
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "s1",
    "savetodir": "/elsewhere",
    "level0_width": 200_000,
    "level0_height": 90_000,
}


def write_h5(path: Path, features: str = "features", *, values: np.ndarray = FEATURES, coords: np.ndarray | None = COORDS,
             about: dict[str, object] | None = None, **attributes: object) -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[features] = values
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(about or {})
        file.attrs.update(attributes)
    return path


def write_pt(path: Path, value: object, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path, **options)
    return path


def message(path: Path) -> str:
    with pytest.raises(BagError) as caught:
        read_any_bag(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("batched", [False, True])
def test_trident(tmp_path: Path, batched: bool) -> None:
    values, coords = (FEATURES[None], COORDS[None]) if batched else (FEATURES, COORDS)
    path = write_h5(tmp_path / "20x_256px_0px_overlap/features_uni_v1/s1.h5", values=values, coords=coords, about=TRIDENT)
    bag = read_any_bag(path, assume_encoder="uni")
    np.testing.assert_array_equal(bag.features, FEATURES)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.slide_id == "s1"
    assert bag.geometry is None
    assert bag.contract == FeatureContract("uni", None, 8, None, 256)
    assert bag.settings == {
        "format": "trident", "patch_size": 256, "patch_size_level0": 512, "overlap": 0,
        "level0_width": 200_000, "level0_height": 90_000,
    }  # fmt: skip
    assert read_any_bag(path).contract.encoder is None


def test_what_trident_does_not_know_and_slides_without_tiles(tmp_path: Path) -> None:
    """Newer versions write None as a word, fractional magnifications, attributes on ``features``, and empty slides."""
    about = {**TRIDENT, "overlap": "None", "level0_width": "None", "target_magnification": 2.5, "patch_size_level0": 4096.0}
    path = write_h5(tmp_path / "2.5x_256px_0px_overlap/features_uni_v1/s1.h5", about=about)
    with h5py.File(path, "r+") as file:
        file["features"].attrs.update(name="s1", savetodir="/elsewhere")
    bag = read_any_bag(path)
    assert (bag.settings["format"], bag.settings["patch_size_level0"], bag.contract.tile_size) == ("trident", 4096, 256)
    assert "overlap" not in bag.settings
    empty = write_h5(tmp_path / "e.h5", values=FEATURES[:0], coords=COORDS[:0], about=TRIDENT)
    assert len(read_any_bag(empty)) == 0


def test_a_file_that_states_mpp_in_our_attributes_has_a_geometry(tmp_path: Path) -> None:
    geometry = TileGeometry(256, 0.5, 0.5, 0.25, 0.25, 200_000, 90_000)
    bag = read_any_bag(
        write_h5(tmp_path / "s1.h5", about={**TRIDENT, **geometry.attributes()}, encoder="uni"), assume_encoder="x"
    )
    assert bag.geometry == geometry
    assert bag.contract == FeatureContract("uni", None, 8, 0.5, 256)


@pytest.mark.parametrize("above", [False, True])
def test_clam_with_the_tile_size_beside_it(tmp_path: Path, above: bool) -> None:
    path = write_h5(tmp_path / "features/h5_files/s1.h5", coords=COORDS.astype(np.int32))
    assert read_any_bag(path).settings == {"format": "clam"}
    about = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "level_dim": (9, 9), "name": "s1"}
    with h5py.File(tmp_path / "made.h5", "w") as file:
        file["coords"] = COORDS
        file["coords"].attrs.update(about)
    patches = tmp_path / ("patches" if above else "features/patches")
    patches.mkdir()
    (tmp_path / "made.h5").rename(patches / "s1.h5")
    bag = read_any_bag(path, assume_encoder="resnet50")
    assert bag.settings == {"format": "clam", "patch_size_level0": 1024}
    assert bag.coords is not None
    assert bag.coords.dtype == np.int64
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.contract == FeatureContract("resnet50", None, 8, None, None)


def test_clam_tensors(tmp_path: Path) -> None:
    for name, options in (("s1", {}), ("s2", {"_use_new_zipfile_serialization": False})):
        bag = read_any_bag(
            write_pt(tmp_path / f"pt_files/{name}.pt", torch.from_numpy(FEATURES), **options), assume_encoder="r"
        )
        np.testing.assert_array_equal(bag.features, FEATURES)
        assert (bag.slide_id, bag.coords, bag.contract) == (name, None, FeatureContract("r", None, 8, None, None))
    path = write_pt(tmp_path / "s3.pt", {"feats": torch.from_numpy(FEATURES).bfloat16(), "coords": torch.from_numpy(COORDS)})
    bag = read_any_bag(path)
    np.testing.assert_allclose(bag.features, FEATURES, rtol=0.01)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.features.dtype == np.float32


def test_a_tensor_in_memory_no_longer_needs_its_file(tmp_path: Path) -> None:
    path = write_pt(tmp_path / "s.pt", torch.from_numpy(FEATURES))
    bag = read_any_bag(path)
    path.unlink()
    np.testing.assert_array_equal(bag.features, FEATURES)


def test_stamp(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {
        "extractor": "uni2-abc",
        "unit": "um",
        "tile_size_um": 256.0,
        "tile_size_px": 224,
        "stamp_version": "2.2.0",
    }
    micrometres = (COORDS * 0.2527).astype(np.float32)
    path = write_h5(tmp_path / "s1.h5", "feats", values=FEATURES.astype(np.float16), coords=micrometres, **attributes)
    bag = read_any_bag(path, assume_encoder="other")
    assert bag.features.dtype == np.float16
    assert bag.coords is not None
    assert bag.coords.dtype == np.int64
    np.testing.assert_allclose(bag.coords, micrometres, atol=0.5)
    assert bag.geometry is None
    assert bag.contract is not None
    assert bag.contract.mpp == pytest.approx(256 / 224)
    assert bag.contract == FeatureContract("uni2-abc", None, 8, bag.contract.mpp, 224)
    assert bag.settings == {"format": "stamp", "coords_unit": "um", "tile_size_um": 256, "tile_size_px": 224}


def test_older_stamp(tmp_path: Path) -> None:
    bag = read_any_bag(write_h5(tmp_path / "s1.h5", "feats", coords=COORDS * 1.0, extractor="ctp", tile_size=256.0))
    assert bag.settings == {"format": "stamp", "coords_unit": "um", "tile_size_um": 256}
    assert bag.contract == FeatureContract("ctp", None, 8, None, None)
    bag = read_any_bag(write_h5(tmp_path / "s2.h5", "feats", coords=COORDS))
    assert bag.settings == {"format": "stamp", "coords_unit": "unknown"}


def test_our_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comel.bags.bag.comel_version", lambda: "0")
    geometry = TileGeometry(256, 0.5, 0.5, 0.25, 0.25, 200_000, 90_000, name="s1.svs")
    contract = FeatureContract(None, None, 8, 0.5, 256)
    path = tmp_path / "s1.h5"
    write_bag(path, Bag("s1", FEATURES, COORDS, geometry, contract, settings={"a": 1}))
    bag = read_any_bag(path, assume_encoder="uni", verify=True)
    assert (bag.geometry, bag.settings, bag.contract.encoder) == (geometry, {"a": 1}, "uni")
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] += 1
    with pytest.raises(BagError, match="checksum"):
        read_any_bag(path, verify=True)


@pytest.mark.parametrize(("features", "coords"), [(">f4", ">i8"), (">f8", ">i4"), (">f2", ">f8"), ("longdouble", ">i2")])
def test_numbers_of_another_machine(tmp_path: Path, features: str, coords: str) -> None:
    """Java, FITS and network order are big-endian; torch takes neither that nor long doubles."""
    places = COORDS % 30_000
    path = write_h5(tmp_path / "s.h5", values=FEATURES.astype(features), coords=places.astype(coords))
    bag = read_any_bag(path)
    assert bag.coords is not None
    torch.testing.assert_close(torch.from_numpy(bag.features).float(), torch.from_numpy(FEATURES), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(torch.from_numpy(bag.coords).numpy(), places)


def test_our_own_bag_in_another_order(tmp_path: Path) -> None:
    contract = FeatureContract("mean-colour", "a" * 64, 8, 0.5, 256)
    geometry = TileGeometry(256, 0.5, 0.5, 0.25, 0.25, level0_width=200_000, level0_height=90_000)
    write_bag(tmp_path / "s.h5", Bag("s", FEATURES, COORDS, geometry, contract, labels=np.zeros(6, np.int8)))
    with h5py.File(tmp_path / "s.h5", "a") as file:
        for name, kind in (("features", ">f4"), ("labels", ">i2")):
            values = file[name][()]
            del file[name]
            file[name] = values.astype(kind)
    bag = read_any_bag(tmp_path / "s.h5")
    assert bag.labels is not None
    torch.testing.assert_close(torch.from_numpy(bag.features), torch.from_numpy(FEATURES))
    assert bag.labels.dtype.isnative


def test_tensors_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pt(tmp_path / "s.pt", torch.from_numpy(FEATURES))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    assert "cannot be read (Permission denied); check its permissions" in message(path)


def test_bags_without_tiles(tmp_path: Path) -> None:
    nothing = np.empty((0, 8), dtype=np.float32)
    for name in ("features", "feats"):
        bag = read_any_bag(write_h5(tmp_path / f"{name}.h5", name, values=nothing, coords=np.empty((0, 2), dtype=np.int64)))
        assert (len(bag), bag.contract.dimension) == (0, 8)
    assert len(read_any_bag(write_pt(tmp_path / "s.pt", torch.empty(0, 8)))) == 0


def test_features_are_found_in_every_layout(tmp_path: Path) -> None:
    for place in ("s[1].h5", "h5_files/s2.h5", "pt_files/s3.pt", "s4.pt", "features_uni/s5.h5"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
        assert bag_path(tmp_path, Path(place).stem) == tmp_path / place
    (tmp_path / "pt_files/s2.pt").touch()
    assert bag_path(tmp_path, "s2") == tmp_path / "h5_files/s2.h5"
    (tmp_path / "features_conch").mkdir()
    assert bag_path(tmp_path, "s5") == tmp_path / "features_uni/s5.h5"
    with pytest.raises(BagError, match=r"no features of slide s9 \(looked for s9\.h5, h5_files/s9\.h5, pt_files/s9\.pt"):
        bag_path(tmp_path, "s9")
    for name in ("", "..", "../s4", "a\\b", "a\0b"):
        with pytest.raises(BagError, match="not a valid slide name"):
            bag_path(tmp_path, name)


class Malice:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_pt(tmp_path / "s.pt", {"features": torch.ones(2, 2), "x": Malice()}, _use_new_zipfile_serialization=zipped)
    assert "more than tensors" in message(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(1).expand(10**9, 1000), "stores fewer"),
        (torch.empty(10**9, 1000, device="meta"), "not hold a plain tensor"),
        (torch.eye(3).to_sparse(), "not hold a plain tensor"),
        ([torch.ones(2, 2)], "not hold a plain tensor"),
        ({"labels": torch.ones(2, 2)}, "not hold a plain tensor"),
        (torch.ones(2, 2, dtype=torch.complex64), "not numbers"),
        (torch.ones(2, 2, dtype=torch.int64), "expected (N, D) floats"),
        (torch.ones(5), "expected (N, D) floats"),
        (torch.tensor(1.0), "expected (N, D) floats"),
        (torch.tensor([[1.0, float("nan")]]), "1 of 1 instances"),
        ({"features": torch.ones(3, 2), "coords": torch.ones(2, 2)}, "3 features but coords of shape (2, 2)"),
    ],
)
def test_tensors_that_are_no_features(tmp_path: Path, value: object, said: str) -> None:
    assert said in message(write_pt(tmp_path / "s.pt", value))


def test_damaged_tensor_files(tmp_path: Path) -> None:
    whole = write_pt(tmp_path / "s.pt", torch.from_numpy(FEATURES)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in message(tmp_path / "cut.pt")
    (tmp_path / "empty.pt").touch()
    assert "empty" in message(tmp_path / "empty.pt")
    assert "no such file" in message(tmp_path / "absent.pt")
    with zipfile.ZipFile(tmp_path / "s.pt") as archive, zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in archive.infolist():
            packed.writestr(member.filename, archive.read(member))
    assert "compressed" in message(tmp_path / "z.pt")


@pytest.mark.parametrize("name", ["features", "coords"])
@pytest.mark.parametrize("kind", ["soft", "external", "storage"])
def test_links_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    other = write_h5(tmp_path / "other.h5")
    path = write_h5(tmp_path / "s.h5", about=TRIDENT)
    with h5py.File(path, "r+") as file:
        file.move(name, "hidden")
        if kind == "storage":
            shape = file["hidden"].shape
            file.create_dataset(
                name, shape, "f4" if name == "features" else "i8", external=[(str(other), 0, h5py.h5f.UNLIMITED)]
            )
        else:
            file[name] = h5py.SoftLink("/hidden") if kind == "soft" else h5py.ExternalLink(str(other), name)
    assert "link" in message(path) or "its own data" in message(path)


def test_absurd_files(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10**9, 1024), "f4", chunks=(1024, 1024))
    assert "declares" in message(path)
    assert "stores" in message(_declaring(path, (3000, 1024)))
    assert "shape ()" in message(write_h5(path, values=np.array(1, np.float32), coords=None))
    assert "no dataset 'features' or 'feats' (found: coords, imgs)" in message(write_h5(path, "imgs"))
    assert "coords of shape (5, 2)" in message(write_h5(path, coords=COORDS[:5]))
    assert "lie outside any slide" in message(write_h5(path, coords=np.full((6, 2), np.inf)))
    assert "patch_size_level0 is wide" in message(write_h5(path, about={**TRIDENT, "patch_size_level0": "wide"}))
    assert "patch_size is 0" in message(write_h5(path, about={**TRIDENT, "patch_size": 0}))
    assert "tile_size_um is []" in message(write_h5(path, "feats", tile_size_um=np.empty(0)))
    path.write_bytes(b"not HDF5")
    assert "not HDF5" in message(path)


def _declaring(path: Path, shape: tuple[int, int]) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape, "f4", chunks=(1000, 1024))
    return path


@pytest.mark.parametrize("other", ["20x/features_conch/b.h5", "10x/features_uni/a.h5"])
def test_two_encoders_or_resolutions_under_one_job_folder_are_refused(tmp_path: Path, other: str) -> None:
    """Also where no slide has both: what is then read, exported and counted would be a mixture."""
    (tmp_path / "20x/features_uni").mkdir(parents=True)
    (tmp_path / "20x/features_uni/a.h5").touch()
    (tmp_path / other).parent.mkdir(parents=True)
    (tmp_path / other).with_name(".partial-b.h5").touch()
    assert bag_path(tmp_path, "a") == tmp_path / "20x/features_uni/a.h5"
    assert feature_files([tmp_path]) == [tmp_path / "20x/features_uni/a.h5"]
    (tmp_path / other).touch()
    names = ", ".join(sorted(("20x/features_uni", str(Path(other).parent))))
    for read in (lambda: feature_files([tmp_path]), lambda: bag_path(tmp_path, "a")):
        with pytest.raises(BagError, match=f"several encoders or resolutions, {names}; give one of these folders"):
            read()
    assert feature_files([(tmp_path / other).parent]) == [tmp_path / other]


def test_files_of_a_folder_of_any_layout(tmp_path: Path) -> None:
    layouts = {
        "ours": ["a.h5", "b.pt"],
        "clam": ["h5_files/a.h5", "h5_files/b.h5", "pt_files/a.pt"],
        "tensors": ["pt_files/a.pt"],
        "trident": ["20x/features_uni/a.h5", "20x/features_uni/b.h5"],
    }
    for layout, names in layouts.items():
        for name in [*names, f"{Path(names[0]).parent}/.partial-a.h5"]:
            (tmp_path / layout / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / layout / name).touch()
    found = {
        layout: [str(path.relative_to(tmp_path / layout)) for path in feature_files([tmp_path / layout])] for layout in layouts
    }
    assert found == {**layouts, "clam": layouts["clam"][:2]}
    missing = tmp_path / "missing.h5"
    assert feature_files([tmp_path / "tensors", missing]) == [tmp_path / "tensors/pt_files/a.pt", missing]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BagError, match="nothing: no feature file"):
        feature_files([tmp_path / "nothing"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_our_bag_in_tridents_loader(tmp_path: Path, dtype: type) -> None:
    """A reader that does what TRIDENT's slide encoders and overlays do with a feature file."""
    geometry = TileGeometry(256, 0.5, 0.5, 0.2521, 0.2521, 20_000, 9_000, overlap=32, name="s1.svs")
    contract = FeatureContract("uni", "0" * 64, 8, 0.5, 256)
    write_bag(tmp_path / "s1.h5", Bag("s1", FEATURES.astype(dtype), COORDS, geometry, contract))
    with h5py.File(tmp_path / "s1.h5", "r") as file:
        coords, features, about = file["coords"][:], file["features"][:], dict(file["coords"].attrs)
    batch: dict[str, Any] = {
        "features": torch.from_numpy(features).float().unsqueeze(0),
        "coords": torch.from_numpy(coords).unsqueeze(0),
        "attributes": about,
    }
    assert batch["features"].shape == (1, 6, 8)
    assert batch["coords"].dtype == torch.int64
    np.testing.assert_array_equal(batch["coords"][0].numpy(), COORDS)
    # Positions on TRIDENT's grid are whole multiples of this size, so it must be a whole number.
    assert isinstance(about["patch_size_level0"], np.integer)
    assert (batch["coords"] // about["patch_size_level0"]).dtype == torch.int64
    size, own, target = (about[name] for name in ("patch_size", "level0_magnification", "target_magnification"))
    assert round(size * own / target) == about["patch_size_level0"] == round(256 * 0.5 / 0.2521)
    assert (about["overlap"], about["level0_width"], about["level0_height"], about["name"]) == (32, 20_000, 9_000, "s1.svs")
