"""Patch encoders by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from comel.base.registry import is_user_code, nearest, resolve_name, resolve_user_code
from comel.base.trust import Trust
from comel.base.units import Precision
from comel.errors import ConfigError
from pipelines.patch_encoders.base import PatchEncoder, scale_note
from pipelines.patch_encoders.facts import ENCODER_FACTS, EncoderFacts

__all__ = [
    "ENCODER_FACTS",
    "EncoderFacts",
    "PatchEncoder",
    "load_encoder",
    "load_stated_encoder",
    "scale_note",
]

_GROUP = "comel.encoders"
_SHIPPED = "efficientnet-lite0"
_KNOWN = {
    _SHIPPED: "pipelines.patch_encoders.efficientnet_lite:EfficientNetLite0",
    **{name: facts.loader for name, facts in ENCODER_FACTS.items()},
}

"""What a user may write; a name of :data:`ENCODER_FACTS` may be followed by a colon and the folder of its weights."""


def load_encoder(name: str, device: str = "auto", precision: Precision = "auto") -> PatchEncoder:
    """Load the patch encoder that a user named: on the command line, in their settings file, or from Python.

    Args:
        name: ``efficientnet-lite0``; a name of :data:`ENCODER_FACTS`, or that name, a colon and a local folder with the
            files of its hub repository; ``hf:`` with the name of a model on the Hugging Face hub or a local folder;
            ``path/to/file.py:Class``; or the name of an entry point in ``comel.encoders``. If it was read from a run or a
            bag, use :func:`load_stated_encoder`.
        device: ``auto``, ``cpu``, ``cuda`` or another name that torch knows.
        precision: see :func:`pipelines.patch_encoders.base.resolve_precision`; a user's own encoder sets it itself.

    Raises:
        ConfigError: there is no such encoder or device, it cannot compute in that precision, its weights cannot be found, or it
            breaks the contract.
    """
    if is_user_code(name):
        own, code_sha256 = resolve_user_code(name)
        return _own(name, own, device, precision, code_sha256)
    kind, colon, place = name.partition(":")
    if colon and not place:
        raise ConfigError(f"encoders: '{name}' does not name a folder", f"give {kind}:FOLDER")
    if kind == "hf" and place:
        from pipelines.patch_encoders.huggingface import HuggingFaceEncoder

        return HuggingFaceEncoder(place, device, precision)
    made: Callable[..., PatchEncoder] = resolve_name(kind, _KNOWN, _GROUP)
    if kind in ENCODER_FACTS:
        return made(ENCODER_FACTS[kind], place or None, device, precision)
    if place:
        raise ConfigError(f"encoders: '{name}': {kind} includes its weights and does not take a folder", f"give {kind}")
    if kind == _SHIPPED:
        return made(device, precision)
    return _own(name, made, device, precision)


def load_stated_encoder(name: str, trust: Trust, device: str = "auto") -> PatchEncoder:
    """Load the patch encoder that a run or a bag names. The name may come from anyone, so it refers to a built-in or an
    installed package's encoder and nothing else, unless the user trusts more.

    Args:
        name: the name in the run or bag.
        trust: ``hf:NAME`` lets it refer to that model on a hub, ``FILE.py:Class`` to a user's own encoder whose
            ``name`` it is.
        device: see :func:`load_encoder`.

    Raises:
        ConfigError: there is no such name; or see :func:`load_encoder`.
    """
    if name in _KNOWN or name in {point.name for point in entry_points(group=_GROUP)} or trust.allows_hub(name):
        return load_encoder(name, device)
    for word in trust.encoders:
        made, code_sha256 = resolve_user_code(word)
        if callable(getattr(made, "encode", None)):
            encoder = _own(word, made, device, "auto", code_sha256)
            if encoder.name == name:
                return encoder
    raise ConfigError(f"encoders: no installed encoder '{name}'", _remedy(name, trust))


def _remedy(name: str, trust: Trust) -> str:
    own = trust.how_to_say("FILE.py:Class", "--encoder")
    if name.startswith("hf:"):
        fetched = ", or --encoder hf:FOLDER" if trust.setting is None else ""
        return f"if you know that model and trust it, give {trust.how_to_say(name, '--encoder')}{fetched}"
    if is_user_code(name) or ":" in name:
        return f"if it is yours, say where it is: {own}"
    return f"{nearest(name, list(_KNOWN)).removesuffix('?')}; or, where it is your own, say {own}"


def _own(name: str, made: Any, device: str, precision: Precision, code_sha256: str | None = None) -> PatchEncoder:
    if precision != "auto":
        raise ConfigError(f"encoders: '{name}' sets its precision itself, not {precision}", "leave the precision at auto")
    from pipelines.patch_encoders.own import OwnEncoder

    return OwnEncoder(name, made, device, taken=tuple(_KNOWN), code_sha256=code_sha256)
