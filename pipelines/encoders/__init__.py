"""Patch encoders by name."""

from __future__ import annotations

import difflib

from comel.errors import ConfigError
from pipelines.encoders.base import PatchEncoder

__all__ = ["ENCODERS", "PatchEncoder", "load_encoder"]

ENCODERS = ("efficientnet-lite0", "hf:<name or folder>")


def load_encoder(name: str, device: str = "auto") -> PatchEncoder:
    """Load a patch encoder.

    Args:
        name: ``efficientnet-lite0``, or ``hf:`` with the name of a model on the Hugging Face hub or a local folder.
        device: ``auto``, ``cpu``, ``cuda`` or another name that torch knows.

    Raises:
        ConfigError: there is no such encoder or device, or its weights cannot be found.
    """
    if name == "efficientnet-lite0":
        from pipelines.encoders.efficientnet_lite import EfficientNetLite0

        return EfficientNetLite0(device)
    kind, _, source = name.partition(":")
    if kind == "hf" and source:
        from pipelines.encoders.huggingface import HuggingFaceEncoder

        return HuggingFaceEncoder(source, device)
    nearest = difflib.get_close_matches(name, ENCODERS, n=1, cutoff=0.0)
    raise ConfigError(f"no encoder '{name}'; the nearest is {nearest[0]}", f"choose one of {', '.join(ENCODERS)}")
