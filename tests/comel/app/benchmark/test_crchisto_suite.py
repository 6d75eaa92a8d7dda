"""The suite ``crchisto``, on a made-up archive and with a stub in place of the encoder."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comel.app.benchmark.crchisto import CrchistoSettings, make_crchisto
from comel.bags.bag import read_bag
from comel.base.settings import parse_section
from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError
from tests.comel.app.benchmark.tiny_benchmark import Stub

TINY = CrchistoSettings(seed=2, folds=3, stains=("as-scanned", "h_heavy"))


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.patch_encoders.load_encoder", lambda name, device="auto": Stub())


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    """20 patients of 2 to 5 cells, shuffled; every other patient has cancerous cells, which are darker."""
    generator = np.random.default_rng(0)
    patients = generator.permutation(np.concatenate([np.full(2 + number % 4, 100 + number) for number in range(20)]))
    positive = (patients % 2) & (generator.random(len(patients)) < 0.6)
    for number in range(101, 120, 2):
        positive[np.flatnonzero(patients == number)[0]] = 1
    images = generator.integers(120, 220, (len(patients), 27, 27, 3)) - 60 * positive[:, None, None, None]
    return {"images": images.astype(np.uint8), "patient_id": patients, "is_cancerous": positive}


@pytest.fixture
def archive(tmp_path: Path, cells: dict[str, Any]) -> Path:
    np.savez(tmp_path / "cells.npz", **cells)
    return tmp_path / "cells.npz"


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with open(manifest, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_patient_is_in_one_domain_and_one_fold(tmp_path: Path, archive: Path) -> None:
    manifest = make_crchisto(tmp_path / "stream", archive, TINY)
    rows = rows_of(manifest)
    assert sorted(row["patient_id"] for row in rows) == [str(100 + number) for number in range(20)]
    assert len({row["slide_id"] for row in rows}) == 20
    assert {row["fold"] for row in rows} == {"0", "1", "2"}
    assert read_manifest(manifest).tasks == list(TINY.stains)
    # 10 patients of either label in two domains, and each fold has some of everything.
    assert set(Counter((row["task"], row["label"]) for row in rows).values()) == {5}
    assert len(Counter((row["task"], row["label"], row["fold"]) for row in rows)) == 12
    assert max(Counter(row["fold"] for row in rows).values()) <= 8


def test_bags_hold_the_patients_cells_in_the_files_order(tmp_path: Path, archive: Path, cells: dict[str, Any]) -> None:
    from PIL import Image

    from pipelines.stain.matrix import restain

    for row in rows_of(make_crchisto(tmp_path / "stream", archive, TINY)):
        bag = read_bag(tmp_path / "stream" / "bags" / f"{row['slide_id']}.h5", verify=True)
        mine = cells["patient_id"] == int(row["patient_id"])
        np.testing.assert_array_equal(bag.labels, cells["is_cancerous"][mine])
        assert row["label"] == ("tumour" if cells["is_cancerous"][mine].any() else "normal")
        stained = restain(cells["images"][mine], row["task"])
        tiles = [np.asarray(Image.fromarray(cell).resize((96, 96), Image.Resampling.BICUBIC)) for cell in stained]
        encoder = Stub()
        encoder.input_size = 96
        np.testing.assert_allclose(bag.features, encoder.encode(np.stack(tiles)), rtol=1e-5)
        assert bag.contract.mpp == pytest.approx(0.55 * 27 / 96)
        assert (bag.contract.encoder, bag.contract.tile_size) == ("stub", 96)


def test_no_two_cells_of_a_bag_touch(tmp_path: Path, archive: Path) -> None:
    make_crchisto(tmp_path / "stream", archive, TINY)
    for path in (tmp_path / "stream" / "bags").iterdir():
        bag = read_bag(path)
        assert bag.coords is not None
        apart = np.abs(bag.coords[:, None] - bag.coords[None]).max(axis=2)
        assert (apart + 1000 * np.eye(len(bag)) > 96).all()


def test_a_seed_draws_domains_and_folds_again(tmp_path: Path, archive: Path) -> None:
    one = make_crchisto(tmp_path / "one", archive, TINY).parent
    two = make_crchisto(tmp_path / "two", archive, TINY).parent
    three = make_crchisto(tmp_path / "three", archive, TINY.model_copy(update={"seed": 3})).parent
    assert {p.name: p.read_bytes() for p in (one / "bags").iterdir()} == {
        p.name: p.read_bytes() for p in (two / "bags").iterdir()
    }
    assert (one / "manifest.csv").read_bytes() == (two / "manifest.csv").read_bytes()
    assert (one / "manifest.csv").read_bytes() != (three / "manifest.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": None}, "images"),
        ({"images": np.zeros((4, 27, 27), np.uint8)}, "images are uint8 (4, 27, 27), not uint8 (N, height, width, 3)"),
        ({"is_cancerous": np.zeros(3, int)}, "are not one per cell"),
        ({"patient_id": np.array([{"pickled": 1}] * 70, dtype=object)}, "allow_pickle"),
    ],
)
def test_an_archive_of_something_else(tmp_path: Path, cells: dict[str, Any], change: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "cells.npz", **{key: value for key, value in (cells | change).items() if value is not None})
    with pytest.raises(ConfigError) as error:
        make_crchisto(tmp_path / "stream", tmp_path / "cells.npz", TINY)
    assert "not the cells' archive" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY", None])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cells.npz"
    if content is None:
        np.save(tmp_path / "cells.npy", np.zeros(3))
        path = tmp_path / "cells.npy"
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="not the cells' archive"):
        make_crchisto(tmp_path / "stream", path, TINY)


def test_too_few_patients(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(ConfigError, match="10 patients with or without cancerous cells, for 11 folds and 2 stains"):
        make_crchisto(tmp_path / "stream", archive, TINY.model_copy(update={"folds": 11}))


@pytest.mark.parametrize(
    ("stains", "said"),
    [
        (["as-scanned", "h-heavy"], "no stain 'h-heavy', did you mean 'h_heavy'?"),
        (["light", "light"], "a stain is named twice"),
    ],
)
def test_stains_that_do_not_fit(stains: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_section(CrchistoSettings, {"stains": stains}, "crchisto: make")
    assert said in str(error.value)
