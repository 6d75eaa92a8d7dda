"""Votes weighed by what they say of bags held out."""

from __future__ import annotations

import numpy as np
import pytest

from comel.nn.strongest import VOTING_SHARE, fit_strongest, vote_of
from comel.nn.votes import sparse_vote, splits_of, strongest_vote, weigh


def labelled(number: int = 40) -> np.ndarray:
    present: np.ndarray = np.arange(number) % 2 == 1
    return present


def test_every_bag_is_held_out_once() -> None:
    present = labelled(23)
    rows = np.concatenate([test for _, test in splits_of(present)])
    assert sorted(rows) == list(range(23))
    for train, test in splits_of(present):
        assert not set(train) & set(test)
        assert 0 < present[train].mean() < 1
    assert splits_of(np.array([True, False, False])) == []
    assert len(splits_of(np.array([True, True, False, False]))) == 2


def test_a_set_that_says_nothing_loses_its_vote() -> None:
    draw, present = np.random.default_rng(0), labelled()
    telling = present[:, None] * 2.0 + draw.normal(size=(40, 5))
    noise = draw.normal(size=(40, 50))
    vote = sparse_vote([noise, telling], present, splits_of(present))
    said = noise @ vote.weights[0] + telling @ vote.weights[1] + vote.bias
    assert np.abs(telling @ vote.weights[1]).std() > 5 * np.abs(noise @ vote.weights[0]).std()
    assert ((said > 0) == present).mean() > 0.8
    assert ((vote.held_out > 0) == present).mean() > 0.75


def test_a_number_that_never_changes_has_no_weight() -> None:
    present = labelled()
    rows = np.stack([np.full(40, 3.0), present + 0.1 * np.random.default_rng(0).normal(size=40)], axis=1)
    vote = sparse_vote([rows], present, splits_of(present))
    assert vote.weights[0][0] == 0
    assert vote.weights[0][1] > 0


def test_weights_make_log_odds_and_are_never_negative() -> None:
    draw, present = np.random.default_rng(1), labelled(4000)
    odds = np.where(present, 1.0, -1.0) + draw.normal(size=4000)  # log odds 2 x
    (first, second, third), bias = weigh([odds, draw.normal(size=4000), -odds + draw.normal(size=4000)], present)
    assert first == pytest.approx(2.0, abs=0.15)
    assert second < 0.1
    assert third == 0
    assert bias == pytest.approx(0, abs=0.1)
    weights, bias = weigh([np.zeros(4000), -odds], present)
    assert (weights.tolist(), bias) == ([0, 0], 0)


def test_the_strongest_tiles_vote() -> None:
    assert vote_of(np.arange(100.0)) == pytest.approx(np.mean([97, 98, 99]))
    assert round(VOTING_SHARE * 100) == 3
    assert vote_of(np.array([5.0])) == 5
    draw, present = np.random.default_rng(2), labelled()
    bags = [draw.normal(size=(60, 12)) for _ in present]
    for bag, positive in zip(bags, present, strict=True):
        bag[:4, 0] += 6 * positive
    weight, bias = fit_strongest(bags, present)
    assert weight.argmax() == 0
    votes = np.array([vote_of(bag @ weight + bias) for bag in bags])
    assert votes[present].min() > votes[~present].max()
    vote = strongest_vote(bags, present, splits_of(present))
    assert vote.held_out[present].mean() > vote.held_out[~present].mean() + 0.1
