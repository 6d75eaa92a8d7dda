"""What tiles show together and where: the numbers by hand, and questions that no single tile answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.app.benchmark.context import Pattern, draw_scene
from comel.nn.context import RADII, ContextEvidence, PlacedBag, describe, length, sample
from comel.nn.places import Places

DIMENSION = 16


def by_hand(shown: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Tile by tile and pair by pair."""
    count, concepts = shown.shape
    pairs = [(one, other) for one in range(concepts) for other in range(one, concepts)]
    shares = shown.mean(axis=0)
    numbers = [np.sqrt(shares + 1e-6), np.sqrt([shares[one] * shares[other] + 1e-6 for one, other in pairs])]
    for radius in (1, 3):
        near = np.abs(cells[:, None] - cells[None]).max(axis=2) <= radius
        around = (
            np.stack([(near[m, :, None] * shown).sum(axis=0) - shown[m] for m in range(count)])
            / np.maximum(near.sum(axis=1) - 1, 1)[:, None]
        )
        beside = np.array([(shown[:, one] * around[:, other]).mean() for one, other in pairs])
        chance = np.array([shares[one] * shares[other] for one, other in pairs])
        numbers += [np.sqrt(beside + 1e-6), np.log((beside + 5e-4) / (chance + 5e-4))]
        if radius == 1:
            present = np.stack([(near[m, :, None] * shown).sum(axis=0) / near[m].sum() for m in range(count)]) > 0.5
            sizes = [parts(cells[present[:, k]]) for k in range(concepts)]
            large = [sorted((size for size in each if size >= 3), reverse=True) for each in sizes]
            numbers += [
                np.log1p([len(each) for each in large]),
                np.array([each[0] / sum(each) if each else 0 for each in large]),
            ]
    return np.concatenate(numbers)


def parts(cells: np.ndarray) -> list[int]:
    """Sizes of the connected pieces, by spreading from one tile to the next."""
    left, sizes = {tuple(cell) for cell in cells.tolist()}, []
    while left:
        rim, size = [left.pop()], 0
        while rim:
            x, y = rim.pop()
            size += 1
            near = {(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)} & left
            left -= near
            rim += near
        sizes.append(size)
    return sizes


def a_bag(count: int, seed: int, concepts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(seed)
    places = draw.permutation(144)[:count]
    return torch.from_numpy(draw.random((count, concepts)) ** 2), torch.from_numpy(
        np.stack([places % 12, places // 12], axis=1)
    )


def at(cells: torch.Tensor) -> Places:
    """Places of tiles whose cells are known; so few may lie too far apart for their distance to be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("comel.nn.places.cells_of", lambda coords: coords)
        return Places(cells, RADII)


@given(st.integers(1, 90), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_numbers_by_hand(count: int, seed: int) -> None:
    shown, cells = a_bag(count, seed)
    numbers = describe(shown, at(cells))
    assert len(numbers) == length(3, placed=True)
    np.testing.assert_allclose(numbers.numpy(), by_hand(shown.numpy(), cells.numpy()), rtol=1e-7, atol=1e-9)
    anywhere = describe(shown)
    assert len(anywhere) == length(3, placed=False)
    torch.testing.assert_close(anywhere, numbers[: len(anywhere)], rtol=0, atol=0)


@given(st.integers(2, 60), st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_neither_the_order_nor_the_corner_of_the_slide_matters(count: int, seed: int, step: int) -> None:
    shown, cells = a_bag(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        describe(shown[order], at(cells[order] + step)), describe(shown, at(cells)), rtol=1e-9, atol=1e-9
    )


def said(
    evidence: ContextEvidence, features: torch.Tensor, coords: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    answer = evidence(0, features, None if coords is None else Places(coords, RADII))
    assert answer is not None
    return answer[0].detach(), answer[1].detach()


def scenes(pattern: Pattern, split: int, number: int) -> list[tuple[PlacedBag, int, np.ndarray]]:
    """Bags of a pattern of the suite, with strong findings."""
    world = np.random.default_rng(5)
    kinds = 6 * np.linalg.qr(world.normal(size=(DIMENSION, 3)))[0].T
    bags: list[tuple[PlacedBag, int, np.ndarray]] = []
    for index in range(number):
        draw = np.random.default_rng([split, index])
        scene = draw_scene(pattern, bool(index % 2), 150, draw)
        features = kinds[scene.kinds] + draw.normal(size=(150, DIMENSION))
        bag = torch.from_numpy(features).float(), torch.from_numpy(scene.cells * 256)
        bags.append((bag, index % 2, scene.deciding))
    return bags


@pytest.mark.parametrize("pattern", ["presence", "co-occurrence", "adjacency", "arrangement"])
def test_it_answers_what_no_tile_alone_answers(pattern: Pattern) -> None:
    from sklearn.metrics import roc_auc_score

    evidence = ContextEvidence(DIMENSION)
    evidence.add_head(2)
    assert not evidence.knows(0)
    evidence.fit(0, [(bag, label) for bag, label, _ in scenes(pattern, 0, 40)], [1])
    assert evidence.knows(0)
    right, scores, truth = 0, [], []
    for (features, coords), label, deciding in scenes(pattern, 1, 30):
        with torch.inference_mode():
            assert coords is not None
            odds, tiles = said(evidence, features, coords)
        assert odds[0] == 0
        assert not tiles[:, 0].any()
        right += bool(odds[1] > 0) == bool(label)
        scores.append(tiles[:, 1].numpy())
        truth.append(deciding)
    assert right >= 27
    assert roc_auc_score(np.concatenate(truth), np.concatenate(scores)) > 0.85
    if pattern in ("adjacency", "arrangement"):  # which is all in the places
        anywhere = [bool(said(evidence, bag[0])[0][1] > 0) == bool(label) for bag, label, _ in scenes(pattern, 1, 30)]
        assert sum(anywhere) <= 24


def test_of_labels_that_nothing_explains_nothing_is_said() -> None:
    draw = np.random.default_rng(0)
    bags = [((torch.from_numpy(draw.normal(size=(60, DIMENSION))).float(), None), index % 2) for index in range(40)]
    evidence = ContextEvidence(DIMENSION)
    evidence.add_head(2)
    evidence.fit(0, bags, [1])
    answers = [evidence(0, features, None) for (features, _), _ in bags]
    odds = [0.0 if answer is None else float(answer[0][1].abs()) for answer in answers]
    assert np.mean(odds) < 2.0


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 1], [0]])
def test_too_few_bags_of_a_kind_teach_nothing(labels: list[int]) -> None:
    evidence = ContextEvidence(DIMENSION)
    evidence.add_head(2)
    evidence.fit(0, [((torch.randn(7, DIMENSION), None), label) for label in labels], [1])
    assert evidence(0, torch.randn(7, DIMENSION), None) is None


def test_a_second_task_of_one_head_ends_it() -> None:
    evidence = ContextEvidence(DIMENSION)
    evidence.add_head(2)
    bags = [((torch.randn(30, DIMENSION), None), label) for label in (0, 1) * 3]
    evidence.fit(0, bags, [1])
    evidence.fit(0, bags, [1])
    assert not evidence.knows(0)
    again = ContextEvidence(DIMENSION)
    again.add_head(2)
    again.load_state_dict(evidence.state_dict())
    assert not again.knows(0)


def test_places_that_only_some_bags_have_are_not_used() -> None:
    bags = [
        ((torch.randn(30, DIMENSION), torch.randint(0, 9, (30, 2)) * 256 if label else None), label) for label in (0, 1) * 6
    ]
    evidence = ContextEvidence(DIMENSION)
    evidence.add_head(2)
    evidence.fit(0, bags, [1])
    assert not evidence.get_buffer("heads.0.placed.learned")
    features, coords = torch.randn(30, DIMENSION), torch.randint(0, 9, (30, 2)) * 256
    with_places, without = evidence(0, features, Places(coords, RADII)), evidence(0, features)
    assert (with_places is None) == (without is None)
    if with_places is not None and without is not None:
        assert torch.equal(with_places[0], without[0])


def test_many_small_bags_are_thinned_no_further_than_a_few_tiles() -> None:
    bags = [((torch.randn(30, 4), None), 0) for _ in range(10)] + [((torch.randn(900, 4), None), 1)]
    tiles, labels = sample(bags, 200)
    assert labels == [0] * 10 + [1]
    assert [len(rows) for rows in tiles[:10]] == [30] * 10
    assert 20 <= len(tiles[10]) < 40
