from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comel.errors import ConfigError
from pipelines.patch_encoders import PatchEncoder, load_encoder, scale_note
from tests.pipelines.small_slides import MeanColour

TILES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def lite() -> PatchEncoder:
    return load_encoder("efficientnet-lite0", "cpu")


def save_vit(folder: Path, seed: int = 0) -> Path:
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    ViTModel(ViTConfig(image_size=32, patch_size=16, **SMALL), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **SMALL)).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def check_contract(encoder: PatchEncoder) -> np.ndarray:
    features = encoder.encode(TILES)
    assert features.shape == (3, encoder.dimension)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert len(encoder.weights_hash) == 64
    assert encoder.recipe
    assert encoder.input_size > 0
    assert np.array_equal(encoder.encode(TILES), features)
    assert np.allclose(encoder.encode(TILES[1:2])[0], features[1], atol=1e-4)
    assert np.abs(features[0] - features[1]).max() > 1e-4
    return features


def test_efficientnet_lite(lite: PatchEncoder) -> None:
    assert check_contract(lite).shape == (3, 1280)
    assert lite.weights_hash.startswith("57934424")


def test_efficientnet_lite_tells_stain_from_glass(lite: PatchEncoder) -> None:
    random = np.random.default_rng(0)
    textures = [
        np.clip(np.array(c) + random.integers(-40, 41, (4, 64, 64, 3)), 0, 255) for c in ((170, 80, 160), (240, 240, 240))
    ]
    stain, glass = (lite.encode(texture.astype(np.uint8)) for texture in textures)
    within = np.linalg.norm(stain - stain.mean(axis=0), axis=1).max()
    assert np.linalg.norm(stain.mean(axis=0) - glass.mean(axis=0)) > 2 * within


@pytest.mark.parametrize(("save", "pooling"), [(save_vit, "class"), (save_dinov2, "class"), (save_resnet, "pooled")])
def test_local_transformers_model(tmp_path: Path, save: object, pooling: str) -> None:
    folder = save(tmp_path / "model")  # type: ignore[operator]
    encoder = load_encoder(f"hf:{folder}", "cpu")
    check_contract(encoder)
    assert encoder.name == "hf:model"
    assert encoder.dimension == 16
    assert encoder.recipe.startswith(pooling)
    # A pooler that the file lacks is drawn at random; it must not show in the hash.
    assert load_encoder(f"hf:{folder}", "cpu").weights_hash == encoder.weights_hash


def test_class_token_of_dinov2_is_what_transformers_gives(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = save_dinov2(tmp_path / "dino")
    with torch.inference_mode():
        inputs = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=list(TILES), return_tensors="pt")
        expected = AutoModel.from_pretrained(folder).eval()(**inputs).pooler_output.numpy()
    assert np.allclose(load_encoder(f"hf:{folder}", "cpu").encode(TILES), expected, atol=1e-5)


def test_other_weights_have_another_hash(tmp_path: Path) -> None:
    first, second = (load_encoder(f"hf:{save_vit(tmp_path / str(seed), seed)}", "cpu") for seed in (1, 2))
    assert first.weights_hash != second.weights_hash


def test_unusable_models_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json, preprocessor_config\.json and model\.safetensors"):
        load_encoder(f"hf:{tmp_path / 'empty'}", "cpu")
    with pytest.raises(ConfigError, match="no such folder"):
        load_encoder(f"hf:{tmp_path / 'missing'}", "cpu")
    pickled = save_vit(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        load_encoder(f"hf:{pickled}", "cpu")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match="hf download owner/model --local-dir"):
        load_encoder("hf:owner/model", "cpu")


@pytest.mark.parametrize("name", ["efficientnet-lite", "efficientnet_lite0", "efficientnet-lit0:folder"])
def test_unknown_name_names_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'efficientnet-lite0'"):
        load_encoder(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "does not name a folder; give hf:FOLDER"),
        ("uni:", "does not name a folder; give uni:FOLDER"),
        ("", "choose one of conch-v1.5, ctranspath"),
        ("efficientnet-lite0:folder", "does not take a folder; give efficientnet-lite0"),
    ],
)
def test_names_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_encoder(name)


@pytest.mark.parametrize(
    ("meant", "target", "noted"),
    [
        ((0.5,), 0.5, False),
        ((0.5,), 0.55, False),
        ((0.5,), 0.45, False),
        ((0.5,), 0.56, True),
        ((0.5,), 0.44, True),
        ((0.25, 1.0), 0.5, True),
        ((0.25, 1.0), 1.05, False),
        ((), 7.0, False),
    ],
)
def test_a_note_where_the_scale_is_more_than_a_tenth_off(meant: tuple[float, ...], target: float, noted: bool) -> None:
    encoder = MeanColour()
    encoder.mpp = meant
    assert (scale_note(encoder, target) is not None) == noted


def test_the_note_says_both_scales() -> None:
    encoder = MeanColour()
    encoder.mpp = (0.25, 0.5)
    assert scale_note(encoder, 1.0) == f"{encoder.name} is meant for tiles at 0.25 or 0.5 um/px, these are at 1 um/px"


def test_the_note_is_about_every_scale() -> None:
    encoder = MeanColour()
    encoder.mpp = (0.5,)
    assert scale_note(encoder, 0.5, 1.0, 2.0) == f"{encoder.name} is meant for tiles at 0.5 um/px, some are at 1 and 2 um/px"
    assert scale_note(encoder, 0.5, 0.5) is None


def test_unknown_device() -> None:
    with pytest.raises(ConfigError, match="no device 'tpu9'"):
        load_encoder("efficientnet-lite0", "tpu9")
