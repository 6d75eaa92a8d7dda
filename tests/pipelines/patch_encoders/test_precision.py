"""The precision that encoders compute in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from comel.errors import ConfigError
from pipelines.extraction.settings import ExtractSettings, content_settings
from pipelines.patch_encoders import load_encoder
from pipelines.patch_encoders.base import resolve_precision
from tests.pipelines.patch_encoders.test_encoders import save_vit
from tests.pipelines.patch_encoders.test_own_encoder import write
from tests.pipelines.small_slides import MeanColour

TILES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["lite", "hf"])
def test_bfloat16_is_close_to_float32_and_not_the_same(tmp_path: Path, kind: str) -> None:
    name = "efficientnet-lite0" if kind == "lite" else f"hf:{save_vit(tmp_path / 'vit')}"
    full, half = (load_encoder(name, "cpu", precision) for precision in ("float32", "bfloat16"))
    assert (full.precision, half.precision) == ("float32", "bfloat16")
    expected, found = full.encode(TILES), half.encode(TILES)
    assert found.dtype == expected.dtype == np.float32
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    # bfloat16 keeps 8 bits: 0.4 % an operation.
    assert 0 < error < 0.05


@pytest.mark.parametrize(
    ("asked", "device", "bfloat16", "taken"),
    [
        ("auto", "cpu", True, "float32"),
        ("auto", "cuda", True, "bfloat16"),
        ("auto", "cuda:1", False, "float16"),
        ("float32", "cuda", True, "float32"),
        ("float16", "cuda", True, "float16"),
        ("bfloat16", "cpu", False, "bfloat16"),
    ],
)
def test_auto_is_what_the_device_does_best(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: str, bfloat16: bool, taken: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
    assert resolve_precision(asked, device) == taken  # type: ignore[arg-type]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16 needs a CUDA device; choose"):
        load_encoder("efficientnet-lite0", "cpu", "float16")
    own = write(tmp_path)
    with pytest.raises(ConfigError, match="sets its precision itself, not bfloat16"):
        load_encoder(own, "cpu", "bfloat16")
    assert load_encoder(own, "cpu").precision == "own"


def test_bags_say_the_precision_that_was_taken(slide_path: Path) -> None:
    encoder = MeanColour()
    encoder.precision = "bfloat16"
    told = content_settings(ExtractSettings(), encoder, slide=slide_path, mpp=None, annotation=None)
    assert told["precision"] == "bfloat16"
    named = ExtractSettings(precision="bfloat16")
    assert content_settings(named, encoder, slide=slide_path, mpp=None, annotation=None) == told
