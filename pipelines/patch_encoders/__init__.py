"""Patch encoders by name."""

from __future__ import annotations

from collections.abc import Callable

from comel.base.registry import resolve
from comel.base.units import Precision
from comel.errors import ConfigError
from pipelines.patch_encoders.base import PatchEncoder, scale_note
from pipelines.patch_encoders.facts import ENCODER_FACTS, EncoderFacts

__all__ = ["ENCODER_FACTS", "EncoderFacts", "PatchEncoder", "load_encoder", "scale_note"]

_SHIPPED = "efficientnet-lite0"
_KNOWN = {
    _SHIPPED: "pipelines.patch_encoders.efficientnet_lite:EfficientNetLite0",
    **{name: facts.loader for name, facts in ENCODER_FACTS.items()},
}

"""What a user may write; a name of :data:`ENCODER_FACTS` may be followed by a colon and the folder of its weights."""


def load_encoder(name: str, device: str = "auto", precision: Precision = "auto") -> PatchEncoder:
    """Load a patch encoder.

    Args:
        name: ``efficientnet-lite0``; a name of :data:`ENCODER_FACTS`, or that name, a colon and a local folder with the
            files of its hub repository; ``hf:`` with the name of a model on the Hugging Face hub or a local folder;
            ``path/to/file.py:Class``; or the name of an entry point in ``comel.encoders``.
        device: ``auto``, ``cpu``, ``cuda`` or another name that torch knows.
        precision: see :func:`pipelines.patch_encoders.base.resolve_precision`; an encoder of the user's own sets it itself.

    Raises:
        ConfigError: there is no such encoder or device, it cannot compute in that precision, its weights cannot be found, or it
            breaks the contract.
    """
    own = ".py:" in name
    kind, colon, place = (name, "", "") if own else name.partition(":")
    if colon and not place:
        raise ConfigError(f"encoders: '{name}' names no folder", f"give {kind}:FOLDER")
    if kind == "hf" and place:
        from pipelines.patch_encoders.huggingface import HuggingFaceEncoder

        return HuggingFaceEncoder(place, device, precision)
    made: Callable[..., PatchEncoder] = resolve(kind, _KNOWN, "comel.encoders")
    if kind in ENCODER_FACTS:
        return made(ENCODER_FACTS[kind], place or None, device, precision)
    if place:
        raise ConfigError(f"encoders: '{name}': {kind} brings its weights and takes no folder", f"give {kind}")
    if kind == _SHIPPED:
        return made(device, precision)
    if precision != "auto":
        raise ConfigError(f"encoders: '{name}' sets its precision itself, not {precision}", "leave the precision at auto")
    from pipelines.patch_encoders.own import OwnEncoder

    return OwnEncoder(name, made, device, taken=tuple(_KNOWN))
