"""CoMEL with other mixers, feed-forward parts and poolings: trained, adapted, written, read, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from comel.base.settings import parse_section
from comel.cohort.classes import Head
from comel.errors import ConfigError
from comel.models.base import BagBatch, settings_of
from comel.models.comel import CoMEL, CoMELOptions
from comel.nn.mixers import MIXERS
from comel.runs.weights import build_model, load_state, save_state
from comel.strategies.base import Strategy
from comel.strategies.linears import adapted_linears, input_grams
from tests.comel.nn.mixers.seeds import bag_coords

HEADS = [Head("a", ("normal", "tumour"), "normal"), Head("b", ("x", "y"), None)]
SMALL: dict[str, Any] = {"dim": 24, "num_heads": 4, "attention_hidden": 8, "mlp_ratio": 2.0}


def make(**options: Any) -> CoMEL:
    torch.manual_seed(0)
    return CoMEL(10, CoMELOptions(**{**SMALL, **options}), heads=HEADS).eval()


def batch(count: int = 30, seed: int = 0) -> BagBatch:
    features = torch.randn(1, count, 10, generator=torch.Generator().manual_seed(seed))
    return BagBatch(features, bag_coords(count, seed)[None])


PARTS = [
    *({"mixer": (name,)} for name in sorted(MIXERS)),
    {"mixer": ("attention",), "mixer_options": {"attention": {"shared_heads": 2, "routed_heads": 1}}},
    {"mixer": ("hilo", "gdat"), "mixer_options": {"hilo": {"window": 2}}},
    {"paths": "ensemble"},
    {"paths": "ensemble", "mixer": ("davit", "hilo")},
    *({"mlp": mlp} for mlp in ("glu", "gdfn")),
    *({"pooling": pooling} for pooling in ("gated", "sigmoid", "ggem", "query", "latent")),
]


@pytest.mark.parametrize("options", PARTS, ids=str)
def test_learns_is_adapted_written_and_read(options: dict[str, Any], tmp_path: Path) -> None:
    from peft import get_peft_model

    from comel.owlora import OWLoraConfig

    model, bags = make(**options).train(), batch()
    torch.stack(list(model.loss(model(bags), torch.tensor([1])).values())).sum().backward()
    blocks = list(model.trunk.get_submodule("blocks").parameters())
    assert not blocks or any(p.grad is not None and (p.grad != 0).any() for p in blocks)
    model.eval()
    save_state(tmp_path, model, Strategy())
    again = build_model({"name": "comel", **settings_of(model)})
    load_state(tmp_path, again)
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(bags).logits, model(bags).logits)
    layers = adapted_linears(model)
    assert "embed" in layers
    grams = input_grams(model, layers, [(bags, 0)])
    assert all(torch.isfinite(gram).all() for gram in grams.values())
    with torch.no_grad():
        before = model(bags).bag_features
        wrapped = get_peft_model(
            model.trunk, OWLoraConfig(r=2, target_modules=list(model.adapter_targets), energy=0.5, tasks=2), adapter_name="one"
        )
        torch.testing.assert_close(model(bags).bag_features, before)
    model.train()
    model(bags).bag_features.square().sum().backward()
    learned = [name for name, p in wrapped.named_parameters() if p.requires_grad and p.grad is not None]
    assert learned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "hillo"}, "did you mean 'hilo'"),
        ({"mixer": "hilo,gdat,mlp"}, "names 3 for 2 blocks"),
        ({"mixer": "hilo", "mixer_options": {"hilo": {"windw": 3}}}, "windw"),
        ({"mixer": "hilo", "mixer_options": {"hilo": {"window": 0}}}, "window"),
        ({"mixer": "hilo", "mixer_options": {"gdat": {}}}, "given for 'gdat'"),
        ({"mixer": "hilo", "num_heads": 1, "dim": 8}, "leaves one kind without a head"),
        ({"mixer": "hilo", "region_size": 8}, "region_size belongs to mixer 'gdat', and mixer names hilo"),
        ({"mixer": "hilo", "grouping": "spatial"}, "grouping belongs to mixer 'gdat'"),
        ({"mixer_options": {"gdat": {"region_size": 8}}}, "is the setting model.region_size"),
        ({"pooling": "gatd"}, "did you mean 'gated'"),
        ({"pooling": "ggem", "pooling_options": {"before": "abs"}}, "choose softplus, relu or none"),
        ({"pooling": "latent", "pooling_options": {"latnts": 2}}, "latnts"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_section(CoMELOptions, {**SMALL, **options}, "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "uses"),
    [
        ({}, True),
        ({"context": "none"}, True),  # the tiles around
        ({"context": "none", "neighbourhood": 0}, False),
        ({"context": "none", "neighbourhood": 0, "grouping": "spatial"}, True),
        ({"context": "none", "neighbourhood": 0, "mixer": ("hilo",)}, True),
        ({"context": "none", "neighbourhood": 0, "mixer": ("attention",)}, False),
        ({"context": "none", "neighbourhood": 0, "mixer": ("attention",), "mixer_options": {"attention": {"window": 3}}}, True),
        ({"context": "none", "neighbourhood": 0, "mlp": "gdfn"}, True),
    ],
    ids=str,
)
def test_whether_places_count(options: dict[str, Any], uses: bool) -> None:
    model, bags = make(**options), batch()
    assert model.uses_places == uses
    assert bags.coords is not None
    with torch.no_grad():
        moved = model(BagBatch(bags.features, bags.coords[:, torch.randperm(30, generator=torch.Generator().manual_seed(1))]))
        same = torch.equal(moved.instance_scores, model(bags).instance_scores)
    assert same or uses
