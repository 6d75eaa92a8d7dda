"""FIT against the authors' numbers and against what defines it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Width
from comel.nn.mixers.fit import FIT, FITOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, mixed, set_weight


def load_attention(module: nn.Module, seed: Seed, at: str) -> None:
    for own, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        set_weight(module.get_parameter(f"{own}.weight"), seed[f"w/{at}.{theirs}.kernel"].flatten(1).T)
        set_weight(module.get_parameter(f"{own}.bias"), seed[f"w/{at}.{theirs}.bias"].flatten())
    set_weight(module.get_parameter("proj.weight"), seed[f"w/{at}.output.kernel"].flatten(0, 1).T)
    set_weight(module.get_parameter("proj.bias"), seed[f"w/{at}.output.bias"])


def load_norm(module: nn.Module, seed: Seed, at: str) -> None:
    set_weight(module.get_parameter("weight"), seed[f"w/{at}.gamma"])
    set_weight(module.get_parameter("bias"), seed[f"w/{at}.beta"])


def from_seed(seed: Seed) -> FIT:
    options = FITOptions(side=4, latents=3, latent_width=16, latent_heads=4, local_layers=(1, 1, 1), global_layers=(2, 1))
    mixer = FIT(Width(12, 2, mlp_ratio=2.0), options).double()
    for kind, blocks in (("x_network", mixer.local), ("l_network", mixer.over)):
        for i, layers in enumerate(blocks):
            assert isinstance(layers, nn.ModuleList)
            for j, layer in enumerate(layers):
                at = f"{kind}.{i}.{j}"
                load_attention(layer.get_submodule("attention"), seed, f"{at}.mha")
                for n in (1, 2):
                    load_norm(layer.get_submodule(f"norm{n}"), seed, f"{at}.ln{n}")
                    set_weight(layer.get_parameter(f"mlp.fc{n}.weight"), seed[f"w/{at}.fc{n}.kernel"].T)
                    set_weight(layer.get_parameter(f"mlp.fc{n}.bias"), seed[f"w/{at}.fc{n}.bias"])
    for kind, reads in (("l2x", mixer.gather), ("x2l", mixer.spread)):
        for i, read in enumerate(reads):
            load_attention(read.get_submodule("attention"), seed, f"{kind}.{i}.mha")
            load_norm(read.get_submodule("norm"), seed, f"{kind}.{i}.ln_q")
            load_norm(read.get_submodule("norm_keys"), seed, f"{kind}.{i}.ln_kv")
    load_norm(mixer.norm, seed, "x_output_ln")
    return mixer


def normed(latents: Tensor, seed: Seed) -> Tensor:
    return torch.nn.functional.layer_norm(latents, (16,), seed["w/l_output_ln.gamma"], seed["w/l_output_ln.beta"], 1e-6)


def test_equals_the_authors_numbers() -> None:
    seed = Seed("fit")
    mixer = from_seed(seed)
    stem = torch.nn.functional.layer_norm(
        seed["x"] @ seed["w/stem.kernel"] + seed["w/stem.bias"], (12,), seed["w/stem_ln.gamma"], seed["w/stem_ln.beta"], 1e-6
    )
    rows = (stem + seed["w/x_pos_emb"]).flatten(0, 2)  # (2 bags, 4 groups, 5 tiles)
    group = torch.arange(8).repeat_interleave(5)
    latents = seed["w/latent_pos_emb"].repeat(2, 1)
    x, after = mixer.run(rows, latents, Segments(group, group // 4))
    torch.testing.assert_close(x.view(2, 4, 5, 12), seed["y"], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(normed(after, seed).view(2, 4, 3, 16), seed["y_latents"], rtol=1e-9, atol=1e-10)
    layout = Layout((1, 37), seed["coords2"])
    x, after = mixer.run(seed["x2"][0], seed["w/latent_pos_emb"][:3].repeat(9, 1), layout.squares(4))
    torch.testing.assert_close(x, seed["y2"][0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(normed(after, seed).view(9, 3, 16), seed["y2_latents"][0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("far", [True, False])
def test_regions_see_each_other_through_the_latents_alone(far: bool) -> None:
    torch.manual_seed(0)
    mixer = FIT(Width(12, 3), FITOptions(side=2)).double()
    if not far:
        for read in mixer.spread:
            set_weight(read.get_parameter("attention.proj.weight"), torch.zeros(12, 12, dtype=torch.float64))
    coords = bag_coords(40)
    x = instances(40, 12).requires_grad_(True)
    (mixed(mixer, x, coords)[3] * instances(1, 12, 5)[0]).sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=1) > 1e-15
    squares = Layout((1, 40), coords[None]).squares(2).of
    assert seen.all() if far else torch.equal(seen, squares == squares[3])


def test_layers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="one more of the first"):
        FIT(Width(12, 3), FITOptions(local_layers=(1, 1), global_layers=(1, 1)))


def test_regions_have_no_order_but_their_place() -> None:
    torch.manual_seed(0)
    mixer = FIT(Width(12, 3), FITOptions(side=2, cell_code=False)).double()
    x = instances(8, 12)
    two = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]]) * 256
    first, second = torch.cat([two, two + torch.tensor([1024, 0])]), torch.cat([two + torch.tensor([1024, 0]), two])
    torch.testing.assert_close(mixed(mixer, x, first), mixed(mixer, x, second))
