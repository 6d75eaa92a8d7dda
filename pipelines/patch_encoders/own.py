"""A user's own encoder, from a Python file or another package, checked against the contract at every call."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from comel.base.devices import resolve_device
from comel.errors import ComelError, ConfigError
from pipelines.patch_encoders.base import PatchEncoder

__all__ = ["OwnEncoder"]

_PROBE_SIDE = 256
_SHA256 = re.compile(r"[0-9a-f]{64}")


class OwnEncoder(PatchEncoder):
    """The user's encoder behind the contract of :class:`pipelines.patch_encoders.base.PatchEncoder`.

    The class is called with the name of a torch device. Its objects have ``name``, ``dimension``, ``weights_hash`` and
    ``encode``; ``recipe``, ``input_size`` and ``mpp`` (one figure or several) are optional.

    Args:
        source: the name the user gave, for messages.
        make: the user's class.
        device: see :func:`comel.base.devices.resolve_device`.
        taken: names that belong to other encoders.
        code_sha256: SHA-256 of the file of the class; None for an installed package.

    Raises:
        ConfigError: the class cannot be made, lacks a part of the contract, or does not encode two tiles as stated.
    """

    def __init__(
        self,
        source: str,
        make: Callable[[str], Any],
        device: str = "auto",
        taken: tuple[str, ...] = (),
        code_sha256: str | None = None,
    ) -> None:
        self.device, self.precision = resolve_device(device), "own"
        self._source, self.code_sha256 = source, code_sha256
        try:
            self._encoder = make(self.device)
        except ComelError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            called = "the class is called with one argument, the name of a device such as 'cpu'"
            raise ConfigError(
                f"{source}: cannot be made ({type(error).__name__}: {error})",
                called if isinstance(error, TypeError) else "check what its __init__ needs",
            ) from error
        self.name = self._attribute("name", lambda value: isinstance(value, str) and bool(value.strip()), "a text")
        if self.name in taken or self.name.startswith("hf:"):
            raise ConfigError(f"{source}: the name '{self.name}' belongs to another encoder", "give it another name")
        self.dimension = self._attribute("dimension", lambda value: type(value) is int and value > 0, "a whole number above 0")
        self.weights_hash = self._attribute(
            "weights_hash",
            lambda value: isinstance(value, str) and bool(_SHA256.fullmatch(value)),
            "a SHA-256 in hex, see comel.base.files.sha256_of_file",
        )
        self._attribute("encode", callable, "a method")
        self.recipe = str(getattr(self._encoder, "recipe", ""))
        self.input_size = int(
            self._optional(
                "input_size",
                0,
                lambda value: isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0,
                "a whole number, the side in pixels of its input",
            )
        )
        mpp = self._optional("mpp", (), _are_lengths, "um/px above 0, one figure or several")
        self.mpp = tuple(np.atleast_1d(np.asarray(mpp, dtype=float)).tolist())
        self.encode(np.random.default_rng(0).integers(0, 256, (2, _PROBE_SIDE, _PROBE_SIDE, 3), dtype=np.uint8))

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Encode tiles (B, H, W, 3) uint8 RGB to features (B, dimension) float32.

        Raises:
            ConfigError: the user's code fails, or returns anything else.
        """
        try:
            features: np.ndarray = self._encoder.encode(tiles)
        except ComelError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise ConfigError(
                f"{self.name} ({self._source}): encode fails ({type(error).__name__}: {error})", "correct the file"
            ) from error
        expected = (len(tiles), self.dimension)
        if not isinstance(features, np.ndarray):
            self._refuse(f"a {type(features).__name__}", "return a numpy array: tensor.cpu().numpy()")
        if features.shape != expected:
            self._refuse(f"features of shape {features.shape}, not {expected}", "one row per tile, 'dimension' values each")
        if features.dtype != np.float32:
            self._refuse(f"features of type {features.dtype}, not float32", "return features.astype(numpy.float32)")
        if not np.isfinite(features).all():
            self._refuse("features that are not finite (NaN or infinity)", "check its weights and its normalisation")
        return features

    def _attribute(self, name: str, fits: Callable[[Any], bool], wanted: str) -> Any:
        if not hasattr(self._encoder, name):
            raise ConfigError(f"{self._source}: has no '{name}'", f"give it {wanted}")
        value = getattr(self._encoder, name)
        if not fits(value):
            raise ConfigError(f"{self._source}: '{name}' is {value!r}", f"give it {wanted}")
        return value

    def _optional(self, name: str, default: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
        return self._attribute(name, fits, f"{wanted}, or leave it out") if hasattr(self._encoder, name) else default

    def _refuse(self, gave: str, remedy: str) -> None:
        raise ConfigError(f"{self.name} ({self._source}): gave {gave}", remedy)


def _are_lengths(value: Any) -> bool:
    try:
        figures = np.atleast_1d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        return False
    return figures.ndim == 1 and bool(np.isfinite(figures).all() and (figures > 0).all())
