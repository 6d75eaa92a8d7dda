"""Content-aware token aggregation against the authors' numbers and against what defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.layout.patches import overlapping_squares
from comel.nn.mixers import catanet
from comel.nn.mixers.base import Width
from comel.nn.mixers.catanet import TokenAggregation, TokenAggregationOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight

FEEDFORWARD = {
    "norm": "norm",
    "fc1": "fn.fc1",
    "fc2": "fn.fc2",
    "around": "fn.dwconv.depthwise_conv.0",
}
AGGREGATION = {
    "aggregation.norm": "w/norm",
    "aggregation.q": "w/iasa_attn.to_q",
    "aggregation.k": "w/iasa_attn.to_k",
    "aggregation.v": "w/iasa_attn.to_v",
    "aggregation.proj": "w/iasa_attn.proj",
    "aggregation.centre_k": "w/irca_attn.to_k",
    "aggregation.centre_v": "w/irca_attn.to_v",
    "aggregation.out": "w/conv1x1",
    **{f"feedforward.{own}": f"w/mlp.{stored}" for own, stored in FEEDFORWARD.items()},
}
LOCAL = {
    "local.norm": "w2/layer.0.norm",
    "local.q": "w2/layer.0.fn.to_q",
    "local.k": "w2/layer.0.fn.to_k",
    "local.v": "w2/layer.0.fn.to_v",
    "local.proj": "w2/layer.0.fn.proj",
    **{f"local_feedforward.{own}": f"w2/layer.1.{stored}" for own, stored in FEEDFORWARD.items()},
}


def load(made: TokenAggregation, seed: Seed, names: dict[str, str]) -> None:
    for name, parameter in made.named_parameters():
        module, _, part = name.rpartition(".")
        if module in names:
            set_weight(parameter, seed[f"{names[module]}.{part}"].reshape(parameter.shape))


def published(seed: Seed, **options: Any) -> TokenAggregation:
    chosen = TokenAggregationOptions(
        **{"centres": 4, "run": 8, "qk_dim": 12, "rounds": 3, "side": 0, "pad": "published"} | options
    )
    made = TokenAggregation(Width(16, 2, mlp_ratio=1.5), chosen).double().eval()
    load(made, seed, AGGREGATION)
    set_weight(made.aggregation.means, seed["w/means"])
    set_weight(made.aggregation.started, torch.tensor(True))
    return made


def mixer(**options: Any) -> TokenAggregation:
    torch.manual_seed(0)
    chosen = TokenAggregationOptions(**{"centres": 3, "run": 6, "side": 0} | options)
    return TokenAggregation(Width(12, 3, mlp_ratio=2), chosen).double().eval()


def as_list(image: Tensor) -> Tensor:
    return image.flatten(2).mT


def test_equals_the_authors_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = Seed("catanet")
    made = published(seed)
    x, coords = as_list(seed["x"]), grid_coords(6, 6).unsqueeze(0)
    n = made.aggregation.norm(x[0])
    assert catanet._nearest(n, made.aggregation.means).tolist() == seed["belong"].tolist()
    torch.testing.assert_close(mixed(made, x, coords), as_list(seed["y"]), rtol=1e-10, atol=1e-11)
    monkeypatch.setattr(catanet, "_ROWS_AT_ONCE", 10)
    with torch.no_grad():
        torch.testing.assert_close(mixed(made, x, coords), as_list(seed["y"]), rtol=1e-10, atol=1e-11)
    assert torch.equal(made.aggregation.means, seed["w/means"])


def test_equals_the_authors_numbers_in_training() -> None:
    seed = Seed("catanet")
    made = published(seed).train()
    x, coords = as_list(seed["x"]), grid_coords(6, 6).unsqueeze(0)
    torch.testing.assert_close(mixed(made, x, coords), as_list(seed["y_train"]), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(made.aggregation.means, seed["out_means"], rtol=1e-10, atol=1e-12)
    first = published(seed).train()
    set_weight(first.aggregation.started, torch.tensor(False))
    mixed(first, x, coords)
    torch.testing.assert_close(first.aggregation.means, seed["y_means_first"], rtol=1e-10, atol=1e-12)
    assert first.aggregation.started


def test_equals_the_numbers_of_a_bag() -> None:
    seed = Seed("catanet")
    x, coords = seed["x3"], seed["coords3"]
    torch.testing.assert_close(mixed(published(seed), x, coords), seed["y3"], rtol=1e-10, atol=1e-11)
    masked = published(seed, pad="masked")
    torch.testing.assert_close(mixed(masked, x, coords), seed["y3_masked"], rtol=1e-10, atol=1e-11)
    found = mixed(masked, x[:, :10], coords[:, :10])
    torch.testing.assert_close(found, seed["y3_masked_first10"], rtol=1e-10, atol=1e-11)


def test_local_attention_equals_the_authors_numbers() -> None:
    seed = Seed("catanet")
    made = published(seed, side=4, overlap=2)
    load(made, seed, LOCAL)
    x, layout = as_list(seed["x2"])[0], Layout((1, 63), grid_coords(9, 7).unsqueeze(0))
    out = made.local(x, *overlapping_squares(layout, 4, 2))
    shares = torch.ones(9, 7, 1, dtype=torch.float64)
    for line in (shares[5], shares[:, 3]):  # in three squares, which the published code takes for four
        line *= 3 / 4
    found = made.local_feedforward(out * shares.flatten(0, 1), layout)
    torch.testing.assert_close(found, as_list(seed["y2"])[0], rtol=1e-10, atol=1e-11)


def test_squares_come_last() -> None:
    made, x, coords = mixer(side=4), instances(30, 12), bag_coords(30)
    layout = Layout((1, 30), coords.unsqueeze(0))
    first = made.feedforward(made.aggregation(x, layout), layout)
    out = made.local_feedforward(made.local(first, *overlapping_squares(layout, 4, 2)), layout)
    torch.testing.assert_close(mixed(made, x, coords), out)


@pytest.mark.parametrize("pad", ["masked", "published"])
def test_a_run_as_long_as_the_bag_is_full_attention_beside_one_centre(pad: str) -> None:
    made, x = mixer(run=20, centres=1, pad=pad), instances(20, 12)
    part = made.aggregation
    n = part.norm(x)
    q, k, v = (linear(n).view(20, 3, 4).transpose(0, 1) for linear in (part.q, part.k, part.v))
    attended = (F.softmax(q @ k.mT / 2, dim=-1) @ v).transpose(0, 1).flatten(1) + part.centre_v(part.means)
    torch.testing.assert_close(part(x, Layout((1, 20))), x + part.out(part.proj(attended)))


@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 9, 12, 13])
def test_a_run_sees_itself_and_the_next_and_the_last_the_one_before(count: int) -> None:
    made = mixer(centres=1)
    x = instances(count, 12).requires_grad_(True)
    out = mixed(made, x)  # one centre: the list's order
    runs = torch.arange(count) // 6
    for row in range(count):
        (grad,) = torch.autograd.grad(out[row].square().sum(), x, retain_graph=True)
        seen = (grad.abs().sum(dim=1) > 0).nonzero().flatten().tolist()
        run, last = int(runs[row]), int(runs[-1])
        expected = {run, min(run + 1, last)} | ({run - 1} if run == last else set())
        assert seen == [i for i in range(count) if int(runs[i]) in expected]


def test_the_buffer_follows_the_centres_in_training_alone() -> None:
    made = mixer(momentum=0.75).train()
    x = instances(30, 12)
    first = F.normalize(instances(3, 12, 1), dim=-1)
    set_weight(made.aggregation.means, first)
    set_weight(made.aggregation.started, torch.tensor(True))
    mixed(made, x)
    n = made.aggregation.norm(x)
    moved = first
    for _ in range(5):
        moved = catanet._moved(n, moved)
    torch.testing.assert_close(made.aggregation.means, 0.75 * first + 0.25 * moved)
    before = made.aggregation.means.clone()
    mixed(made.eval(), x)
    assert torch.equal(made.aggregation.means, before)
    mixed(made.train().requires_grad_(False), x)
    assert torch.equal(made.aggregation.means, before)


def test_a_centre_without_an_instance_keeps_its_direction() -> None:
    x = torch.tensor([[1.0, 0.1], [1.0, -0.1], [2.0, 0.0]])
    moved = catanet._moved(x, torch.tensor([[3.0, 0.0], [-2.0, 0.0]]))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_a_first_step_on_few_instances(count: int) -> None:
    made = mixer(centres=8).train()
    assert torch.isfinite(mixed(made, instances(count, 12), bag_coords(count))).all()
    assert torch.isfinite(made.aggregation.means).all()


def test_a_gradient_passes_through_the_centres() -> None:
    made = mixer(centres=2, run=1).train()
    for linear in (made.aggregation.q, made.aggregation.v):
        torch.nn.init.zeros_(linear.weight)  # all that is left goes through the centres' values
    x = instances(6, 12).requires_grad_(True)
    change = mixed(made, x)[0] - x[0]
    change.sum().backward()
    assert x.grad is not None
    assert (x.grad[1:] != 0).any()


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="qk_dim 10 is not a multiple of 3 heads"):
        mixer(qk_dim=10)
    with pytest.raises(ValueError, match="squares of side 4 cannot overlap by 4; take less than 4"):
        TokenAggregationOptions(side=4, overlap=4)
    with pytest.raises(ValueError, match="squares of side 2 cannot overlap by 2"):
        TokenAggregationOptions(side=2)
