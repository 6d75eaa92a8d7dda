"""Files are complete or absent, and hashes tell different content apart."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.base.files import (
    atomic_path,
    canonical_json,
    read_json,
    sha256_of_arrays,
    sha256_of_file,
    sha256_of_json,
    write_json,
    write_text,
)
from tests.comel.toys import killed, tree


def test_a_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    write_text(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".txt"
        assert target.read_text() == "old"
    assert tree(tmp_path) == {"new/folder/a.txt": b"half"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == {"a.txt": b"old"}


def test_a_process_killed_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    assert killed(lambda: write_text(target, "new"), at=1) == 1
    assert target.read_text() == "old"


def test_a_name_of_many_bytes_is_written(tmp_path: Path) -> None:
    target = tmp_path / ("語" * 80 + ".json")
    write_json(target, {"a": 1}, mode=0o600)
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_no_folder_is_made_where_none_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "gone" / "a.txt", parents=False):
        pass
    assert tree(tmp_path) == {}


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_json_comes_back_and_nan_is_refused(tmp_path: Path) -> None:
    value = {"größe": [1, 2.5, None, True], "b": {"c": "µm"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == value


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_equal_values_have_one_text_whatever_their_order(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned)
    assert sha256_of_json(value) == sha256_of_json(turned)
    assert sha256_of_json({**value, "another key": 1}) != sha256_of_json(value)


def test_hash_of_arrays_sees_value_shape_type_and_name() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    changed = array.copy()
    changed[1, 1] = np.nextafter(changed[1, 1], np.float32(9))
    others: list[dict[str, np.ndarray]] = [
        *({"a": other} for other in (changed, array.reshape(3, 2), array.view(np.int32))),
        {"b": array},
        {"a": array, "b": array},
    ]
    hashes = {sha256_of_arrays(arrays) for arrays in [{"a": array}, *others]}
    assert len(hashes) == 6
    assert sha256_of_arrays({"a": np.asfortranarray(array)}) == sha256_of_arrays({"a": array})
    assert sha256_of_arrays({"a": array[:0]}) != sha256_of_arrays({"a": array})


def test_hash_of_a_file_counts_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * (1 << 20) + b"y")
    read: list[int] = []
    first = sha256_of_file(path, progress=read.append)
    assert read == [1 << 20, 1]
    path.write_bytes(b"x" * (1 << 20) + b"z")
    assert sha256_of_file(path) != first
