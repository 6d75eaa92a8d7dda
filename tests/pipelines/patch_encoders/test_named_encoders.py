from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from comel.errors import ConfigError
from pipelines.patch_encoders import ENCODER_FACTS, EncoderFacts, load_encoder
from pipelines.patch_encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.places import ROOT

TILES = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
DOCS = ROOT / "docs" / "encoders.md"
SMALL = Preprocessing(resize=32, crop=32)
WIDTH = 6


class TinyViT(nn.Module):
    """Patches of 16 px projected; the class token adds their mean, registers come between."""

    def __init__(self, registers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.num_prefix_tokens, self.num_features = 1 + registers, WIDTH
        self.proj = nn.Conv2d(3, WIDTH, 16, 16)
        self.prefix = nn.Parameter(torch.randn(1, 1 + registers, WIDTH))

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        prefix = self.prefix.expand(len(pixels), -1, -1).clone()
        prefix[:, 0] += patches.mean(dim=1)
        return torch.cat([prefix, patches], dim=1)


class TinySwin(nn.Module):
    """Channels-last maps; stage 1 begins with the merging of patches, as timm has it."""

    def __init__(self, embed_layer: Any) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.patch_embed = embed_layer(img_size=32, embed_dim=8, norm_layer=nn.LayerNorm, strict_img_size=True)
        first, second = nn.Module(), nn.Module()
        second.downsample = nn.Linear(8, WIDTH)
        self.layers = nn.ModuleList([first, second])

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        merge = self.layers[1].downsample
        assert isinstance(merge, nn.Linear)
        merged: torch.Tensor = merge(self.patch_embed(pixels))
        return merged


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A timm that makes tiny networks; what it is asked for."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_model(architecture: str, **options: Any) -> nn.Module:
        calls.append((architecture, options))
        return TinySwin(options["embed_layer"]) if architecture.startswith("swin") else TinyViT()

    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    module.layers = SimpleNamespace(SwiGLUPacked="SwiGLUPacked")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)
    return calls


def load(facts: EncoderFacts, folder: Path | None) -> Any:
    from comel.base.registry import resolve_name

    return resolve_name(facts.name, {facts.name: facts.loader}, "comel.encoders")(
        facts, None if folder is None else str(folder), "cpu"
    )


def small(name: str, dimension: int = WIDTH) -> EncoderFacts:
    return replace(ENCODER_FACTS[name], dimension=dimension, input_size=32, preprocessing=SMALL)


def save_vit(folder: Path) -> TinyViT:
    folder.mkdir(parents=True, exist_ok=True)
    network = TinyViT()
    save_file(network.state_dict(), folder / "model.safetensors")
    return network


def numpy_tokens(network: TinyViT, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class token (B, D) and patch tokens (B, 4, D) of pixels (B, 3, 32, 32)."""
    assert network.proj.bias is not None
    kernel, bias = network.proj.weight.detach().numpy(), network.proj.bias.detach().numpy()
    patches = np.stack(
        [np.einsum("bchw,dchw->bd", pixels[:, :, y : y + 16, x : x + 16], kernel) + bias for y in (0, 16) for x in (0, 16)],
        axis=1,
    )
    return network.prefix.detach().numpy()[:, 0] + patches.mean(axis=1), patches


# Facts


@pytest.mark.parametrize("facts", ENCODER_FACTS.values(), ids=ENCODER_FACTS.keys())
def test_facts_agree_with_each_other(facts: EncoderFacts) -> None:
    assert ENCODER_FACTS[facts.name] is facts
    assert facts.page == f"https://huggingface.co/{facts.repository}"
    assert (facts.preprocessing is None) == (facts.package == "transformers")
    assert (facts.mpp == ()) == (facts.mpp_source == "none")
    if facts.preprocessing is not None:
        assert facts.preprocessing.crop == facts.input_size
        assert facts.preprocessing.resize >= facts.preprocessing.crop


@pytest.mark.parametrize("facts", ENCODER_FACTS.values(), ids=ENCODER_FACTS.keys())
def test_the_docs_have_the_same_facts(facts: EncoderFacts) -> None:
    scale = ", ".join(f"{mpp:g}" for mpp in facts.mpp) or "none"
    source = "" if facts.mpp_source == "none" else f" ({facts.mpp_source})"
    row = (
        f"| `{facts.name}` | [{facts.repository}]({facts.page}) | {facts.package} | {facts.dimension} | {facts.input_size} "
        f"| {scale}{source} | {facts.features} | {facts.licence} | {'yes' if facts.gated else 'no'} |"
    )
    assert row in DOCS.read_text(encoding="utf-8").splitlines()


# Preprocessing


def test_tiles_of_the_right_size_are_only_normalised() -> None:
    tiles = TILES[:, :32, :32]
    pixels = SMALL.apply(torch.from_numpy(tiles)).numpy()
    for channel in range(3):
        expected = (tiles[..., channel] / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert np.allclose(pixels[:, channel], expected, atol=1e-5)


@pytest.mark.parametrize(("name", "resample"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)])
def test_resizing_and_cropping_are_what_pillow_does(name: Any, resample: Image.Resampling) -> None:
    # Smooth, with black and white ends, where bicubic weights overshoot.
    ramp = np.kron(np.random.default_rng(1).integers(0, 2, (2, 8, 8, 3)) * 255, np.ones((1, 8, 8, 1))).astype(np.uint8)
    pixels = (
        Preprocessing(resize=48, crop=32, interpolation=name, mean=(0, 0, 0), std=(1, 1, 1))
        .apply(torch.from_numpy(ramp))
        .numpy()
    )
    for tile, found in zip(ramp, pixels, strict=True):
        expected = np.asarray(Image.fromarray(tile).resize((48, 48), resample))[8:40, 8:40].transpose(2, 0, 1) / 255
        assert found.shape == (3, 32, 32)
        # Pillow rounds to whole grey levels twice, once an axis.
        assert np.abs(found - expected).max() < 2 / 255


# timm


@pytest.mark.parametrize("name", ["uni", "uni2-h", "h-optimus-0", "h-optimus-1", "prov-gigapath"])
def test_class_token(timm: list[Any], tmp_path: Path, name: str) -> None:
    network = save_vit(tmp_path)
    encoder = load(small(name), tmp_path)
    features = encoder.encode(TILES)
    expected, _ = numpy_tokens(network, SMALL.apply(torch.from_numpy(TILES)).numpy())
    assert features.dtype == np.float32
    assert np.allclose(features, expected, atol=1e-4)
    assert (encoder.name, encoder.dimension, encoder.input_size, encoder.mpp) == (name, WIDTH, 32, (0.5,))
    assert encoder.recipe.startswith("class token; resized to 32 px (bilinear")
    assert timm[0][1]["num_classes"] == 0
    assert timm[0][1]["pretrained"] is False


def test_virchow2_puts_the_mean_of_the_patches_beside_the_class_token(timm: list[Any], tmp_path: Path) -> None:
    network = save_vit(tmp_path)
    features = load(small("virchow2", 2 * WIDTH), tmp_path).encode(TILES)
    class_token, patches = numpy_tokens(network, SMALL.apply(torch.from_numpy(TILES)).numpy())
    assert np.allclose(features, np.concatenate([class_token, patches.mean(axis=1)], axis=1), atol=1e-4)
    assert timm[0][0] == "vit_huge_patch14_224"
    assert timm[0][1]["mlp_layer"] == "SwiGLUPacked"


def test_networks_are_asked_for_at_their_own_size(timm: list[Any], tmp_path: Path) -> None:
    save_vit(tmp_path)
    asked = {}
    for name, facts in ENCODER_FACTS.items():
        if facts.loader.endswith(":TimmViT"):
            load(facts, tmp_path)
            asked[name] = timm[-1]
    assert {options["img_size"] for _, options in asked.values()} == {224}
    assert {name: architecture for name, (architecture, _) in asked.items()} == {
        "uni": "vit_large_patch16_224",
        "uni2-h": "vit_giant_patch14_224",
        "virchow2": "vit_huge_patch14_224",
        "h-optimus-0": "vit_giant_patch14_reg4_dinov2",
        "h-optimus-1": "vit_giant_patch14_reg4_dinov2",
        "prov-gigapath": "vit_giant_patch14_dinov2",
    }


def test_ctranspath_moves_the_merging_and_averages_the_positions(timm: list[Any], tmp_path: Path) -> None:
    from pipelines.patch_encoders.ctranspath import ConvolutionalStem

    network = TinySwin(ConvolutionalStem).eval()
    own = network.state_dict()
    published = {name.replace("layers.1.downsample", "layers.0.downsample"): value for name, value in own.items()}
    published |= {"layers.0.blocks.1.attn_mask": torch.zeros(2), "head.weight": torch.zeros(2, 2)}
    torch.save({"model": published}, tmp_path / "ctranspath.pth")
    encoder = load(small("ctranspath"), tmp_path)
    with torch.inference_mode():
        maps = network.forward_features(SMALL.apply(torch.from_numpy(TILES))).numpy()
    assert maps.shape == (3, 8, 8, WIDTH)
    assert np.allclose(encoder.encode(TILES), maps.reshape(3, 64, WIDTH).mean(axis=1), atol=1e-4)
    assert timm[0][1]["embed_layer"] is ConvolutionalStem

    save_file(own, tmp_path / "model.safetensors")
    assert load(small("ctranspath"), tmp_path).weights_hash == encoder.weights_hash


def test_the_stem_of_ctranspath_makes_a_token_of_four_by_four_pixels() -> None:
    from pipelines.patch_encoders.ctranspath import ConvolutionalStem

    stem = ConvolutionalStem(img_size=224, embed_dim=96)
    assert stem.grid_size == (56, 56)
    assert stem(torch.zeros(2, 3, 64, 64)).shape == (2, 16, 16, 96)
    assert [tuple(module.weight.shape) for module in stem.proj if isinstance(module, nn.Conv2d)] == [
        (12, 3, 3, 3),
        (24, 12, 3, 3),
        (96, 24, 1, 1),
    ]


def numpy_pooler(pooler: Any, tokens: np.ndarray) -> np.ndarray:
    def norm(values: np.ndarray, layer: nn.LayerNorm) -> np.ndarray:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(values.var(axis=-1, keepdims=True) + layer.eps)
        normalised: np.ndarray = scaled * layer.weight.detach().numpy() + layer.bias.detach().numpy()
        return normalised

    weight = {name: getattr(pooler, name).weight.detach().numpy() for name in ("to_q", "to_kv", "to_out")}
    query = norm(pooler.query.detach().numpy(), pooler.ln_q) @ weight["to_q"].T
    both = norm(tokens, pooler.ln_k) @ weight["to_kv"].T
    width = query.shape[1]
    each = width // pooler.heads
    out = np.zeros((len(tokens), len(query), width))
    for item in range(len(tokens)):
        for head in range(pooler.heads):
            part = slice(head * each, (head + 1) * each)
            key, value = both[item][:, :width][:, part], both[item][:, width:][:, part]
            scores = np.exp(query[:, part] @ key.T / np.sqrt(each))
            out[item][:, part] = scores / scores.sum(axis=1, keepdims=True) @ value
    pooled: np.ndarray = out @ weight["to_out"].T
    return pooled


def test_attentional_pooler() -> None:
    from pipelines.patch_encoders.conch import AttentionalPooler

    torch.manual_seed(0)
    pooler = AttentionalPooler(16, 10, heads=4, queries=2)
    nn.init.normal_(pooler.ln_k.weight)
    nn.init.normal_(pooler.ln_q.bias)
    tokens = torch.randn(3, 7, 10)
    with torch.inference_mode():
        assert np.allclose(pooler(tokens).numpy(), numpy_pooler(pooler, tokens.numpy()), atol=1e-5)


def test_conch_normalises_what_its_query_finds(timm: list[Any], tmp_path: Path) -> None:
    from pipelines.patch_encoders.conch import ConchV15, _Conch

    torch.manual_seed(5)
    network = _Conch(TinyViT(), 16)
    torch.save(network.state_dict(), tmp_path / "pytorch_model_vision.bin")
    encoder = load(small("conch-v1.5", 16), tmp_path)
    assert isinstance(encoder, ConchV15)
    with torch.inference_mode():
        tokens = network.trunk.forward_features(SMALL.apply(torch.from_numpy(TILES)))
    pooled = numpy_pooler(network.attn_pool_contrast, tokens.numpy())[:, 0]
    expected = (pooled - pooled.mean(axis=1, keepdims=True)) / np.sqrt(pooled.var(axis=1, keepdims=True) + 1e-5)
    assert np.allclose(encoder.encode(TILES), expected, atol=1e-4)
    assert timm[0] == (
        "vit_large_patch16_224",
        {"pretrained": False, "num_classes": 0, "img_size": 32, "init_values": 1e-6},
    )


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"uni: needs the package timm; pip install 'comel-mil\[timm\]'"):
        load_encoder(f"uni:{tmp_path}", "cpu")


# Weights


def test_the_hash_is_of_the_tensors_not_of_the_file(timm: list[Any], tmp_path: Path) -> None:
    network = save_vit(tmp_path / "safe")
    (tmp_path / "torch").mkdir()
    torch.save(network.state_dict(), tmp_path / "torch" / "pytorch_model.bin")
    first, second = (load(small("uni"), tmp_path / kind) for kind in ("safe", "torch"))
    assert first.weights_hash == second.weights_hash
    with torch.no_grad():
        network.prefix.add_(1)
    torch.save(network.state_dict(), tmp_path / "torch" / "pytorch_model.bin")
    assert load(small("uni"), tmp_path / "torch").weights_hash != first.weights_hash


class Trap:
    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return Path.touch, (self.sprung,)


def test_a_pickle_is_refused_and_not_run(timm: list[Any], tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"proj.weight": Trap(tmp_path / "sprung")}))
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin: not a weights file"):
        load_encoder(f"uni:{tmp_path}", "cpu")
    assert not (tmp_path / "sprung").exists()


def test_folders_that_do_not_fit(timm: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; give the folder that holds MahmoodLab/UNI2-h"):
        load_encoder(f"uni2-h:{tmp_path / 'missing'}", "cpu")
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors or pytorch_model\.bin; download it from https"):
        load_encoder(f"uni:{tmp_path}", "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"model\.safetensors: not a weights file"):
        load_encoder(f"uni:{tmp_path}", "cpu")
    network = TinyViT()
    for change in ({"other": torch.zeros(1)}, {"prefix": torch.zeros(1, 1, WIDTH)}):
        save_file(network.state_dict() | change, tmp_path / "model.safetensors")
        with pytest.raises(ConfigError, match=rf"do not fit the network: 1 of 3 tensors .*\({next(iter(change))}"):
            load_encoder(f"uni:{tmp_path}", "cpu")


@pytest.mark.parametrize("name", ["uni", "hibou-l"])
def test_gated_weights_say_where_to_ask(timm: list[Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("401 Client Error\nmore of it")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    repository = ENCODER_FACTS[name].repository
    with pytest.raises(ConfigError) as caught:
        load_encoder(name, "cpu")
    assert str(caught.value) == (
        f"{name}: the weights cannot be fetched (401 Client Error); ask for access at https://huggingface.co/{repository} "
        f"and run 'hf auth login', or run 'hf download {repository} --local-dir FOLDER' with network access, "
        f"and give {name}:FOLDER"
    )


def test_the_hub_is_asked_for_each_kind_of_file(timm: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    torch.save(TinyViT().state_dict(), tmp_path / "pytorch_model.bin")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        if not (tmp_path / name).is_file():
            raise LocalEntryNotFoundError("not there")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    load(small("uni"), None)
    assert asked == [("MahmoodLab/UNI", "model.safetensors"), ("MahmoodLab/UNI", "pytorch_model.bin")]
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="cannot be fetched"):
        load(small("uni"), None)


# transformers

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}


def save_processor(folder: Path) -> None:
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)


def save_hibou(folder: Path) -> Any:
    """A folder as Hibou's repository is: a plain model's name, registers, and code of its own."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(6)
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TINY, num_register_tokens=3, use_swiglu_ffn=True)).eval()
    nn.init.normal_(model.embeddings.register_tokens)
    model.save_pretrained(folder)
    save_processor(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "dinov2",
        "architectures": ["Dinov2ModelWithRegisters"],
        "auto_map": {"AutoModel": "modeling_dinov2.Dinov2ModelWithRegisters"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_dinov2.py").write_text("raise SystemExit('its code was run')\n")
    return model


@pytest.mark.parametrize("form", ["hibou-b", "hf"])
def test_hibou_keeps_its_registers_without_its_code(tmp_path: Path, form: str) -> None:
    from transformers import AutoImageProcessor

    model = save_hibou(tmp_path)
    facts = replace(ENCODER_FACTS["hibou-b"], dimension=16, input_size=28)
    encoder = load_encoder(f"hf:{tmp_path}", "cpu") if form == "hf" else load(facts, tmp_path)
    with torch.inference_mode():
        pixels = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=list(TILES), return_tensors="pt")
        expected = model(**pixels).last_hidden_state[:, 0].numpy()
    assert np.allclose(encoder.encode(TILES), expected, atol=1e-5)


def test_registers_that_the_configuration_hides_are_an_error(tmp_path: Path) -> None:
    save_hibou(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["num_register_tokens"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="register tokens that the model"):
        load_encoder(f"hf:{tmp_path}", "cpu")


def test_phikon_v2_is_a_dinov2_with_its_class_token(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(tmp_path)
    save_processor(tmp_path)
    encoder = load(replace(ENCODER_FACTS["phikon-v2"], dimension=16, input_size=28), tmp_path)
    assert (encoder.name, encoder.dimension, encoder.mpp) == ("phikon-v2", 16, (0.5,))
    assert encoder.encode(TILES).shape == (3, 16)
    with pytest.raises(ConfigError, match=r"another model: 16 values .* phikon-v2 gives 1024 .* 224 px; give the folder"):
        load_encoder(f"phikon-v2:{tmp_path}", "cpu")


def test_resnet_50_averages_its_last_maps(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    torch.manual_seed(7)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    ConvNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_pct=0.5, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
    ).save_pretrained(tmp_path)
    encoder = load(replace(ENCODER_FACTS["resnet-50"], dimension=16, input_size=32), tmp_path)
    # A tile of 64 px, which crop_pct 0.5 leaves as it is before its middle is cut out.
    tile = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    middle = tile[:, 16:48, 16:48].transpose(0, 3, 1, 2) / 255
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        maps = model.resnet(torch.tensor((middle - mean) / std, dtype=torch.float32)).last_hidden_state.numpy()
    assert np.allclose(encoder.encode(tile), maps.mean(axis=(2, 3)), atol=1e-3)
    assert encoder.mpp == ()
    assert '"crop_pct":0.5' in encoder.recipe
