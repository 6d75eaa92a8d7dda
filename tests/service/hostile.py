"""Uploads that nobody sends by accident: each builds the arguments of one POST /v1/predictions that must be refused."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

Arguments = dict[str, Any]
Builder = Callable[[Path], Arguments]
UPLOADS: dict[str, Builder] = {}
"""Every hostile upload by name; a builder is given an empty folder."""


def hostile(builder: Builder) -> Builder:
    UPLOADS[builder.__name__] = builder
    return builder


def as_bag(content: bytes, name: str = "hostile.h5", **form: str) -> Arguments:
    return {"files": {"bag": (name, content)}, "data": {"assume_encoder": "fake-encoder", **form}}


def as_json(content: bytes | str) -> Arguments:
    return {"content": content, "headers": {"content-type": "application/json"}}


class Written:
    """The bytes of a file after it was closed."""

    content = b""

    @property
    def bag(self) -> Arguments:
        return as_bag(self.content)


@contextmanager
def hdf5(folder: Path, *, whole: bool = True, **how: Any) -> Iterator[tuple[Any, Written]]:
    """A file to make hostile; with ``whole`` it is a bag of four tiles that would be taken as it is."""
    written = Written()
    with h5py.File(folder / "hostile.h5", "w", **how) as file:
        if whole:
            file["features"] = np.full((4, 8), 0.25, np.float32)
            file["coords"] = np.arange(8).reshape(4, 2) * 128
        yield file, written
    written.content = (folder / "hostile.h5").read_bytes()


@hostile
def huge_declared_shape(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", shape=(2**40, 1024), dtype="f4", chunks=(1024, 64))
    return written.bag


@hostile
def overflowing_shape(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", shape=(2**33, 2**33), dtype="f8", chunks=(64, 64))
    return written.bag


@hostile
def sparse_features_that_expand(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", shape=(40_000, 256), dtype="f4", chunks=(1000, 256), compression="gzip")
        file["coords"] = np.zeros((40_000, 2), int)
    return written.bag


@hostile
def many_instances_of_nothing(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", shape=(1, 10**7, 1), dtype="u1", chunks=(1, 10**6, 1), compression="gzip")
    return written.bag


@hostile
def one_huge_chunk(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        made = file.create_dataset("features", shape=(4, 8), maxshape=(None, 8), chunks=(2**26, 8), dtype="f4")
        assert made.chunks == (2**26, 8)
    return written.bag


@hostile
def deep_groups(folder: Path) -> Arguments:
    with hdf5(folder) as (file, written):
        place = file
        for _ in range(3000):
            place = place.create_group("g")
    return written.bag


@hostile
def crowded_group(folder: Path) -> Arguments:
    with hdf5(folder, libver="latest") as (file, written):
        group = file.create_group("many")
        for index in range(3000):
            group[str(index)] = h5py.SoftLink("/features")
    return written.bag


@hostile
def soft_link(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["real"] = np.zeros((4, 8), np.float32)
        file["features"] = h5py.SoftLink("/real")
    return written.bag


@hostile
def soft_link_to_itself(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = h5py.SoftLink("/features")
    return written.bag


@hostile
def external_link(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = h5py.ExternalLink("/etc/passwd", "/")
    return written.bag


@hostile
def external_link_to_a_device(folder: Path) -> Arguments:
    with hdf5(folder) as (file, written):
        file["labels"] = h5py.ExternalLink("/dev/zero", "/labels")
    return written.bag


@hostile
def external_storage(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", shape=(4, 8), dtype="f4", external=[("/etc/passwd", 0, 128)])
    return written.bag


@hostile
def virtual_dataset(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        layout = h5py.VirtualLayout(shape=(4, 8), dtype="f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "features", shape=(4, 8))
        file.create_virtual_dataset("features", layout)
    return written.bag


@hostile
def hard_link_cycle(folder: Path) -> Arguments:
    with hdf5(folder) as (file, written):
        file["again"] = file["/"]
    return written.bag


@hostile
def other_filter(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", data=np.zeros((400, 8), np.float32), chunks=(40, 8), scaleoffset=2)
    return written.bag


@hostile
def broken_gzip(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", shape=(400, 8), dtype="f4", chunks=(400, 8), compression="gzip")
        file["features"].id.write_direct_chunk((0, 0), b"\xff" * 500)
    return written.bag


@hostile
def gzip_bomb(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", data=np.zeros((400_000, 8), np.float32), chunks=(100_000, 8), compression="gzip")
    return written.bag


@hostile
def one_string_read_many_times(folder: Path) -> Arguments:
    with hdf5(folder, libver="latest") as (file, written):
        kind = h5py.string_dtype()
        file.attrs.create("settings", data=np.array(["x" * 100] * 20_000, dtype=object), dtype=kind)
    return written.bag


@hostile
def many_attributes(folder: Path) -> Arguments:
    with hdf5(folder, libver="latest") as (file, written):
        for index in range(500):
            file["coords"].attrs[f"a{index}"] = index
    return written.bag


@hostile
def settings_nested_without_end(folder: Path) -> Arguments:
    with hdf5(folder) as (file, written):
        file.attrs["comel_version"] = "1"
        file.attrs["settings"] = "[" * 50_000
    return written.bag


@hostile
def features_are_strings(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = np.array([b"a", b"b"])
    return written.bag


@hostile
def features_are_a_group(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_group("features")
    return written.bag


@hostile
def features_are_references(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file.create_dataset("features", data=[file.ref] * 4, dtype=h5py.ref_dtype)
    return written.bag


@hostile
def features_are_compound(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = np.zeros(4, dtype=[("a", "f4"), ("b", "i8")])
    return written.bag


@hostile
def features_are_empty(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = h5py.Empty("f4")
    return written.bag


@hostile
def a_single_number(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = np.float32(1)
    return written.bag


@hostile
def infinite_features(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (file, written):
        file["features"] = np.full((4, 8), np.inf, np.float32)
    return written.bag


@hostile
def coords_on_no_slide(folder: Path) -> Arguments:
    with hdf5(folder) as (file, written):
        file["coords"][...] = np.iinfo(np.int64).max
    return written.bag


@hostile
def absurd_tile_size(folder: Path) -> Arguments:
    with hdf5(folder) as (file, written):
        file["coords"].attrs["patch_size_level0"] = -1
    return written.bag


@contextmanager
def own_bag(folder: Path, **geometry: float) -> Iterator[tuple[Any, Written]]:
    """A bag as comel extract writes it; ``geometry`` replaces what it says of its tiles."""
    stated = {"patch_size": 64, "mpp_x": 0.5, "mpp_y": 0.5, "level0_mpp_x": 0.25, "level0_mpp_y": 0.25}
    stated |= {"level0_width": 2000, "level0_height": 2000, **geometry}
    with hdf5(folder) as (file, written):
        file.attrs["comel_version"] = "1"
        file.attrs["encoder"] = "fake-encoder"
        for name, value in stated.items():
            file["coords"].attrs[name] = value
        yield file, written


@hostile
def own_bag_on_no_slide(folder: Path) -> Arguments:
    with own_bag(folder) as (file, written):
        file["coords"][...] = np.iinfo(np.int64).max
    return written.bag


@hostile
def own_bag_with_huge_features(folder: Path) -> Arguments:
    with own_bag(folder) as (file, written):
        file["features"][...] = 3e38
    return written.bag


@hostile
def own_bag_whose_name_is_not_unicode(folder: Path) -> Arguments:
    with own_bag(folder) as (file, written):
        file.attrs.create("slide_id", b"\xff\xfe", dtype=h5py.string_dtype())
    return written.bag


@hostile
def own_bag_with_an_endless_name(folder: Path) -> Arguments:
    with own_bag(folder) as (file, written):
        file.attrs["slide_id"] = "a" * 60_000
    return written.bag


@hostile
def own_bag_of_infinite_width(folder: Path) -> Arguments:
    with own_bag(folder, level0_width=np.inf) as (_, written):
        pass
    return written.bag


@hostile
def own_bag_of_a_tower(folder: Path) -> Arguments:
    with own_bag(folder, level0_width=1, level0_height=2**62) as (_, written):
        pass
    return written.bag


@hostile
def own_bag_of_endless_tiles(folder: Path) -> Arguments:
    with own_bag(folder, mpp_x=1e300) as (_, written):
        pass
    return written.bag


@hostile
def own_bag_of_vanishing_tiles(folder: Path) -> Arguments:
    with own_bag(folder, mpp_x=1e-300, mpp_y=1e-300) as (_, written):
        pass
    return written.bag


@hostile
def own_bag_of_tiny_tiles_far_apart(folder: Path) -> Arguments:
    with own_bag(folder, patch_size=1, mpp_x=0.001, mpp_y=0.001, level0_width=2**31, level0_height=2**31) as (file, written):
        file["coords"][...] = [[0, 0], [1, 2**30], [2**30, 1], [2**30, 2**30]]
    return written.bag


@hostile
def nothing_inside(folder: Path) -> Arguments:
    with hdf5(folder, whole=False) as (_, written):
        pass
    return written.bag


@hostile
def signature_only(folder: Path) -> Arguments:
    return as_bag(b"\x89HDF\r\n\x1a\n")


@hostile
def signature_and_noise(folder: Path) -> Arguments:
    return as_bag(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(50_000))


@hostile
def superblock_with_a_wrong_end(folder: Path) -> Arguments:
    with hdf5(folder) as (_, written):
        pass
    content = bytearray(written.content)
    content[40:48] = struct.pack("<Q", 2**63)
    return as_bag(bytes(content))


@hostile
def tiff_as_bag(folder: Path) -> Arguments:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(16, 16))
    return as_bag(buffer.getvalue(), "slide.svs")


@hostile
def tiff_whose_directory_leads_to_itself(folder: Path) -> Arguments:
    entry = struct.pack("<HHII", 256, 3, 1, 2**31)
    return as_bag(b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8))


@hostile
def big_tiff_that_declares_terabytes(folder: Path) -> Arguments:
    entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, 2**31 - 1) for tag in (256, 257))
    return as_bag(b"II+\x00\x08\x00\x00\x00" + struct.pack("<Q", 16) + struct.pack("<Q", 2) + entries + bytes(8))


@hostile
def zip_as_bag(folder: Path) -> Arguments:
    return as_bag(b"PK\x03\x04" + bytes(60), "features.pt")


@hostile
def pickle_as_bag(folder: Path) -> Arguments:
    return as_bag(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", "features.pt")


@hostile
def body_too_large(folder: Path) -> Arguments:
    return as_bag(b"\x89HDF\r\n\x1a\n" + bytes(5 << 20))


@hostile
def body_that_states_no_length(folder: Path) -> Arguments:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="bag"; filename="a.h5"\r\n\r\n'
        yield from (bytes(1 << 20) for _ in range(10))

    return {"content": chunks(), "headers": {"content-type": "multipart/form-data; boundary=x"}}


@hostile
def headers_of_a_part_without_end(folder: Path) -> Arguments:
    content = b'--x\r\nContent-Disposition: form-data; name="bag"; filename="' + b"a" * (3 << 20) + b'"\r\n\r\nx\r\n--x--\r\n'
    return {"content": content, "headers": {"content-type": "multipart/form-data; boundary=x"}}


@hostile
def thousands_of_fields(folder: Path) -> Arguments:
    part = b'--x\r\nContent-Disposition: form-data; name="task"\r\n\r\ny\r\n'
    return {"content": part * 20_000 + b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}


@hostile
def boundary_that_is_none(folder: Path) -> Arguments:
    return {"content": b"--\r\n\r\n", "headers": {"content-type": "multipart/form-data; boundary=\xff\xfe".encode("latin-1")}}


@hostile
def length_that_is_no_number(folder: Path) -> Arguments:
    return {"content": b"{}", "headers": {"content-type": b"application/json", "content-length": b"\xb2"}}


@hostile
def json_nested_without_end(folder: Path) -> Arguments:
    return as_json("[" * 60_000)


@hostile
def json_objects_nested_without_end(folder: Path) -> Arguments:
    return as_json('{"slide":' * 7_000)


@hostile
def json_too_large(folder: Path) -> Arguments:
    return as_json(json.dumps({"slide": "a" * (1 << 20)}))


@hostile
def json_that_is_not_unicode(folder: Path) -> Arguments:
    return as_json(b'{"slide": "\xff\xfe.svs"}')


@hostile
def json_with_half_a_surrogate(folder: Path) -> Arguments:
    return as_json('{"slide": "\\ud800.svs"}')


@hostile
def json_with_an_endless_number(folder: Path) -> Arguments:
    return as_json('{"slide": "a.svs", "mpp": 1' + "0" * 5000 + "}")


@hostile
def json_with_nan(folder: Path) -> Arguments:
    return as_json('{"slide": "a.svs", "mpp": NaN}')


@hostile
def json_slide_with_a_null(folder: Path) -> Arguments:
    return as_json('{"slide": "a\\u0000.svs"}')


@hostile
def json_slide_that_climbs(folder: Path) -> Arguments:
    return as_json('{"slide": "../../../../etc/passwd"}')


@hostile
def json_slide_of_a_thousand_folders(folder: Path) -> Arguments:
    return as_json(json.dumps({"slide": "a/" * 500 + "b"}))


SLIDES: dict[str, Callable[[Path], bytes]] = {}
"""Hostile slides by name, for a resumable upload; the last six are a good one damaged at random."""


def hostile_slide(builder: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    SLIDES[builder.__name__] = builder
    return builder


def a_tiff(folder: Path, **how: Any) -> bytes:
    """A pyramid-less tiled TIFF of noise that would be taken as it is."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64), **how)
    return (folder / "slide.tif").read_bytes()


def with_tags(content: bytes, **values: int) -> bytes:
    """A little-endian classic TIFF whose first directory states other values."""
    numbers = {"width": 256, "length": 257, "bits": 258, "compression": 259, "tile_width": 322, "tile_length": 323}
    changed = bytearray(content)
    (start,) = struct.unpack_from("<I", changed, 4)
    (count,) = struct.unpack_from("<H", changed, start)
    wanted = {numbers[name]: value for name, value in values.items()}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", changed, place)
        if tag in wanted:
            struct.pack_into("<HII", changed, place + 2, 4, 1, wanted[tag])
    return bytes(changed)


@hostile_slide
def slide_of_absurd_size(folder: Path) -> bytes:
    return with_tags(a_tiff(folder), width=2**31 - 64, length=2**31 - 64)


@hostile_slide
def slide_of_absurd_tiles(folder: Path) -> bytes:
    return with_tags(a_tiff(folder), tile_width=2**30, tile_length=2**30)


@hostile_slide
def slide_of_no_tiles(folder: Path) -> bytes:
    return with_tags(a_tiff(folder), tile_width=0, tile_length=0)


@hostile_slide
def slide_without_width(folder: Path) -> bytes:
    return with_tags(a_tiff(folder), width=0)


@hostile_slide
def slide_whose_directory_leads_to_itself(folder: Path) -> bytes:
    entry = struct.pack("<HHII", 256, 4, 1, 512)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)


@hostile_slide
def slide_that_declares_terabytes(folder: Path) -> bytes:
    entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, 2**31 - 1) for tag in (256, 257))
    return b"II+\x00\x08\x00\x00\x00" + struct.pack("<Q", 16) + struct.pack("<Q", 2) + entries + bytes(8)


@hostile_slide
def slide_cut_in_half(folder: Path) -> bytes:
    content = a_tiff(folder)
    return content[: len(content) // 2]


@hostile_slide
def slide_that_is_a_script(folder: Path) -> bytes:
    return b"#!/bin/sh\ntouch pwned\n" * 100


def fuzzed_slide(seed: int) -> Callable[[Path], bytes]:
    def build(folder: Path) -> bytes:
        content = np.frombuffer(a_tiff(folder), np.uint8).copy()
        random = np.random.default_rng(seed)
        (start,) = struct.unpack_from("<I", content.tobytes(), 4)
        places = start + random.integers(0, min(len(content) - start, 400), 30)
        content[places] = random.integers(0, 256, len(places))
        return content.tobytes()

    return build


for number in range(6):
    SLIDES[f"fuzzed_slide_{number}"] = fuzzed_slide(number)


def fuzzed(seed: int) -> Builder:
    """A good bag with a fortieth of its metadata overwritten at random."""

    def build(folder: Path) -> Arguments:
        with hdf5(folder) as (_, written):
            pass
        content = np.frombuffer(written.content, np.uint8).copy()
        random = np.random.default_rng(seed)
        places = random.integers(8, min(len(content), 2048), 50)
        content[places] = random.integers(0, 256, len(places))
        return as_bag(content.tobytes())

    return build


for number in range(12):
    UPLOADS[f"fuzzed_{number}"] = fuzzed(number)
