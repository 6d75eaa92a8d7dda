"""The two sources of a bag's logits against loops over bags and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comel.nn.evidence import BagEvidence


def settled(pooled: torch.Tensor, evidence: torch.Tensor, labels: list[int], share: float = 0.5) -> BagEvidence:
    made = BagEvidence(share)
    made.add_head(pooled.shape[1])
    made.double().settle(slice(0, pooled.shape[1]), pooled, evidence, torch.tensor(labels))
    return made


def test_a_head_that_is_not_settled_says_what_the_pooled_head_says() -> None:
    made, pooled = BagEvidence(0.3), torch.randn(4, 2)
    made.add_head(2)
    assert torch.equal(made(pooled, torch.randn(4, 2)), pooled)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 1, 1], [0, 1, 2, 2, 1, 2]])
def test_both_sources_are_measured_by_hand(labels: list[int]) -> None:
    torch.manual_seed(0)
    width = max(labels) + 1
    pooled, evidence = torch.randn(6, width).double() * 7 + 3, torch.randn(6, width).double() * 0.1 - 2
    made = settled(pooled, evidence, labels)
    expected = np.zeros((6, width))
    for source, share in ((pooled.numpy(), 0.5), (evidence.numpy(), 1.0)):
        middle = np.mean([np.mean([source[i] for i in range(6) if labels[i] == c], axis=0) for c in set(labels)], axis=0)
        rest = np.array([row - middle - np.mean(row - middle) for row in source])
        expected += share * (source - middle) / np.sqrt(np.mean(rest**2))
    np.testing.assert_allclose(made(pooled, evidence).numpy(), expected, rtol=0, atol=1e-12)


def test_a_loud_source_has_no_more_weight_than_a_quiet_one() -> None:
    torch.manual_seed(0)
    pooled, evidence, labels = torch.randn(8, 2).double(), torch.randn(8, 2).double(), [0, 1] * 4
    one = settled(pooled, evidence, labels)(pooled, evidence)
    other = settled(1000 * pooled, evidence, labels)(1000 * pooled, evidence)
    torch.testing.assert_close(one, other)


def test_bags_of_one_class_settle_nothing_and_a_silent_source_says_nothing() -> None:
    pooled, evidence = torch.randn(4, 2).double(), torch.zeros(4, 2).double()
    assert not settled(pooled, evidence, [1, 1, 1, 1]).settled.any()
    made = settled(pooled, evidence, [0, 1, 0, 1])
    assert made.settled.all()
    shifted = made(pooled, evidence + torch.tensor([0.0, 5.0]))
    assert torch.equal(shifted, made(pooled, evidence))


def test_a_later_head_leaves_the_earlier_ones_alone() -> None:
    torch.manual_seed(0)
    pooled, evidence = torch.randn(4, 2).double(), torch.randn(4, 2).double()
    made = settled(pooled, evidence, [0, 1, 0, 1])
    before = made(pooled, evidence)
    made.add_head(3)
    wider = made(torch.cat([pooled, torch.ones(4, 3)], 1), torch.cat([evidence, torch.zeros(4, 3)], 1))
    assert torch.equal(wider[:, :2], before)
    assert torch.equal(wider[:, 2:], torch.ones(4, 3).double())
