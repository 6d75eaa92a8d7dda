"""The mixers by name. Each is one file under the contract of :mod:`comel.nn.mixers.base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comel.base.registry import resolve_name
from comel.nn.mixers.base import Mixer, Width

__all__ = ["MIXERS", "make_mixer", "mixer_class"]

MIXERS = {
    "identity": "comel.nn.mixers.identity:Identity",
    "mlp": "comel.nn.mixers.mlp:MLP",
    "attention": "comel.nn.mixers.attention:FullAttention",
    "gdat": "comel.nn.mixers.gdat:GroupedDoubleAttention",
    "hilo": "comel.nn.mixers.hilo:HiLo",
    "deftan2": "comel.nn.mixers.deftan2:DeFTAN2",
    "hyena": "comel.nn.mixers.hyena:Hyena",
    "mossformer": "comel.nn.mixers.mossformer:MossFormer",
    "spectformer": "comel.nn.mixers.spectformer:SpectFormer",
}


def mixer_class(name: str) -> type[Mixer]:
    """The mixer called ``name``: ours, or an entry point in ``comel.mixers``.

    Raises:
        ConfigError: there is no such mixer, with the nearest name.
    """
    found: type[Mixer] = resolve_name(name, MIXERS, "comel.mixers")
    return found


def make_mixer(name: str, width: Width, options: Mapping[str, Any] | None = None) -> Mixer:
    """A mixer by name, with some of its options.

    Raises:
        ConfigError: there is no such mixer.
        pydantic.ValidationError: an option that it does not have, or a value that does not fit.
        ValueError: width and options do not fit each other.
    """
    found = mixer_class(name)
    return found(width, found.Options(**(options or {})))
