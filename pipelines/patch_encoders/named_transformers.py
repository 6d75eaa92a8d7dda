"""Named encoders of the transformers library: Phikon-v2, Hibou-B and Hibou-L, ResNet-50."""

from __future__ import annotations

from comel.base.units import Precision
from comel.errors import ConfigError
from pipelines.patch_encoders.facts import EncoderFacts
from pipelines.patch_encoders.huggingface import HuggingFaceEncoder
from pipelines.patch_encoders.weights import model_folder

__all__ = ["NamedTransformersEncoder"]


class NamedTransformersEncoder(HuggingFaceEncoder):
    """A transformers image model whose facts are known; tiles are prepared according to its preprocessor_config.json.

    Args:
        facts: the encoder's facts.
        folder: the folder with the hub repository's files; None to download them.
        device: see :func:`comel.base.devices.resolve_device`.
        precision: see :func:`pipelines.patch_encoders.base.resolve_precision`.

    Raises:
        ConfigError: the model cannot be obtained, or the folder holds a different one.
    """

    def __init__(
        self, facts: EncoderFacts, folder: str | None = None, device: str = "auto", precision: Precision = "auto"
    ) -> None:
        label = facts.name if folder is None else f"{facts.name}:{folder}"
        self._open(model_folder(facts, folder), label, facts.name, device, precision)
        self.mpp = facts.mpp
        found = (self.dimension, self.input_size, self._pooling)
        if found != (facts.dimension, facts.input_size, facts.features):
            raise ConfigError(
                f"{label}: another model: {found[0]} values ({found[2]}) from {found[1]} px, where {facts.name} gives "
                f"{facts.dimension} ({facts.features}) from {facts.input_size} px",
                f"give the folder of {facts.repository}",
            )
