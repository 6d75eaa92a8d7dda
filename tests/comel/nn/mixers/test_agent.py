"""Agent attention against the authors' numbers and against explicit matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.mixers import agent
from comel.nn.mixers.agent import AgentAttention, AgentOptions
from comel.nn.mixers.base import Width
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight


def from_seed(seed: Seed) -> AgentAttention:
    mixer = AgentAttention(Width(16, 2), AgentOptions(bins=3, line_table=8)).double()
    kv, bias = seed["w/kv.weight"], seed["w/kv.bias"]
    for own, value in {
        "q.weight": seed["w/q.weight"],
        "q.bias": seed["w/q.bias"],
        "k.weight": kv[:16],
        "k.bias": bias[:16],
        "v.weight": kv[16:],
        "v.bias": bias[16:],
        "proj.weight": seed["w/proj.weight"],
        "proj.bias": seed["w/proj.bias"],
        "around.weight": seed["w/dwc.weight"][:, 0],
        "around.bias": seed["w/dwc.bias"],
        "gather_table": seed["w/an_bias"].flatten(2),
        "spread_table": seed["w/na_bias"].flatten(2),
        "gather_rows": seed["w/ah_bias"][0, :, :, :, 0],
        "gather_columns": seed["w/aw_bias"][0, :, :, 0],
        "spread_rows": seed["w/ha_bias"][0, :, :, 0].mT,
        "spread_columns": seed["w/wa_bias"][0, :, 0].mT,
    }.items():
        set_weight(mixer.get_parameter(own), value)
    return mixer


@pytest.mark.parametrize("at_once", [8_192, 5])
def test_equals_the_authors_numbers(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_ROWS_AT_ONCE", at_once)
    seed = Seed("agent-attention")
    mixer = from_seed(seed)
    found = mixed(mixer, seed["x"], grid_coords(8, 8).expand(2, -1, -1))
    torch.testing.assert_close(found, seed["y"], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(mixed(mixer, seed["x4"], seed["coords4"]), seed["y4"], rtol=1e-9, atol=1e-11)


def plain(bins: int) -> AgentAttention:
    """Without biases and the convolution."""
    mixer = AgentAttention(Width(12, 3), AgentOptions(bins=bins)).double()
    for name, parameter in mixer.named_parameters():
        if "_" in name or name.startswith("around"):
            set_weight(parameter, torch.zeros_like(parameter))
    return mixer


def test_without_biases_it_is_two_softmaxes() -> None:
    mixer, x, coords = plain(2), instances(30, 12), bag_coords(30)
    cells = (coords - coords.amin(dim=0)) // 256
    box = cells.amax(dim=0) + 1

    def heads(rows: Tensor) -> Tensor:
        parts: Tensor = rows.view(len(rows), 3, 4).transpose(0, 1)
        return parts

    q, k, v = mixer.q(x), mixer.k(x), mixer.v(x)
    means = []
    for row in range(2):
        for column in range(2):
            inside = (cells[:, 0] >= column * box[0] // 2) & (cells[:, 0] < -((column + 1) * box[0] // -2))
            inside &= (cells[:, 1] >= row * box[1] // 2) & (cells[:, 1] < -((row + 1) * box[1] // -2))
            means.append(q[inside].mean(dim=0))
    a = heads(torch.stack(means))
    gathered = (a @ heads(k).mT / 2).softmax(dim=-1) @ heads(v)
    out = (heads(q) @ a.mT / 2).softmax(dim=-1) @ gathered
    torch.testing.assert_close(mixed(mixer, x, coords), mixer.proj(out.transpose(0, 1).flatten(1)))


def test_one_agent_gives_every_tile_the_same() -> None:
    out = mixed(plain(1), instances(20, 12), bag_coords(20))
    torch.testing.assert_close(out, out[:1].expand(20, -1))


def test_without_coordinates_the_list_is_cut() -> None:
    mixer, x = plain(2), instances(4, 12)
    out = mixed(mixer, x)  # four agents, each one instance: exact attention, twice
    q, k, v = (linear(x).view(4, 3, 4).transpose(0, 1) for linear in (mixer.q, mixer.k, mixer.v))
    gathered = (q @ k.mT / 2).softmax(dim=-1) @ v
    torch.testing.assert_close(out, mixer.proj(((q @ q.mT / 2).softmax(dim=-1) @ gathered).transpose(0, 1).flatten(1)))
