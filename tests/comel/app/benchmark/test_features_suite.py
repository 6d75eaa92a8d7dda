"""The suite ``features``: what is drawn, and that a seed draws it again."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.app.benchmark.features import FeatureSettings, _bags, _blot, make_features
from comel.app.benchmark.storage import MadeBag, square, within
from comel.bags.bag import read_bag
from comel.base.settings import parse_section
from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError

TINY = {"tasks": 2, "dimension": 16, "train": 4, "val": 2, "test": 4, "tiles": (12, 30)}


def connected(cells: np.ndarray) -> bool:
    """Whether cells hang together through sides and corners, by flood fill."""
    left = {tuple(int(v) for v in cell) for cell in cells}
    edge = [left.pop()]
    while edge:
        x, y = edge.pop()
        near = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
        left -= near
        edge += near
    return not left


def drawn(**changed: object) -> list[MadeBag]:
    return list(_bags(FeatureSettings(**{"seed": 3, **changed})))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    make_features(tmp_path / "here", FeatureSettings(seed=5, **TINY))
    code = f"""
from pathlib import Path
from comel.app.benchmark.features import FeatureSettings, make_features
make_features(Path({str(tmp_path / "there")!r}), FeatureSettings(seed=5, **{TINY!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, env={"PYTHONHASHSEED": "77", "PATH": ""})
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    assert len(here) == 21  # 20 bags and the manifest
    assert here == there
    make_features(tmp_path / "other", FeatureSettings(seed=6, **TINY))
    other = files(tmp_path / "other")
    assert all(other[name] != content for name, content in here.items() if name.endswith(".h5"))


def test_a_task_more_or_more_bags_change_none_of_the_others() -> None:
    few = {made.name: made.features for made in drawn(**TINY)}
    more = {made.name: made.features for made in drawn(**{**TINY, "tasks": 3, "test": 6})}
    assert few.keys() < more.keys()
    for name, features in few.items():
        np.testing.assert_array_equal(features, more[name])


def test_manifest_and_bags_agree(tmp_path: Path) -> None:
    manifest = read_manifest(make_features(tmp_path, FeatureSettings(seed=1, **TINY)))
    assert manifest.tasks == ["organ1", "organ2"]
    counts = Counter((row.task, row.split, row.label) for row in manifest.rows)
    for task in manifest.tasks:
        for split, each in (("train", 2), ("val", 1), ("test", 2)):
            assert (counts[task, split, "normal"], counts[task, split, "tumour"]) == (each, each)
    for row in manifest.rows:
        bag = read_bag(tmp_path / "bags" / f"{row.slide_id}.h5", verify=True)
        assert bag.labels is not None
        assert bag.labels.any() == (row.label == "tumour")
        assert bag.features.shape == (len(bag), 16)
        assert 12 <= len(bag) <= 30
        assert bag.coords is not None
        order = np.lexsort((bag.coords[:, 0], bag.coords[:, 1]))
        np.testing.assert_array_equal(order, np.arange(len(bag)))


def test_tumour_covers_1_to_20_percent_and_hangs_together() -> None:
    shares = []
    for made in drawn(tasks=3, dimension=8, train=40, val=2, test=2, tiles=(40, 160)):
        if made.labels.any():
            shares.append(made.labels.mean())
            assert connected(made.cells[made.labels])
    assert 0.01 <= min(shares) < 0.04
    assert 0.16 < max(shares) <= 0.20


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 2**32))
def test_a_blot_hangs_together_wherever_it_lies(count: int, share: float, seed: int) -> None:
    cells = square(count)
    wanted = max(1, round(share * count))
    blot = _blot(np.random.default_rng(seed), cells, wanted)
    assert blot.sum() == wanted
    assert connected(cells[blot])


@settings(deadline=None)
@given(st.integers(5, 500), st.floats(0, 1), st.sampled_from([(0.01, 0.20), (0.04, 0.30)]))
def test_a_share_of_tiles_is_a_whole_number_within_its_bounds(count: int, at: float, shares: tuple[float, float]) -> None:
    share = shares[0] + at * (shares[1] - shares[0])
    chosen = within(share, shares, count)
    possible = [n for n in range(1, count + 1) if shares[0] <= n / count <= shares[1]]
    assert chosen in possible
    assert abs(chosen - share * count) <= min(abs(n - share * count) for n in possible) + 1e-9


def test_inflammation_is_in_bags_of_both_kinds() -> None:
    """Along its direction normal tiles of either kind vary more than noise does: by share x (1 - share) x 3^2, about 0.8."""
    bags = drawn(tasks=1, dimension=256, train=60, val=2, test=2, tiles=(80, 80), difficulty=0)
    world = np.random.default_rng([3, 0])
    # Drawn in this order: shared tumour, 3 stains, the organ, its 4 tissues, its own tumour, its inflammation.
    shared, *_, own, inflamed = (vector / np.linalg.norm(vector) for vector in world.normal(size=(11, 256)))
    tumour = 0.6 * shared + 0.8 * (own - own @ shared * shared) / np.linalg.norm(own - own @ shared * shared)
    inflamed -= inflamed @ tumour * tumour
    inflamed /= np.linalg.norm(inflamed)
    elsewhere = np.random.default_rng(0).normal(size=256)
    elsewhere /= np.linalg.norm(elsewhere)
    for positive in (False, True):
        tiles = [made.features[~made.labels] for made in bags if made.labels.any() == positive]
        assert np.mean([(mine @ inflamed).var() for mine in tiles]) > 1.5
        assert np.mean([(mine @ elsewhere).var() for mine in tiles]) < 1.25


def _distances(difficulty: float) -> tuple[float, float]:
    """Mean distance of two organs' normal tiles, and mean length of the tumour direction, as the bags show them."""
    bags = drawn(tasks=3, dimension=64, train=60, val=2, test=2, tiles=(60, 60), difficulty=difficulty)
    centres, lengths = [], []
    for task in dict.fromkeys(made.task for made in bags):
        mine = [made for made in bags if made.task == task and made.labels.any()]
        normal = np.concatenate([made.features[~made.labels] for made in mine])
        centres.append(normal.mean(axis=0))
        differences = [made.features[made.labels].mean(axis=0) - made.features[~made.labels].mean(axis=0) for made in mine]
        lengths.append(np.linalg.norm(np.mean(differences, axis=0)))
    pairs = [np.linalg.norm(centres[i] - centres[j]) for i in range(3) for j in range(i)]
    return float(np.mean(pairs)), float(np.mean(lengths))


def test_difficulty_brings_organs_closer_and_weakens_the_tumour() -> None:
    organs, tumours = zip(*(_distances(difficulty) for difficulty in (0.0, 0.5, 1.0)), strict=True)
    assert organs[0] > organs[1] > organs[2]
    assert tumours[0] > tumours[1] > tumours[2]
    assert tumours[0] == pytest.approx(5, abs=0.7)
    assert tumours[2] == pytest.approx(2.5, abs=0.7)


def test_the_tumour_has_a_part_that_organs_share() -> None:
    bags = drawn(tasks=2, dimension=64, train=80, val=2, test=2, tiles=(60, 60), difficulty=0)
    directions = []
    for task in ("organ1", "organ2"):
        mine = [made for made in bags if made.task == task and made.labels.any()]
        mean = np.mean([made.features[made.labels].mean(0) - made.features[~made.labels].mean(0) for made in mine], axis=0)
        directions.append(mean / np.linalg.norm(mean))
    # Each leans on the shared direction by 0.6, so that two lean on each other by 0.36 and what their own parts share.
    assert 0.15 < directions[0] @ directions[1] < 0.6


def test_a_supervised_linear_model_tells_the_instances_apart() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    bags = drawn(difficulty=0.5, tasks=2, train=24, val=2, test=20)
    for task in ("organ1", "organ2"):
        tiles = {}
        for split in ("train", "test"):
            mine = [made for made in bags if made.task == task and made.split == split]
            tiles[split] = np.concatenate([m.features for m in mine]), np.concatenate([m.labels for m in mine])
        model = LogisticRegression(max_iter=300, class_weight="balanced").fit(*tiles["train"])
        features, labels = tiles["test"]
        assert roc_auc_score(labels, model.decision_function(features)) > 0.95


def test_normal_tiles_do_not_betray_the_bag() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    bags = [made for made in drawn(tasks=1, dimension=16, train=80, val=2, test=80) if made.split != "val"]
    means = np.stack([made.features[~made.labels].mean(axis=0) for made in bags])
    label = np.array([made.labels.any() for made in bags])
    train = np.array([made.split == "train" for made in bags])
    model = LogisticRegression().fit(means[train], label[train])
    assert 0.3 < roc_auc_score(label[~train], model.decision_function(means[~train])) < 0.7


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"difficulty": 1.5}, "make: difficulty"),
        ({"dificulty": 0.5}, "unknown key 'dificulty'; did you mean 'difficulty'?"),
        ({"train": 5}, "make: train"),
        ({"tiles": [30, 20]}, "make: tiles"),
        ({"tiles": [2, 20]}, "give the fewest, 5 or more, and then the most"),
    ],
)
def test_settings_that_do_not_fit(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_section(FeatureSettings, changed, "features: make")
    assert said in str(error.value)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_every_seed_makes_bags_that_can_be_written(seed: int) -> None:
    for made in _bags(FeatureSettings(seed=seed, tasks=1, dimension=8, train=2, val=2, test=2, tiles=(5, 9))):
        assert np.isfinite(made.features).all()
        assert len(made.features) == len(made.cells) == len(made.labels)
