"""The mixers by name. Each is one file under the contract of :mod:`comel.nn.mixers.base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comel.base.registry import resolve_name
from comel.base.settings import parse_section
from comel.nn.mixers.base import Mixer, Width

__all__ = ["MIXERS", "make_mixer", "mixer_class"]

MIXERS = {
    "identity": "comel.nn.mixers.identity:Identity",
    "mlp": "comel.nn.mixers.mlp:MLP",
    "attention": "comel.nn.mixers.attention:FullAttention",
    "gdat": "comel.nn.mixers.gdat:GroupedDoubleAttention",
    "agent": "comel.nn.mixers.agent:AgentAttention",
    "biformer": "comel.nn.mixers.biformer:BiFormer",
    "catanet": "comel.nn.mixers.catanet:TokenAggregation",
    "cca": "comel.nn.mixers.cca:CoreContextAttention",
    "combiner": "comel.nn.mixers.combiner:Combiner",
    "crossformer": "comel.nn.mixers.crossformer:CrossFormer",
    "davit": "comel.nn.mixers.davit:DaViT",
    "deftan2": "comel.nn.mixers.deftan2:DeFTAN2",
    "dlgsanet": "comel.nn.mixers.dlgsanet:DLGSANet",
    "dualtoken": "comel.nn.mixers.dualtoken:DualToken",
    "efficientvit": "comel.nn.mixers.efficientvit:EfficientViT",
    "fit": "comel.nn.mixers.fit:FIT",
    "grat": "comel.nn.mixers.grat:GroupedAttention",
    "group-pose": "comel.nn.mixers.group_pose:GroupPose",
    "hilo": "comel.nn.mixers.hilo:HiLo",
    "hyena": "comel.nn.mixers.hyena:Hyena",
    "lrgt": "comel.nn.mixers.lrgt:LRGT",
    "mossformer": "comel.nn.mixers.mossformer:MossFormer",
    "nystrom": "comel.nn.mixers.nystrom:Nystrom",
    "region": "comel.nn.mixers.region:RegionReembedding",
    "s2aformer": "comel.nn.mixers.s2aformer:S2AFormer",
    "spectformer": "comel.nn.mixers.spectformer:SpectFormer",
    "tnt": "comel.nn.mixers.tnt:TNT",
}


def mixer_class(name: str) -> type[Mixer]:
    """The mixer called ``name``: ours, or an entry point in ``comel.mixers``.

    Raises:
        ConfigError: there is no such mixer, with the nearest name.
    """
    found: type[Mixer] = resolve_name(name, MIXERS, "comel.mixers", files=False)
    return found


def make_mixer(name: str, width: Width, options: Mapping[str, Any] | None = None) -> Mixer:
    """A mixer by name, with some of its options.

    Raises:
        ConfigError: there is no such mixer, it does not have an option, or a value does not fit.
        ValueError: width and options do not fit each other.
    """
    found = mixer_class(name)
    return found(width, parse_section(found.Options, options or {}, f"model.mixer_options.{name}"))
