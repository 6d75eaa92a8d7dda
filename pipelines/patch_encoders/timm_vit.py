"""Vision transformers of the timm library: UNI, UNI2-h, Virchow2, H-optimus-0 and -1, the tile encoder of Prov-GigaPath.

The network is built from its description here, and only tensors are read from the hub's files, so no foreign code or
configuration influences the computation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from comel.base.units import Precision
from comel.errors import ConfigError
from pipelines.patch_encoders.facts import EncoderFacts
from pipelines.patch_encoders.torch_encoder import TorchEncoder
from pipelines.patch_encoders.weights import hash_of_weights, load_weights, read_weights

__all__ = ["TimmEncoder", "TimmViT", "import_timm"]


class TimmEncoder(TorchEncoder):
    """An encoder whose network timm builds; subclasses define how.

    Args:
        facts: the encoder's facts.
        folder: the folder with the hub repository's files; None to download them.
        device: see :func:`comel.base.devices.resolve_device`.
        precision: see :func:`pipelines.patch_encoders.base.resolve_precision`.

    Raises:
        ConfigError: timm is not installed, or the weights cannot be obtained or do not match.
    """

    def __init__(
        self, facts: EncoderFacts, folder: str | None = None, device: str = "auto", precision: Precision = "auto"
    ) -> None:
        assert facts.preprocessing is not None
        self.run_on(device, precision)
        timm = import_timm(facts.name)
        weights = self.translate(read_weights(facts, folder))
        network = self.build(timm, facts)
        load_weights(network, weights, facts)
        self.name, self.dimension, self.mpp = facts.name, facts.dimension, facts.mpp
        self.weights_hash = hash_of_weights(weights)
        self.recipe = f"{facts.features}; {facts.preprocessing.describe()}"
        self.input_size = facts.input_size
        self._facts, self._preprocessing = facts, facts.preprocessing
        self._network = network.eval().requires_grad_(False).float().to(self.device)

    @abstractmethod
    def build(self, timm: Any, facts: EncoderFacts) -> nn.Module:
        """The network with random weights."""

    def translate(self, weights: dict[str, Any]) -> dict[str, Any]:
        """The published tensors under the network's names."""
        return weights

    @abstractmethod
    def features(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors (B, dimension) of ``pixels`` (B, 3, input_size, input_size)."""

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, dimension) of tiles (B, H, W, 3) uint8."""
        return self.features(self._network, self._preprocessing.apply(inputs["tiles"]))


class TimmViT(TimmEncoder):
    """A plain vision transformer; the vector is its class token, for Virchow2 beside the mean of the patch tokens."""

    def build(self, timm: Any, facts: EncoderFacts) -> nn.Module:
        """The network with random weights."""
        architecture, options = _architecture(timm, facts.name)
        network: nn.Module = timm.create_model(
            architecture, pretrained=False, num_classes=0, img_size=facts.input_size, **options
        )
        return network

    def features(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors (B, dimension) of ``pixels`` (B, 3, input_size, input_size)."""
        tokens: torch.Tensor = network.forward_features(pixels).float()  # (B, 1 + registers + patches, D)
        if self._facts.features == "class token":
            return tokens[:, 0]
        # Register tokens lie between class token and patch tokens, and belong to neither.
        return torch.cat([tokens[:, 0], tokens[:, network.num_prefix_tokens :].mean(dim=1)], dim=1)


def import_timm(name: str) -> Any:
    """The timm library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ConfigError(
            f"{name}: needs the package timm", "pip install 'comel-mil[timm]' (see docs/encoders.md on torch)"
        ) from None
    return timm


def _architecture(timm: Any, name: str) -> tuple[str, dict[str, Any]]:
    """timm's name of the network and the differing arguments, as in public code that loads the full weights."""
    gated = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    optimus = ("vit_giant_patch14_reg4_dinov2", {"init_values": 1e-5, "global_pool": "token"})
    return {
        "uni": ("vit_large_patch16_224", {"init_values": 1e-5}),
        "uni2-h": (
            "vit_giant_patch14_224",
            {
                "patch_size": 14,
                "depth": 24,
                "num_heads": 24,
                "embed_dim": 1536,
                "mlp_ratio": 2.66667 * 2,
                "init_values": 1e-5,
                "no_embed_class": True,
                "reg_tokens": 8,
                **gated,
            },
        ),
        "virchow2": (
            "vit_huge_patch14_224",
            {"mlp_ratio": 5.3375, "init_values": 1e-5, "reg_tokens": 4, "global_pool": "", **gated},
        ),
        "h-optimus-0": optimus,
        "h-optimus-1": optimus,
        "prov-gigapath": (
            "vit_giant_patch14_dinov2",
            {"patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334},
        ),
    }[name]
