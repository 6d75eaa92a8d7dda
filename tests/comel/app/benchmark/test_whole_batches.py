"""What extraction is compared with gives the same features, a whole batch in each forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comel.app.benchmark.whole_batches import with_whole_batches
from pipelines.patch_encoders import load_encoder
from tests.pipelines.patch_encoders.test_encoders import save_resnet
from tests.pipelines.small_slides import MeanColour

TILES = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["lite", "resnet"])
def test_the_features_are_equal_and_the_batch_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    encoder = load_encoder("efficientnet-lite0" if kind == "lite" else f"hf:{save_resnet(tmp_path / 'resnet')}", "cpu")
    expected, compared, passes = encoder.encode(TILES), with_whole_batches(encoder), list[int]()
    computes = compared if kind == "lite" else encoder
    compute = computes.compute  # type: ignore[attr-defined]

    def counted(inputs: dict[str, np.ndarray]) -> object:
        passes.append(len(next(iter(inputs.values()))))
        return compute(inputs)

    monkeypatch.setattr(computes, "compute", counted)
    found = compared.encode(TILES)
    assert passes == [9]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (compared.name, compared.weights_hash, compared.concurrent) == (encoder.name, encoder.weights_hash, True)


def test_an_encoder_of_ones_own_is_left_as_it_is() -> None:
    encoder = MeanColour()
    assert with_whole_batches(encoder) is encoder
