"""MossFormer's block against the authors' numbers and against its dense form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers import mossformer
from comel.nn.mixers.base import Width
from comel.nn.mixers.mossformer import MossFormer, MossFormerOptions, rotate, shift
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, mixed

PROJECTION = {"scale": "0.g", "linear.weight": "1.weight", "linear.bias": "1.bias", "conv.weight": "3.sequential.1.conv.weight"}
NAMES = {
    f"{part}.{own}": f"{part}.mdl.{theirs}" for part in ("to_hidden", "to_qk", "to_out") for own, theirs in PROJECTION.items()
}
NAMES |= {"gamma": "qk_offset_scale.gamma", "beta": "qk_offset_scale.beta"}


def published() -> tuple[Seed, MossFormer]:
    seed = Seed("mossformer")
    mixer = MossFormer(Width(16), MossFormerOptions(chunk=4, key_dim=8)).eval()
    seed.load(mixer, NAMES)
    return seed, mixer


def make(chunk: int = 4) -> MossFormer:
    torch.manual_seed(0)
    mixer = MossFormer(Width(6, 2), MossFormerOptions(chunk=chunk, key_dim=4, kernel=5)).double().eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return mixer


def attended(mixer: MossFormer, x: Tensor) -> Tensor:
    """``(A1 + A2) [v, u]`` of one bag."""
    z = shift(x)
    return torch.cat([part for _, part in mixer.attend(mixer.to_qk(z), mixer.to_hidden(z))])


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("x2", "y2")])
def test_equals_the_authors_numbers(x: str, y: str) -> None:
    seed, mixer = published()
    torch.testing.assert_close(mixed(mixer, seed[x]), seed[y], rtol=1e-6, atol=1e-6)


def test_the_attended_streams_equal_the_authors_numbers() -> None:
    seed, mixer = published()
    for b in range(2):
        v, u = attended(mixer, seed["x"][b]).chunk(2, dim=-1)
        torch.testing.assert_close(v, seed["y_attv"][b], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(u, seed["y_attu"][b], rtol=1e-6, atol=1e-6)


def test_a_masked_row_of_the_authors_batch_is_here_the_bag_alone() -> None:
    seed, mixer = published()
    out = mixed(mixer, seed["x2"], None, seed["mask2"])
    torch.testing.assert_close(out[0], seed["y3"][0], rtol=1e-6, atol=1e-6)  # a row without padding
    torch.testing.assert_close(out[1, :7], mixed(mixer, seed["x2"][1, :7]))  # theirs lets padding into convolution and M


@pytest.mark.parametrize(("count", "chunk"), [(1, 4), (3, 4), (12, 4), (14, 4), (14, 256)])
def test_equals_explicit_matrices(count: int, chunk: int) -> None:
    mixer, x = make(chunk), instances(count, 6)
    z = shift(x)
    places = torch.arange(count)
    q1, q2, k1, k2 = (rotate(mixer.to_qk(z) * mixer.gamma[i] + mixer.beta[i], places) for i in range(4))
    same_chunk = (places // chunk)[:, None] == (places // chunk)[None]
    weights = F.relu(q1 @ k1.T / chunk).square() * same_chunk + q2 @ k2.T / count
    torch.testing.assert_close(attended(mixer, x), weights @ mixer.to_hidden(z))


def test_the_gates_are_crossed() -> None:
    mixer, x = make(), instances(11, 6)
    v, u = mixer.to_hidden(shift(x)).chunk(2, dim=-1)
    attended_v, attended_u = attended(mixer, x).chunk(2, dim=-1)
    expected = x + mixer.to_out(attended_u * v * torch.sigmoid(attended_v * u))
    torch.testing.assert_close(mixed(mixer, x), expected)


def test_a_convolution_sees_its_neighbours_and_zeros_beyond_the_ends() -> None:
    layer, x = make().to_qk, instances(9, 6)
    rows = F.silu(layer.linear(x / x.square().mean(dim=-1, keepdim=True).sqrt() * layer.scale))
    padded = F.pad(rows, (0, 0, 2, 2))
    expected = rows + torch.stack([(padded[i : i + 5] * layer.conv.weight[:, 0].T).sum(dim=0) for i in range(9)])
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("rows_at_once", [1, 4, 9])
def test_slices_do_not_matter(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    mixer, x = make(), instances(30, 6)
    expected = mixed(mixer, x)
    monkeypatch.setattr(mossformer, "_ROWS_AT_ONCE", rows_at_once)
    torch.testing.assert_close(mixed(mixer, x), expected)


def test_positions_turn_pairs_of_channels() -> None:
    x = instances(3, 34)
    turned = rotate(x, torch.tensor([0, 1, 5]))
    torch.testing.assert_close(turned[0], x[0])
    torch.testing.assert_close(turned[:, 32:], x[:, 32:])
    pairs, before = (torch.view_as_complex(y[:, :32].reshape(3, 16, 2)) for y in (turned, x))
    angle = torch.tensor(5 * 10_000 ** (-6 / 32), dtype=torch.float64)
    torch.testing.assert_close(pairs[2, 3] / before[2, 3], torch.polar(torch.ones_like(angle), angle))


def test_the_first_half_comes_from_the_row_before() -> None:
    x = instances(4, 5)
    assert torch.equal(shift(x)[1:, :3], x[:-1, :3])
    assert torch.equal(shift(x)[0, :3], torch.zeros(3))
    assert torch.equal(shift(x)[:, 3:], x[:, 3:])
    assert torch.equal(shift(x[:, :1]), x[:, :1])


def test_the_order_is_a_curve_over_the_slide() -> None:
    mixer, x, coords = make(), instances(30, 6), bag_coords(30)
    order = Layout.of(x[None], coords[None]).curve()
    torch.testing.assert_close(mixed(mixer, x, coords)[order], mixed(mixer, x[order]))


def test_a_kernel_has_a_middle() -> None:
    with pytest.raises(ValueError, match="odd number"):
        MossFormerOptions(kernel=4)
