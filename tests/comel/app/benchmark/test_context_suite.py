"""The suite ``context``: the rule gives the label, and nothing simpler does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from comel.app.benchmark.context import (
    FIRST,
    PATTERNS,
    SECOND,
    ContextSettings,
    Pattern,
    Scene,
    draw_scene,
    make_context,
    oracle,
)
from comel.bags.bag import read_bag
from comel.cohort.manifest import read_manifest

EACH = pytest.mark.parametrize("pattern", PATTERNS)


def scenes(pattern: Pattern, number: int) -> list[tuple[Scene, bool]]:
    drawn = []
    for index in range(number):
        draw = np.random.default_rng([7, PATTERNS.index(pattern), index])
        drawn.append((draw_scene(pattern, bool(index % 2), int(draw.integers(200, 800)), draw), bool(index % 2)))
    return drawn


@given(
    pattern=st.sampled_from(PATTERNS),
    positive=st.booleans(),
    count=st.integers(200, 1500),
    seed=st.integers(0, 2**32),
)
def test_the_rule_gives_the_label(pattern: Pattern, positive: bool, count: int, seed: int) -> None:
    scene = draw_scene(pattern, positive, count, np.random.default_rng(seed))
    assert len(scene.cells) == len(scene.kinds) == count
    assert oracle(pattern, scene.cells, scene.kinds) == positive
    assert scene.deciding.any() == positive
    plane = np.zeros(scene.cells.max(axis=0) + 1, bool)
    plane[tuple(scene.cells.T)] = True
    assert plane.sum() == count, "two tiles lie in one place"
    assert label(plane, np.ones((3, 3)))[1] == 1, "the tissue is in pieces"


@EACH
def test_how_many_tiles_there_are_says_nothing_unless_it_is_the_pattern(pattern: Pattern) -> None:
    drawn = scenes(pattern, 160)
    labels = [positive for _, positive in drawn]
    for kind in (FIRST, SECOND):
        share = [float((scene.kinds == kind).mean()) for scene, _ in drawn]
        auc = 0.5 if max(share) == 0 else float(roc_auc_score(labels, share))
        if kind == FIRST and pattern in ("presence", "proportion"):
            assert auc == 1.0
        else:
            assert abs(auc - 0.5) < 0.16, f"kind {kind}"


def test_features_show_the_kind_and_the_slide_but_not_the_place(tmp_path: Path) -> None:
    settings = ContextSettings(seed=3, patterns=("adjacency",), train=8, val=2, test=2, tiles=(200, 300))
    manifest = make_context(tmp_path, settings)
    rows = read_manifest(manifest).rows
    assert [row.split for row in rows].count("train") == 8
    bag = read_bag(tmp_path / "bags" / "adjacency-train-001.h5")
    assert bag.labels is not None
    deciding, others = bag.features[bag.labels == 1].mean(axis=0), bag.features[bag.labels == 0].mean(axis=0)
    assert np.linalg.norm(deciding - others) > 2.5
    again = make_context(tmp_path / "again", settings)
    assert (read_bag(again.parent / "bags" / "adjacency-train-001.h5").features == bag.features).all()
    other = make_context(tmp_path / "other", settings.model_copy(update={"seed": 4}))
    assert read_bag(other.parent / "bags" / "adjacency-train-001.h5").features.shape != bag.features.shape
