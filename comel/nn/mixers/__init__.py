"""The mixers by name. Each is one file under the contract of :mod:`comel.nn.mixers.base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comel.base.registry import resolve_name
from comel.base.settings import parse_section
from comel.nn.mixers.base import Mixer, Width

__all__ = ["MIXERS", "make_mixer", "mixer_class"]

MIXERS = {
    "nystrom": "comel.nn.mixers.nystrom:Nystrom",
    "dualtoken": "comel.nn.mixers.dualtoken:DualToken",
    "s2aformer": "comel.nn.mixers.s2aformer:S2AFormer",
    "fit": "comel.nn.mixers.fit:FIT",
    "tnt": "comel.nn.mixers.tnt:TNT",
    "efficientvit": "comel.nn.mixers.efficientvit:EfficientViT",
    "group-pose": "comel.nn.mixers.group_pose:GroupPose",
    "crossformer": "comel.nn.mixers.crossformer:CrossFormer",
    "lrgt": "comel.nn.mixers.lrgt:LRGT",
    "davit": "comel.nn.mixers.davit:DaViT",
    "dlgsanet": "comel.nn.mixers.dlgsanet:DLGSANet",
    "agent": "comel.nn.mixers.agent:AgentAttention",
    "identity": "comel.nn.mixers.identity:Identity",
    "mlp": "comel.nn.mixers.mlp:MLP",
    "attention": "comel.nn.mixers.attention:FullAttention",
    "gdat": "comel.nn.mixers.gdat:GroupedDoubleAttention",
    "biformer": "comel.nn.mixers.biformer:BiFormer",
    "combiner": "comel.nn.mixers.combiner:Combiner",
    "cca": "comel.nn.mixers.cca:CoreContextAttention",
    "grat": "comel.nn.mixers.grat:GroupedAttention",
    "hilo": "comel.nn.mixers.hilo:HiLo",
    "deftan2": "comel.nn.mixers.deftan2:DeFTAN2",
    "hyena": "comel.nn.mixers.hyena:Hyena",
    "mossformer": "comel.nn.mixers.mossformer:MossFormer",
    "spectformer": "comel.nn.mixers.spectformer:SpectFormer",
    "region": "comel.nn.mixers.region:RegionReembedding",
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
