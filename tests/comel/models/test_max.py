"""Max pooling against its equations."""

from __future__ import annotations

import numpy as np
import torch

from comel.models.base import BagBatch
from tests.comel.models.zoo import BREAST, COLON, LUNG, array, bag, embedded, linear, make, padded, softmax


def test_each_heads_most_suspicious_instance_speaks_for_the_bag() -> None:
    model, x = make("max", BREAST, LUNG, COLON), bag(12)
    output, h = model(x), embedded(model, x)
    logits, winners = [], []
    for head, findings in zip(model.heads, ([1], [0, 1], [0, 1]), strict=True):
        own = linear(head, h)
        suspicion = [max(softmax(row)[c] for c in findings) for row in own]
        winners.append(int(np.argmax(suspicion)))
        logits.append(own[winners[-1]])
    assert len(set(winners)) > 1
    expected = np.concatenate(logits)
    np.testing.assert_allclose(array(output.logits)[0], expected, atol=1e-12)
    decisive = winners[[0, 0, 1, 1, 2, 2, 2][int(np.argmax(expected))]]
    np.testing.assert_array_equal(array(output.attention)[0], np.eye(12)[decisive])
    np.testing.assert_allclose(array(output.bag_features)[0], h[decisive], atol=1e-12)


def test_a_bag_is_negative_only_where_its_most_suspicious_instance_is() -> None:
    model = make("max", BREAST)
    with torch.no_grad():  # the logit of a tumour is the first channel of the instance
        model.heads[0].weight.zero_()
        model.heads[0].bias.copy_(torch.tensor([1.0, 0.0]))
        model.heads[0].weight[1, 0] = 1
        channel = model(bag(30)).instance_features[0, :, 0]
    tumour = channel > 1
    assert tumour.any()
    assert not tumour.all()
    for subset, expected in ((bag(30), 1), (bag(30)[:, ~tumour], 0)):
        assert model(subset).logits[0].argmax() == expected


def test_padding_never_wins() -> None:
    model, bags = make("max", BREAST), padded(3, 5)
    assert bags.mask is not None
    tempted = 0
    for value in (9.0, -9.0):
        features = bags.features.masked_fill(~bags.mask.unsqueeze(-1), value)
        each = torch.arange(2)
        tempted += int((~bags.mask[each, model(features).attention.argmax(dim=1)]).sum())
        assert bags.mask[each, model(BagBatch(features, None, bags.mask)).attention.argmax(dim=1)].all()
    assert tempted


def test_the_gradient_goes_to_the_winner() -> None:
    model, x = make("max", BREAST), bag(6).requires_grad_()
    output = model(x)
    model.loss(output, torch.tensor([1]))["ce"].backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0].abs().sum(dim=1) > 0, output.attention[0] > 0)
