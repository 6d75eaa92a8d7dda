"""What must hold for every mixer, by name: bags alone and in a batch, padding, order, places, small bags, gradients, types."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from comel.errors import BagError, ConfigError
from comel.nn.layout.layout import Layout
from comel.nn.mixers import MIXERS, make_mixer, mixer_class
from comel.nn.mixers.base import Mixer, Width
from tests.comel.nn.mixers.seeds import bag_coords, instances, mixed

EVERY = pytest.mark.parametrize("name", sorted(MIXERS))
DIM, HEADS = 24, 4
SIZES = (1, 2, 3, 17, 60)
SMALL: dict[str, dict[str, Any]] = {  # options by which a bag of 60 tiles has several of everything
    "agent": {"bins": 3},
    "biformer": {"region_size": 3, "topk": 2},
    "catanet": {"centres": 5, "run": 7, "side": 4},
    "cca": {"group_size": 2},
    "combiner": {"group_size": 3},
    "crossformer": {"group": 3},
    "davit": {"window": 3},
    "deftan2": {"channels": 8, "heads": 2, "head_dim": 4},
    "dualtoken": {"bins": 3},
    "efficientvit": {"window": 3},
    "fit": {"side": 3},
    "gdat": {"region_size": 3},
    "grat": {"block_size": 3},
    "group-pose": {"side": 3},
    "hilo": {"window": 3},
    "hyena": {"reach": 4, "hidden": 8},
    "lrgt": {"window": 3, "group_size": 9},
    "mossformer": {"chunk": 8, "key_dim": 8, "kernel": 5},
    "nystrom": {"landmarks": 8},
    "region": {"region_size": 3},
    "s2aformer": {"window": 3},
    "spectformer": {"rows": 5, "columns": 6},
    "tnt": {"side": 3},
}


def make(name: str) -> Mixer:
    """Random weights everywhere, in parameters that start at zero too, so that every part shows."""
    torch.manual_seed(0)
    mixer = make_mixer(name, Width(DIM, HEADS, mlp_ratio=2.0), SMALL.get(name)).double().eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return mixer


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * max(1.0, float(expected.detach().abs().max())))


@EVERY
def test_has_a_card_and_its_name(name: str) -> None:
    kind = mixer_class(name)
    assert kind.name == name
    assert kind.card.title
    assert kind.card.paper
    assert kind.__module__.rpartition(".")[2] == name.replace("-", "_")


@EVERY
@pytest.mark.parametrize("count", SIZES)
def test_gives_a_finite_row_for_every_instance(name: str, count: int) -> None:
    x, coords = instances(count, DIM), bag_coords(count)
    out = mixed(make(name), x, coords)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


@EVERY
def test_a_batch_equals_its_bags_and_padding_is_never_seen(name: str) -> None:
    mixer = make(name)
    for placed in (True, False) if mixer.card.coords != "needed" else (True,):
        x = torch.full((len(SIZES), 70, DIM), torch.nan, dtype=torch.float64)
        coords = torch.zeros(len(SIZES), 70, 2, dtype=torch.int64)
        mask = torch.zeros(len(SIZES), 70, dtype=torch.bool)
        for b, count in enumerate(SIZES):
            rows = torch.randperm(70, generator=torch.Generator().manual_seed(b))[:count].sort().values
            x[b, rows], mask[b, rows], coords[b, rows] = instances(count, DIM, b), True, bag_coords(count, b)
        x.requires_grad_(True)
        out = mixed(mixer, x, coords if placed else None, mask)
        assert (out[~mask] == 0).all()
        for b, count in enumerate(SIZES):
            close(out[b, mask[b]], mixed(mixer, instances(count, DIM, b), bag_coords(count, b) if placed else None))
        out.square().sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad[mask]).all()
        assert (x.grad[~mask] == 0).all()


@EVERY
def test_order_of_the_list(name: str) -> None:
    mixer, x, coords = make(name), instances(60, DIM), bag_coords(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for places, ordered in ((coords, mixer.card.ordered), (None, mixer.card.ordered_without)):
        if places is None and mixer.card.coords == "needed":
            continue
        found = mixed(mixer, x[order], None if places is None else places[order])
        expected = mixed(mixer, x, places)[order]
        if ordered:
            assert (found - expected).abs().max() > 1e-6
        else:
            close(found, expected)


@EVERY
def test_a_slide_that_is_moved_as_a_whole_is_the_same(name: str) -> None:
    mixer, x, coords = make(name), instances(40, DIM), bag_coords(40)
    close(mixed(mixer, x, coords + torch.tensor([256 * 5, 256 * 3])), mixed(mixer, x, coords))
    close(mixed(mixer, x, coords * 7), mixed(mixer, x, coords))


@EVERY
def test_coordinates_are_needed_used_or_ignored_as_its_card_says(name: str) -> None:
    mixer, x, coords = make(name), instances(40, DIM), bag_coords(40)
    if mixer.card.coords == "needed":
        with pytest.raises(BagError, match=f"mixer '{name}' needs coordinates"):
            mixed(mixer, x)
        return
    without = mixed(mixer, x)
    assert torch.isfinite(without).all()
    if mixer.card.coords == "ignored":
        close(mixed(mixer, x, coords), without)


@EVERY
def test_reaches_as_far_as_its_card_says(name: str) -> None:
    mixer = make(name)
    if mixer.card.reach == "none":
        x = instances(6, DIM).requires_grad_(True)
        mixed(mixer, x, bag_coords(6))[0].sum().backward()
        assert x.grad is not None
        assert (x.grad[1:] == 0).all()
        return
    x = instances(60, DIM).requires_grad_(True)
    mixed(mixer, x, bag_coords(60))[0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[1:].abs().sum(dim=1) > 0).any()


@EVERY
def test_every_parameter_learns(name: str) -> None:
    mixer = make(name).train()
    if not list(mixer.parameters()):
        return
    for count in (60, 9):
        out = mixed(mixer, instances(count, DIM), bag_coords(count))
        (out * instances(count, DIM, 5)).sum().backward()
    for part, parameter in mixer.named_parameters():
        assert parameter.grad is not None, part
        assert torch.isfinite(parameter.grad).all(), part
        assert (parameter.grad != 0).any(), part


@EVERY
def test_single_and_half_precision(name: str) -> None:
    mixer, x, coords = make(name), instances(40, DIM), bag_coords(40)
    expected = mixed(mixer, x, coords)
    single = mixed(copy.deepcopy(mixer).float(), x.float(), coords)
    assert (single - expected).abs().max() < 1e-4 * max(1.0, float(expected.detach().abs().max()))
    with torch.autocast("cpu", torch.bfloat16):
        half = mixed(copy.deepcopy(mixer).float(), x.float(), coords)
    assert torch.isfinite(half.float()).all()


@EVERY
def test_instances_that_are_all_the_same(name: str) -> None:
    mixer = make(name)
    for value in (0.0, 1.0):
        assert torch.isfinite(mixed(mixer, torch.full((20, DIM), value, dtype=torch.float64), bag_coords(20))).all()


@EVERY
def test_two_tiles_may_lie_in_one_cell(name: str) -> None:
    coords = bag_coords(20)
    coords[7] = coords[3]
    assert torch.isfinite(mixed(make(name), instances(20, DIM), coords)).all()


@EVERY
def test_a_bag_without_instances(name: str) -> None:
    mask = torch.tensor([[True, True, True], [False, False, False]])
    x, coords = torch.stack([instances(3, DIM), instances(3, DIM, 1)]), torch.stack([bag_coords(3), bag_coords(3)])
    out = mixed(make(name), x, coords, mask)
    assert (out[1] == 0).all()
    close(out[0], mixed(make(name), x[0], coords[0]))
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    assert (make(name)(x[:1], Layout.of(x[:1], coords[:1], nobody)) == 0).all()


@EVERY
def test_is_written_and_read(name: str) -> None:
    mixer, x, coords = make(name), instances(30, DIM), bag_coords(30)
    again = make_mixer(name, Width(DIM, HEADS, mlp_ratio=2.0), SMALL.get(name)).double().eval()
    again.load_state_dict(mixer.state_dict())
    assert torch.equal(mixed(again, x, coords), mixed(mixer, x, coords))


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="hilo"):
        mixer_class("hillo")
