"""How many tiles a forward pass takes, and that it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.patch_encoders import load_encoder
from pipelines.patch_encoders.torch_encoder import TorchEncoder, tiles_at_once
from tests.pipelines.patch_encoders.test_encoders import save_resnet, save_vit


class Means(TorchEncoder):
    """The mean colour, and how many tiles each forward pass took."""

    name, dimension, weights_hash, recipe = "means", 3, "0" * 64, "mean colour"

    def __init__(self, input_size: int = 224, device: str = "cpu") -> None:
        self.run_on("cpu", "float32")
        self.device, self.input_size, self.passes = device, input_size, list[int]()

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, 3)."""
        self.passes.append(len(inputs["tiles"]))
        return inputs["tiles"].float().mean(dim=(1, 2))


@pytest.mark.parametrize(
    ("input_size", "tiles"), [(0, 1 << 18), (1, 1 << 18), (224, 4), (256, 4), (257, 2), (336, 2), (384, 1), (448, 1), (9999, 1)]
)
def test_a_pass_takes_as_many_tiles_as_512_pixels_square_hold(input_size: int, tiles: int) -> None:
    assert tiles_at_once(input_size) == tiles


@pytest.mark.parametrize(("count", "passes"), [(0, [0]), (1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
def test_a_batch_is_sliced_on_a_cpu(count: int, passes: list[int]) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    encoder = Means()
    features = encoder.encode(tiles)
    assert encoder.passes == passes
    assert features.shape == (count, 3)
    assert np.allclose(features, tiles.mean(axis=(1, 2)), atol=1e-4)


def test_a_batch_is_whole_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(Means, "one_pass", lambda self, tiles: taken.append(len(tiles)))
    Means(device="cuda").start(np.zeros((11, 8, 8, 3), np.uint8))
    assert taken == [11]


@pytest.mark.parametrize("kind", ["lite", "vit", "resnet"])
def test_the_slices_change_no_more_than_rounding(tmp_path: Path, kind: str) -> None:
    made = {"vit": save_vit, "resnet": save_resnet}
    name = "efficientnet-lite0" if kind == "lite" else f"hf:{made[kind](tmp_path / kind)}"
    encoder = load_encoder(name, "cpu")
    assert isinstance(encoder, TorchEncoder)
    tiles = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    whole = encoder.one_pass(tiles)()
    alone = np.concatenate([encoder.one_pass(tiles[[row]])() for row in range(9)])
    for found in (encoder.encode(tiles), alone):
        assert np.abs(found - whole).max() <= 1e-5 * np.abs(whole).max()
