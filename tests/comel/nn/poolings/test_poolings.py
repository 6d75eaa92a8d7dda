"""What must hold for every pooling, by name."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.errors import ConfigError
from comel.nn.poolings import POOLINGS, make_pooling
from comel.nn.poolings.ggem import GroupGeneralizedMean
from comel.nn.poolings.query import QueryPooling
from comel.nn.poolings.sigmoid import SigmoidPooling
from tests.comel.nn.mixers.seeds import Seed

EVERY = pytest.mark.parametrize("name", sorted(POOLINGS))
DIM = 12


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return make_pooling(name, DIM, heads=4, hidden=6).double().eval()


def bag(count: int, seed: int = 0) -> Tensor:
    return torch.randn(1, count, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@EVERY
def test_a_batch_equals_its_bags_and_weights_sum_to_one(name: str) -> None:
    pool, sizes = make(name), (1, 2, 7, 30)
    h = torch.full((4, 30, DIM), 3.0, dtype=torch.float64)
    mask = torch.zeros(4, 30, dtype=torch.bool)
    for b, size in enumerate(sizes):
        h[b, 30 - size :], mask[b, 30 - size :] = bag(size, b)[0], True
    z, weights = pool(h, mask)
    assert (weights[~mask] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))
    for b, size in enumerate(sizes):
        alone, shares = pool(bag(size, b))
        torch.testing.assert_close(z[b], alone[0])
        torch.testing.assert_close(weights[b, 30 - size :], shares[0])


@EVERY
def test_order_does_not_matter_and_every_instance_counts(name: str) -> None:
    pool, h = make(name), bag(9).requires_grad_(True)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pool(h[:, order])[0], pool(h)[0])
    pool(h)[0].square().sum().backward()
    assert h.grad is not None
    assert (h.grad.abs().sum(dim=-1) > 0).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pool.parameters())


def test_ggem_equals_the_numbers_and_their_gradients() -> None:
    seed = Seed("ggem")
    pool = GroupGeneralizedMean(24, 4, before="none").double()
    with torch.no_grad():
        pool.p.copy_(seed["w/p"])
    torch.testing.assert_close(pool(seed["x"])[0], seed["y"], rtol=1e-10, atol=1e-12)
    x = seed["x"].requires_grad_(True)
    found = pool(x, seed["mask"])[0]
    torch.testing.assert_close(found, seed["y_mask"], rtol=1e-10, atol=1e-12)
    (found * seed["probe"]).sum().backward()
    torch.testing.assert_close(pool.p.grad, seed["grad_p"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(x.grad, seed["grad_x"], rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        pool.p.copy_(seed["w2/p"])
    torch.testing.assert_close(pool(seed["x2"])[0], seed["y2"], rtol=1e-10, atol=1e-12)


def test_ggem_lies_between_the_mean_and_the_largest() -> None:
    pool, h = GroupGeneralizedMean(DIM, 4, before="softplus").double(), bag(11)
    with torch.no_grad():
        pool.p.fill_(1.0)
    torch.testing.assert_close(pool(h)[0], F.softplus(h).mean(dim=1))
    with torch.no_grad():
        pool.p.fill_(300.0)
    torch.testing.assert_close(pool(h)[0], F.softplus(h).amax(dim=1), rtol=0.03, atol=0)


def test_the_query_is_an_attention_of_torch() -> None:
    pool, h = QueryPooling(DIM, 4).double(), bag(9)
    theirs = nn.MultiheadAttention(DIM, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.k.weight, pool.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.k.bias, pool.v.bias]))
        theirs.out_proj.weight.copy_(pool.proj.weight)
        theirs.out_proj.bias.copy_(pool.proj.bias)
    z, weights = theirs(pool.token.view(1, 1, DIM), h, h)
    torch.testing.assert_close(pool(h)[0], z[:, 0])
    torch.testing.assert_close(pool(h)[1], weights[:, 0])


def test_sigmoid_weights_do_not_compete() -> None:
    pool, h = SigmoidPooling(DIM, 6).double(), bag(8)
    with torch.no_grad():
        pool.w.weight.zero_()
    torch.testing.assert_close(pool(h)[0], h.mean(dim=1) * 8 / 9)  # each weight is 1 / (M + 1)
    twice = pool(h.repeat(1, 2, 1))[0]
    torch.testing.assert_close(twice, h.mean(dim=1) * 16 / 17)


def test_what_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match="gated"):
        make_pooling("gate", DIM, heads=4, hidden=6)
    with pytest.raises(ValueError, match="not a multiple of 5"):
        make_pooling("query", DIM, heads=5, hidden=6)
    with pytest.raises(ValueError, match="unexpected keyword argument 'slots'"):
        make_pooling("latent", DIM, heads=4, hidden=6, options={"slots": 3})
    with pytest.raises(ValueError, match="before is 'abs'"):
        make_pooling("ggem", DIM, heads=4, hidden=6, options={"before": "abs"})
    assert math.isfinite(make("ggem")(torch.zeros(1, 3, DIM, dtype=torch.float64))[0].sum().item())
