"""What a folder of features holds beside those that are read, counted by kind."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from comel.bags.foreign import bag_path, feature_files
from comel.bags.left_out import count_left_out, said_left_out


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_features_and_slides_that_are_not_read_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.h5", "b.pt", "c.npy", "d.npy", "e.NPZ", "f.svs", "deep/g.h5", ".h.h5", "failures.csv", "overlays/a.png")
    touch(tmp_path, "features.zarr/0.0", "features.zarr/more.npy")
    used = feature_files([tmp_path])
    counts = count_left_out([tmp_path, tmp_path], used)
    assert counts == {".npy": 2, ".npz": 1, ".svs": 1, ".h5": 1, ".zarr": 1}
    assert "2 .npy, 1 " in str(said_left_out([tmp_path], used))


def test_the_same_slides_in_another_layout_are_not_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "h5_files/a.h5", "pt_files/a.pt", "pt_files/b.pt", "patches/a.h5")
    assert count_left_out([tmp_path], feature_files([tmp_path])) == {".pt": 1}
    assert count_left_out(feature_files([tmp_path]), []) == {}


def test_nothing_left_out_says_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.h5", "b.h5")
    assert said_left_out([tmp_path], feature_files([tmp_path])) is None


def test_a_bag_is_found_by_its_name_in_another_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Präparat é") for form in ("NFC", "NFD"))
    for place in ("{}.h5", "h5_files/{}.h5", "pt_files/{}.pt", "{}.pt", "features_uni/{}.h5"):
        for stored, asked in ((composed, decomposed), (decomposed, composed)):
            folder = tmp_path / place.replace("/", "-").format(stored)
            touch(folder, place.format(stored))
            assert bag_path(folder, asked) == folder / place.format(stored)
