"""The instance classifier and its loss, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from comel.nn.instances import InstanceClassifier, instance_loss, strongest, strongest_of_bags, with_surroundings


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_a_tile_is_judged_by_itself() -> None:
    torch.manual_seed(0)
    classifier = InstanceClassifier(12, 3).eval()
    bag = torch.randn(1, 7, 12)
    whole = classifier(bag)
    assert whole.shape == (1, 7, 3)
    for m in range(7):
        torch.testing.assert_close(classifier(bag[:, m : m + 1])[0, 0], whole[0, m])


def test_slices_outside_training_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    classifier = InstanceClassifier(12, 2).eval()
    bags = torch.randn(2, 9, 12)
    with_gradient = classifier(bags)
    monkeypatch.setattr("comel.nn.instances._ROWS_AT_ONCE", 4)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(bags), with_gradient)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_the_strongest_share_is_at_least_one(share: float, count: int) -> None:
    scores = torch.tensor([3.0, -1, 7, 0, 2, 9, -4, 1])
    assert strongest(scores, share).tolist() == sorted(scores.tolist(), reverse=True)[:count]


def test_a_bag_with_the_finding_asks_its_strongest_alone() -> None:
    scores = torch.tensor([0.5, -2.0, 1.5, -3.0], requires_grad=True)
    loss = instance_loss(scores, True, 0.5)
    assert loss.item() == pytest.approx((softplus(-1.5) + softplus(-0.5)) / 2)
    loss.backward()
    assert scores.grad is not None
    assert (scores.grad != 0).tolist() == [True, False, True, False]


def test_a_bag_without_it_has_negative_instances_only() -> None:
    values = [0.5, -2.0, 1.5, -3.0]
    expected = 0.5 * sum(map(softplus, values)) / 4 + 0.5 * softplus(1.5)
    assert instance_loss(torch.tensor(values), False, 0.25).item() == pytest.approx(expected, rel=1e-6)


def test_the_strongest_speak_for_the_bag_and_padding_does_not() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 10, 3), torch.ones(2, 10, dtype=torch.bool)
    mask[1, 4:] = False
    found = strongest_of_bags(logits, [False, True, True], 0.3, mask)
    for b, size in ((0, 10), (1, 4)):
        ranked = np.sort(logits[b, :size].numpy(), axis=0)[::-1][: max(1, round(0.3 * size))]
        np.testing.assert_allclose(found[b].numpy(), [0, *ranked.mean(axis=0)[1:]], rtol=1e-6)
    mask[1] = False
    assert strongest_of_bags(logits, [False, True, True], 0.3, mask)[1].tolist() == [0, 0, 0]


def test_surroundings_draw_a_lone_tile_down_and_leave_padding_out() -> None:
    logits = torch.zeros(1, 10, 1)
    logits[0, 4] = 9.0
    grid = torch.tensor([[(i % 3) * 256, (i // 3) * 256] for i in range(9)] + [[256, 256]]).unsqueeze(0)
    mask = torch.ones(1, 10, dtype=torch.bool)
    mask[0, 9] = False
    logits[0, 9] = 100.0
    found = with_surroundings(logits, grid, 0.5, mask)[0, :9, 0]
    expected = [9 / n / 2 for n in (4, 6, 4, 6, 9, 6, 4, 6, 4)]
    expected[4] += 4.5
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert torch.equal(with_surroundings(logits, grid, 0.0, mask), logits)
