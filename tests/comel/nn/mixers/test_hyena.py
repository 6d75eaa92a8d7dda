"""Two-dimensional Hyena against the authors' numbers and against the double sums it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout.convolution import depthwise
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.hyena import Hyena, HyenaOptions, turned
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight

CORNERS = ((False, False), (True, True), (False, True), (True, False))
SHARED = {f"{part}.{kind}": f"{part}.{kind}" for part in ("in_proj", "out_proj") for kind in ("weight", "bias")}
LAYERS = {f"layers.{i}.{kind}": f"{2 * i}.{kind}" for i in range(3) for kind in ("weight", "bias")} | {"out.weight": "6.weight"}


def published(directions: str, order: int = 2, kind: str = "joint") -> tuple[Seed, Hyena]:
    """The authors' weights: case 1 is order 2 with one network, case 2 order 3 with two."""
    seed, prefix = Seed("hyena-nd"), "w/" if order == 2 else "w2/"
    options = HyenaOptions(reach=6, features=3, hidden=8, order=order, filter=kind, directions=directions)
    mixer = Hyena(Width(8), options).eval()
    seed.arrays[prefix + "short"] = seed.arrays[prefix + "short_filter.weight"].squeeze(1)
    seed.arrays[prefix + "skip"] = seed.arrays[prefix + "filter_fn.bias"].reshape(order - 1, 8)
    names = SHARED | {"short_weight": "short", "short_bias": "short_filter.bias", "skip": "skip"}
    for number, axis in enumerate([""] if kind == "joint" else ["X", "Y"]):
        names |= {f"filter.networks.{number}.{own}": f"filter_fn.{axis}implicit_filter.{name}" for own, name in LAYERS.items()}
    names["filter.freq"] = f"filter_fn.{'' if kind == 'joint' else 'Y'}implicit_filter.1.freq"
    if directions == "4dir":
        names |= {"linear_mix.weight": "linear_mix.weight", "linear_mix.bias": "linear_mix.bias"}
    seed.load(mixer, names, prefix)
    return seed, mixer


def close_to_the_largest(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def make(**options: object) -> Hyena:
    torch.manual_seed(0)
    mixer = Hyena(Width(4, 2), HyenaOptions(**{"reach": 5, "hidden": 6, **options})).double().eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return mixer


@pytest.mark.parametrize(("directions", "y"), [("standard", "y"), ("seq", "y_seq"), ("4dir", "y_4dir")])
def test_order_2_equals_the_authors_numbers(directions: str, y: str) -> None:
    seed, mixer = published(directions)
    found = mixed(mixer, seed["x"], grid_coords(6, 6).expand(2, -1, -1))
    close_to_the_largest(found, seed[y])


@pytest.mark.parametrize(("directions", "y"), [("seq", "y2"), ("standard", "y2_std")])
def test_order_3_equals_the_authors_numbers(directions: str, y: str) -> None:
    seed, mixer = published(directions, order=3, kind="product")
    close_to_the_largest(mixed(mixer, seed["x"], grid_coords(6, 6).expand(2, -1, -1)), seed[y])


@pytest.mark.parametrize(("order", "kind", "prefix", "y"), [(2, "joint", "w/", "y_kernel"), (3, "product", "w2/", "y2_kernel")])
def test_the_filters_equal_the_authors_numbers(order: int, kind: str, prefix: str, y: str) -> None:
    seed, mixer = published("standard", order, kind)
    close_to_the_largest(mixer.filter.z.double(), seed[prefix + "filter_fn.pos_emb.z"][0])
    close_to_the_largest(mixer.filter().permute(1, 2, 0), seed[y])


def explicit(mixer: Hyena, x: Tensor, coords: Tensor, flips: list[tuple[bool, bool]]) -> Tensor:
    """The mixer before its output projection, its long convolutions as tables of all pairs, all from given corners."""
    layout = Layout.of(x[None], coords[None])
    parts = depthwise(mixer.in_proj(x), mixer.short_weight, layout) + mixer.short_bias
    *gates, v = parts.split(x.shape[1], dim=1)
    lag = (layout.cells[:, None] - layout.cells[None]).flip(-1)  # (N, N, 2) rows first
    reach = mixer.options.reach
    kernels = (mixer.filter() / (2 * reach)).split(x.shape[1])
    for kernel, skip, gate, flip in zip(kernels, mixer.skip, reversed(gates[1:]), flips, strict=True):
        away = lag * torch.tensor([-1 if around else 1 for around in flip])
        inside = ((away >= 0) & (away < reach)).all(dim=-1)
        away = away.clamp(0, reach - 1)
        v = v * gate
        v = torch.einsum("cpq,qc->pc", kernel[:, away[..., 0], away[..., 1]] * inside, v) + skip * v
    gated: Tensor = v * gates[0]
    return gated


@pytest.mark.parametrize("kind", ["joint", "product"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("directions", ["standard", "seq", "4dir"])
def test_equals_the_double_sums(directions: str, order: int, kind: str) -> None:
    mixer = make(directions=directions, order=order, filter=kind)
    x, coords = instances(30, 4), bag_coords(30)
    if directions == "4dir":
        ways = [explicit(mixer, x, coords, [corner] * (order - 1)) for corner in CORNERS]
        expected = mixer.out_proj(mixer.linear_mix(torch.stack(ways, dim=-1)).squeeze(-1))
    else:
        first = (True, True) if directions == "seq" else (False, False)
        expected = mixer.out_proj(explicit(mixer, x, coords, [first, (False, False)][: order - 1]))
    torch.testing.assert_close(mixed(mixer, x, coords), expected)


def test_a_kernel_is_turned_around_with_its_lag_zero() -> None:
    kernel = instances(2 * 3, 3).view(2, 3, 3)
    for flip in CORNERS:
        found, (row, column) = turned(kernel, flip)
        assert torch.equal(found[:, row, column], kernel[:, 0, 0])
        assert torch.equal(found[:, abs(row - 1), column], kernel[:, 1, 0])


def test_from_the_top_left_nothing_below_or_to_the_right_is_seen() -> None:
    mixer, x, coords = make(directions="standard"), instances(30, 4), bag_coords(30)
    with torch.no_grad():
        mixer.short_weight.mul_(torch.nn.functional.pad(torch.ones(1, 1, dtype=torch.float64), (1, 1, 1, 1)))  # no neighbours
    cells = Layout.of(x[None], coords[None]).cells
    place = int((cells - cells.double().mean(dim=0)).abs().sum(dim=1).argmin())
    given = x.clone().requires_grad_(True)
    mixed(mixer, given, coords)[place].sum().backward()
    assert given.grad is not None
    lag = cells[place] - cells
    seen = given.grad.abs().sum(dim=1) > 1e-12  # a transform leaves rounding errors everywhere
    assert torch.equal(seen, ((lag >= 0) & (lag < 5)).all(dim=1))


def test_equal_weights_from_all_corners_know_no_direction() -> None:
    mixer, x = make(directions="4dir"), instances(30, 4)
    with torch.no_grad():
        mixer.linear_mix.weight.fill_(0.25)
        mixer.short_weight.copy_(mixer.short_weight + mixer.short_weight.flip(2))
    coords = bag_coords(30)
    mirrored = coords * torch.tensor([-1, 1])
    torch.testing.assert_close(mixed(mixer, x, mirrored), mixed(mixer, x, coords))


@pytest.mark.parametrize("directions", ["standard", "4dir"])
def test_without_a_kernel_only_gates_are_left(directions: str) -> None:
    mixer, x, coords = make(directions=directions), instances(30, 4), bag_coords(30)
    with torch.no_grad():
        mixer.filter.networks[0].out.weight.zero_()  # type: ignore[union-attr, operator]
        mixer.skip.fill_(1)
        if directions == "4dir":
            mixer.linear_mix.weight.fill_(0.25)
            mixer.linear_mix.bias.zero_()
    layout = Layout.of(x[None], coords[None])
    first, second, v = (depthwise(mixer.in_proj(x), mixer.short_weight, layout) + mixer.short_bias).chunk(3, dim=1)
    torch.testing.assert_close(mixed(mixer, x, coords), mixer.out_proj(first * second * v))


def test_tissue_far_away_changes_nothing() -> None:
    mixer, x, coords = make(), instances(30, 4), bag_coords(30)
    far = torch.cat([coords, coords.amax(dim=0, keepdim=True) + 256 * 100_000])
    torch.testing.assert_close(mixed(mixer, torch.cat([x, x[:1]]), far)[:30], mixed(mixer, x, coords))


def test_a_skip_of_its_own_for_each_convolution() -> None:
    mixer = make(order=4, filter="product")
    assert mixer.skip.shape == (3, 4)
    set_weight(mixer.skip, torch.zeros(3, 4))
    assert torch.isfinite(mixed(mixer, instances(9, 4), bag_coords(9))).all()


def test_an_even_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number"):
        HyenaOptions(features=4)
