"""Feature files as other programs, other machines and strangers leave them: read as they are meant, or refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from comel.bags.bag import FORMAT, LARGEST_FEATURE, read_bag, read_bag_header, write_bag
from comel.bags.foreign import instance_count, read_any_bag
from comel.errors import BagError
from tests.comel.toys import DIMENSION, make_bag

FEATURES = np.random.default_rng(0).normal(size=(7, DIMENSION)).astype(np.float32)
COORDS = np.arange(14).reshape(7, 2).astype(np.int64) * 256
Change = Callable[[h5py.File], None]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write_bag(tmp_path / "s.h5", make_bag("s", FEATURES))
    return tmp_path / "s.h5"


def foreign(path: Path, features: Any = FEATURES, coords: Any = COORDS) -> Path:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, coords
    return path


def changed(path: Path, change: Change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """The one line of an error, within ten minutes: a reader that waits for a pipe waits for ever."""
    said: list[str] = []

    def work() -> None:
        try:
            read(path)
        except BagError as error:
            said.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(600)
    assert not thread.is_alive(), "it waits"
    assert said, "it is read"
    assert "\n" not in said[0]
    return said[0]


def replaced(name: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        about = dict(file[name].attrs)
        del file[name]
        file[name] = value
        file[name].attrs.update(about)

    return change


# Numbers of other machines


@pytest.mark.parametrize("kind", [">f4", ">f2", ">f8", "<f8", "longdouble"])
@pytest.mark.parametrize("place", [">i4", ">i8", "<u8", ">u2", ">f4"])
def test_other_orders_and_widths_of_numbers_are_the_same_numbers(kind: str, place: str, tmp_path: Path) -> None:
    path = foreign(tmp_path / "s.h5", FEATURES.astype(kind), COORDS.astype(place))
    bag = read_any_bag(path)
    np.testing.assert_allclose(bag.features, FEATURES, rtol=2e-3 if kind == ">f2" else 1e-6)
    np.testing.assert_array_equal(bag.coords, COORDS)
    for array in bag.arrays().values():
        assert array.dtype.isnative
        assert array.dtype.itemsize <= 8


@pytest.mark.parametrize("kind", [">f4", "longdouble"])
def test_the_same_in_a_bag_of_our_layout_goes_through_a_model(kind: str, own: Path) -> None:
    import torch

    from comel.models.batch import make_batch

    changed(own, replaced("features", FEATURES.astype(kind)))
    batch = make_batch(read_any_bag(own), torch.device("cpu"))
    np.testing.assert_allclose(batch.features[0].numpy(), FEATURES, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e25, -1e25, LARGEST_FEATURE * 1.01])
@pytest.mark.parametrize("layout", ["own", "foreign", "pt"])
def test_what_no_encoder_gives_is_refused(value: float, layout: str, own: Path, tmp_path: Path) -> None:
    import torch

    features = FEATURES.copy()
    features[2:5, 3] = value
    path = own
    if layout == "own":
        changed(own, replaced("features", features))
    elif layout == "foreign":
        path = foreign(tmp_path / "t.h5", features)
    else:
        path = tmp_path / "t.pt"
        torch.save(torch.from_numpy(features), path)
    said = refusal(read_any_bag, path)
    assert str(path) in said
    assert "3 of 7 instances have " in said


def test_what_an_encoder_may_give_is_read(tmp_path: Path) -> None:
    features = FEATURES.copy()
    features[0, 0], features[1, 1] = LARGEST_FEATURE, -LARGEST_FEATURE
    np.testing.assert_array_equal(read_any_bag(foreign(tmp_path / "s.h5", features)).features, features)


@pytest.mark.parametrize("value", [2**41, -(2**41)])
@pytest.mark.parametrize("layout", ["own", "foreign"])
def test_coords_that_lie_on_no_slide(value: int, layout: str, own: Path, tmp_path: Path) -> None:
    coords = COORDS.copy()
    coords[3, 1] = value
    path = changed(own, replaced("coords", coords)) if layout == "own" else foreign(tmp_path / "t.h5", FEATURES, coords)
    assert "slide" in refusal(read_any_bag, path)


def test_coords_beyond_every_integer(own: Path, tmp_path: Path) -> None:
    huge = np.full((7, 2), 2**63 + 5, np.uint64)
    assert "slide" in refusal(read_any_bag, changed(own, replaced("coords", huge)))
    assert "slide" in refusal(read_any_bag, foreign(tmp_path / "t.h5", FEATURES, huge))


# Files that somebody has, or has left


@pytest.mark.parametrize("read", [read_any_bag, read_bag_header, instance_count])
def test_a_file_that_another_program_writes(read: Callable[[Path], object], own: Path) -> None:
    code = f"import h5py, sys\nfile = h5py.File({str(own)!r}, 'a')\nprint('open', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        said = refusal(read, own)
        writer.communicate()
    assert "in use by another program, which holds a lock on it; wait until it has closed the file" in said
    assert "extract" not in said
    read(own)


def test_a_file_whose_writer_was_killed(tmp_path: Path) -> None:
    code = f"""
import h5py, numpy, os
file = h5py.File({str(tmp_path / "s.h5")!r}, "w", libver="latest")
file["features"], file["coords"] = numpy.ones((3, 4), "f4"), numpy.zeros((3, 2), int)
file.swmr_mode = True
file.flush()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    said = refusal(read_any_bag, tmp_path / "s.h5")
    assert "marked as open for writing by another program; wait until it has closed the file" in said
    assert "h5clear -s" in said
    assert "truncated" not in said


def test_damaged_files_say_so(own: Path, tmp_path: Path) -> None:
    content = own.read_bytes()
    for size in (1, 100, len(content) // 2, len(content) - 1):
        own.write_bytes(content[:size])
        assert "truncated or not HDF5" in refusal(read_any_bag, own)
    own.write_bytes(b"")
    assert "the file is empty" in refusal(read_any_bag, own)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(own: Path) -> None:
    own.chmod(0)
    assert "permission denied" in refusal(read_any_bag, own)


# Files that lead elsewhere


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a pipe", "link to nothing"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        if kind == "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    assert ("no such file" if kind == "link to nothing" else "not a file but a folder, a pipe or a device") in refusal(
        read_any_bag, path
    )


@pytest.mark.parametrize("name", ["features", "feats", "coords", "labels", "parent", "quality", "quality/ink", "scales"])
@pytest.mark.parametrize("link", ["external pipe", "external file", "soft", "dangling"])
@pytest.mark.parametrize("layout", ["own", "foreign"])
def test_links_are_refused_and_not_followed(name: str, link: str, layout: str, own: Path, tmp_path: Path) -> None:
    """A reader that asks HDF5 whether the name is there has opened the other file already, and waits where that is a pipe."""
    path = own if layout == "own" else foreign(tmp_path / "t.h5")
    os.mkfifo(tmp_path / "pipe")
    other = foreign(tmp_path / "other.h5")

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = {
            "external pipe": h5py.ExternalLink(str(tmp_path / "pipe"), "/features"),
            "external file": h5py.ExternalLink(str(other), "/features"),
            "soft": h5py.SoftLink("/coords"),
            "dangling": h5py.SoftLink("/nowhere"),
        }[link]

    changed(path, change)
    read = {"features", "coords"} | (
        {"feats"} if layout == "foreign" else {"labels", "parent", "quality", "quality/ink", "scales"}
    )
    if name in read:
        assert f"'{name}' is a link; give a file that holds its own data" in refusal(read_any_bag, path)
    else:
        assert len(read_any_bag(path)) == 7
    if name == "features":
        for reader in (read_bag_header, instance_count):
            assert "is a link" in refusal(reader, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.attrs.update(slide_id="../../elsewhere"), "slide_id is not a valid slide name"),
        (lambda file: file.attrs.update(slide_id="a/b"), "slide_id is not a valid slide name"),
        (lambda file: file.attrs.update(slide_id=".hidden"), "slide_id is not a valid slide name"),
        (lambda file: file.attrs.update(slide_id="a\x1b[2Jb"), "slide_id is not a valid slide name"),
        (lambda file: file.attrs.update(slide_id="x" * 256), "slide_id is not a valid slide name"),
        (lambda file: file.attrs.update(encoder="toy\n=1+1"), "encoder's name contains control characters"),
        (lambda file: file.attrs.update(settings='{"a": NaN}'), "settings attribute is not JSON"),
        (lambda file: file.attrs.update(settings="[" * 100_000), "settings attribute is not JSON"),
        (lambda file: file.attrs.update(notes='{"a": 1, "a": 2}'), "notes attribute is not JSON"),
        (lambda file: file["coords"].attrs.update(patch_size="many"), "are not numbers"),
        (lambda file: file["coords"].attrs.update(patch_size=float("nan")), "are not numbers"),
        (lambda file: file["coords"].attrs.update(mpp_x=[1.0, 2.0]), "are not numbers"),
        (lambda file: file["coords"].attrs.update(mpp_x=float("inf")), "absurd"),
        (lambda file: file["coords"].attrs.update(level0_width=2**40), "absurd"),
        (lambda file: file["coords"].attrs.update(level0_height=-1), "absurd"),
        (lambda file: file["coords"].attrs.update(patch_size=0), "absurd"),
        (lambda file: file.attrs.update({f"a{i}": i for i in range(300)}), "attributes"),
        (lambda file: file.attrs.update(a=np.array(["x"] * 2000, dtype=object)), "an attribute is too large"),
    ],
)  # fmt: skip
def test_attributes_that_are_not_of_a_bag(change: Change, said: str, own: Path) -> None:
    assert said in refusal(read_any_bag, changed(own, change))


# Formats


@pytest.mark.parametrize("read", [read_any_bag, read_bag, read_bag_header])
def test_a_newer_format_is_called_newer_before_anything_else_is_looked_at(read: Callable[[Path], object], own: Path) -> None:
    def change(file: h5py.File) -> None:
        file.attrs.update(format=FORMAT + 2, comel_version="0.9.1")
        del file["features"]

    said = refusal(read, changed(own, change))
    assert f"written by comel 0.9.1, format {FORMAT + 2}; this is comel " in said
    assert said.endswith("update comel")


def test_the_format_is_written_and_one_without_it_is_the_first(own: Path) -> None:
    with h5py.File(own) as file:
        assert file.attrs["format"] == FORMAT
    changed(own, lambda file: file.attrs.pop("format"))
    assert len(read_any_bag(own, verify=True)) == 7


@pytest.mark.parametrize("value", [0, -1, "two", 1.5, [1, 2]])
def test_a_format_that_is_none(value: object, own: Path) -> None:
    assert "damaged (format" in refusal(read_any_bag, changed(own, lambda file: file.attrs.update(format=value)))
