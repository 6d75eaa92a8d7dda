"""HDF5 files that cannot be opened, each for its reason, and numbers of another machine or precision."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from comel.base.hdf5 import open_hdf5, read_dataset
from comel.errors import BagError

FEATURES = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)


def write(path: Path, **named: Any) -> Path:
    with h5py.File(path, "w", **named) as file:
        file["features"] = FEATURES
    return path


def refusal(path: Path) -> BagError:
    with pytest.raises(BagError) as caught, open_hdf5(path):
        pass
    assert path.name in caught.value.what
    return caught.value


def run(code: str, path: Path) -> subprocess.Popen[str]:
    """Another process, which has run ``code`` up to its line ``print('ready')`` when this returns."""
    command = [sys.executable, "-c", f"import h5py, os, time\npath = {str(path)!r}\n{code}"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    return other


def test_a_file_that_another_program_writes(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5")
    other = run("file = h5py.File(path, 'a')\nprint('ready', flush=True)\ntime.sleep(60)", path)
    try:
        error = refusal(path)
        assert "in use by another program" in error.what
        assert "wait" in error.remedy
        assert "HDF5_USE_FILE_LOCKING=FALSE" in error.remedy
    finally:
        other.kill()
        other.communicate()
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(file["features"][()], FEATURES)


def test_a_file_whose_writer_was_killed(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5", libver="latest")
    code = "file = h5py.File(path, 'a', libver='latest')\nfile.swmr_mode = True\nprint('ready', flush=True)\nos._exit(0)"
    run(code, path).communicate()
    error = refusal(path)
    assert "marked as open for writing" in error.what
    assert "h5clear -s s.h5" in error.remedy


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Unable to synchronously open file (unable to open file: errno = 13)")

    path = write(tmp_path / "s.h5")
    monkeypatch.setattr(h5py, "File", refused)
    error = refusal(path)
    assert error.what == f"{path}: cannot be read ({os.strerror(errno.EACCES)})"
    assert "permissions" in error.remedy


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 is told to go on where there are none."""
    seen = {}
    opened = h5py.File

    def noted(*arguments: Any, **named: Any) -> Any:
        seen.update(named)
        return opened(*arguments, **named)

    monkeypatch.setattr(h5py, "File", noted)
    path = write(tmp_path / "s.h5")
    with open_hdf5(path):
        assert seen["locking"] == "best-effort"


def test_what_is_not_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5")
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or not HDF5" in refusal(path).what
    path.write_bytes(b"not HDF5 at all")
    assert "truncated or not HDF5" in refusal(path).what
    path.write_bytes(b"")
    assert "empty" in refusal(path).what
    path.unlink()
    assert "no such file" in refusal(path).what


@pytest.mark.parametrize("kind", [">f2", ">f4", ">f8", ">i2", ">i8", "<f4", "u1", "longdouble"])
def test_numbers_come_in_this_machines_order(tmp_path: Path, kind: str) -> None:
    values = np.arange(72).reshape(9, 8).astype(kind)
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["features"] = values
    with open_hdf5(path) as file:
        read = read_dataset(file, "features", path, 1 << 20)
    assert read.dtype.isnative
    assert read.dtype.itemsize <= 8
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("layout", "written", "said"),
    [
        ({"chunks": (4, 3)}, 4, "1 of its 2 chunks are missing"),
        ({"chunks": (2, 3), "compression": "gzip"}, 2, "3 of its 4 chunks are missing"),
        ({"chunks": (4, 3)}, 0, "2 of its 2 chunks are missing"),
        ({}, 0, "all of it is missing"),
    ],
)
def test_what_a_stopped_program_reserved_and_never_wrote_is_not_read_as_zeros(
    layout: dict[str, Any], written: int, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", shape=(7, 3), dtype=np.float32, **layout)
        if written:
            features[:written] = 1
    with open_hdf5(path) as file, pytest.raises(BagError, match=f"'features' was never written to its end: {said}"):
        read_dataset(file, "features", path, 1 << 20)


def test_zeros_that_were_written_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("plain", data=np.zeros((7, 3)))
        file.create_dataset("chunked", data=np.zeros((7, 3)), chunks=(4, 2), compression="gzip")
        file.create_dataset("none", shape=(0, 3), maxshape=(None, 3), dtype=np.float32)
        file.create_dataset("number", data=0.0)
    with open_hdf5(path) as file:
        shapes = [read_dataset(file, name, path, 1 << 20).shape for name in ("plain", "chunked", "none", "number")]
    assert shapes == [(7, 3), (7, 3), (0, 3), ()]
