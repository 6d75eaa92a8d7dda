"""Group Pose's two attentions against the authors' numbers and against masks."""

from __future__ import annotations

import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Width
from comel.nn.mixers.group_pose import GroupPose, GroupPoseOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, mixed, set_weight


def from_seed(seed: Seed) -> GroupPose:
    mixer = GroupPose(Width(16, 4, mlp_ratio=2.0)).double()
    for own in ("within", "across"):
        for kind in ("weight", "bias"):
            parts = seed[f"w/{own}_attn.in_proj_{kind}"].chunk(3)
            for name, value in zip("qkv", parts, strict=True):
                set_weight(mixer.get_parameter(f"{own}.{name}.{kind}"), value)
            set_weight(mixer.get_parameter(f"{own}.proj.{kind}"), seed[f"w/{own}_attn.out_proj.{kind}"])
            set_weight(mixer.get_parameter(f"norm_{own}.{kind}"), seed[f"w/{own}_norm.{kind}"])
    for own, theirs in (("fc1", "linear1"), ("fc2", "linear2"), ("norm", "norm2")):
        for kind in ("weight", "bias"):
            set_weight(mixer.get_parameter(f"{own}.{kind}"), seed[f"w/{theirs}.{kind}"])
    return mixer


def test_equals_the_authors_numbers() -> None:
    seed = Seed("group-pose")
    mixer, x = from_seed(seed), seed["x"]  # (groups, batch, types, dim)
    group, bag, kind = (part.flatten() for part in torch.meshgrid(*(torch.arange(n) for n in x.shape[:3]), indexing="ij"))
    within, across = Segments(group * 2 + bag, bag), Segments(bag * 4 + kind, bag)
    rows, place = x.flatten(0, 2), torch.cat([torch.zeros_like(x[:, :, :1]), seed["pos"]], dim=2).flatten(0, 2)
    moved = rows + place
    first = mixer.norm_within(moved + mixer.within(moved, within))
    torch.testing.assert_close(first.view_as(x), seed["y_within"], rtol=1e-10, atol=1e-12)
    second = mixer.norm_across(first + mixer.across(first, across))
    torch.testing.assert_close(second.view_as(x), seed["y_across"], rtol=1e-10, atol=1e-12)
    norm = seed["w/norm1.weight"], seed["w/norm1.bias"]
    third = torch.nn.functional.layer_norm(second + place, (16,), *norm)  # the published layer's step without its picture
    last = mixer.norm(third + mixer.feed_forward(third))
    torch.testing.assert_close(last.view_as(x), seed["y"], rtol=1e-10, atol=1e-12)
    expected = mixer.norm(second + mixer.feed_forward(second))
    torch.testing.assert_close(mixer.layer(rows, place, within, across), expected)


def reached(mixer: GroupPose, row: int, coords: Tensor) -> Tensor:
    x = instances(len(coords), 12).requires_grad_(True)
    mixed(mixer, x, coords)[row].sum().backward()
    assert x.grad is not None
    return x.grad.abs().sum(dim=1) > 1e-14


def test_in_one_layer_a_tile_sees_its_region_and_the_places_in_it() -> None:
    torch.manual_seed(0)
    mixer = GroupPose(Width(12, 3), GroupPoseOptions(side=3, region_token=False)).double()
    set_weight(mixer.norm.weight, torch.rand(12, dtype=torch.float64))  # else the sum of a normed row has no gradient
    coords = bag_coords(60)
    cells = (coords - coords.amin(dim=0)) // 256
    region, place = cells // 3, cells % 3
    seen = set()  # those of its own place, and the tiles of their regions
    for other in range(60):
        if (place[other] == place[5]).all():
            seen |= {row for row in range(60) if (region[row] == region[other]).all()}
    assert set(torch.nonzero(reached(mixer, 5, coords)).flatten().tolist()) == seen


def test_regions_of_one_tile_are_full_attention() -> None:
    torch.manual_seed(0)
    mixer = GroupPose(Width(12, 3), GroupPoseOptions(side=1, region_token=False, position="none")).double()
    x, coords = instances(20, 12), bag_coords(20)
    alone = mixer.norm_within(x + mixer.within.proj(mixer.within.v(x)))
    bag = torch.zeros(20, dtype=torch.int64)
    both = mixer.norm_across(alone + mixer.across(alone, Segments(bag, bag)))
    torch.testing.assert_close(mixed(mixer, x, coords), mixer.norm(both + mixer.feed_forward(both)))


def test_regions_grow_with_the_bag() -> None:
    mixer = GroupPose(Width(12, 3))
    mask = torch.zeros(2, 256, dtype=torch.bool)
    mask[0], mask[1, :16] = True, True
    assert mixer._side(Layout((2, 256), None, mask)) == (4, 2)
