"""The network that is computed in fewer passes is the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipelines.patch_encoders import efficientnet_lite, fused_convolution
from pipelines.patch_encoders.efficientnet_lite import EfficientNetLite0, published_network
from pipelines.patch_encoders.fused_convolution import FusedConvolution

TILES = np.random.default_rng(0).integers(0, 256, (5, 256, 256, 3), dtype=np.uint8)


def published(tiles: np.ndarray) -> np.ndarray:
    """The vectors of the package's own network, as it comes."""
    with torch.inference_mode():
        pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float()
        pixels = functional.interpolate(pixels, size=224, mode="bilinear", antialias=True)
        maps = published_network().extract_features((pixels - 127) / 128)
        vectors: np.ndarray = maps.mean(dim=(2, 3)).numpy()
    return vectors


@pytest.mark.parametrize("operator", [True, False])
def test_the_vectors_are_those_of_the_published_network(monkeypatch: pytest.MonkeyPatch, operator: bool) -> None:
    if not operator:  # as with a torch that lacks it
        monkeypatch.setattr(fused_convolution, "_OPERATORS", {"_convolution_pointwise": "others"})
    encoder, expected = EfficientNetLite0("cpu"), published(TILES)
    assert np.abs(encoder.encode(TILES) - expected).max() <= 1e-5 * np.abs(expected).max()
    used = {step._operators is not None for step in encoder._network.modules() if isinstance(step, FusedConvolution)}
    assert used == {operator}


def test_another_precision_is_left_to_torch() -> None:
    encoder, expected = EfficientNetLite0("cpu", "bfloat16"), published(TILES)
    assert all(step._operators is None for step in encoder._network.modules() if isinstance(step, FusedConvolution))
    error = np.linalg.norm(encoder.encode(TILES) - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 0.1


def test_the_blocks_that_add_their_input_are_those_of_the_published_network() -> None:
    blocks = [
        block
        for block in EfficientNetLite0("cpu")._network.modules()
        if isinstance(block, efficientnet_lite._InvertedBottleneck)
    ]
    # Of each stage (1, 2, 2, 3, 3, 4, 1 blocks; Tan and Le 2019, table 1) all but the first.
    assert [block.adds for block in blocks] == [place > 0 for count in (1, 2, 2, 3, 3, 4, 1) for place in range(count)]
