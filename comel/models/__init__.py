"""The models by name. Each is one file under the contract of :mod:`comel.models.base`."""

from typing import Any

from comel.registry import resolve

__all__ = ["MODELS", "model_class"]

MODELS = {"comel": "comel.model:CoMEL"}


def model_class(name: str) -> Any:
    """The model class called ``name``: ours, an entry point in ``comel.models``, or ``file.py:Class``."""
    return resolve(name, MODELS, "comel.models")
