"""Any image model of the transformers library as a patch encoder: DINOv2, Phikon-v2, ViT, ResNet, ...

The model has its own preprocessing. The feature vector is chosen by one rule: the class token of the last layer if
the model has one (as the authors of DINOv2 and Phikon-v2 do; a ViT's pooler is ignored, as it is often
untrained), otherwise the model's own pooled output, otherwise the mean over the tokens of the last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comel.base.files import canonical_json, read_json, sha256_of_arrays
from comel.base.text import first_line
from comel.base.units import Precision
from comel.errors import ConfigError
from pipelines.patch_encoders.torch_encoder import TorchEncoder

__all__ = ["HuggingFaceEncoder"]

_CLASS_TOKENS = ("cls_token", "class_embedding")
_PREPROCESSING = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "crop_pct",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


class HuggingFaceEncoder(TorchEncoder):
    """A transformers image model, from the hub or a local folder, from safetensors and without running its code.

    Args:
        source: a local folder, or a name on the hub.
        device: see :func:`comel.base.devices.resolve_device`.
        precision: see :func:`pipelines.patch_encoders.base.resolve_precision`.

    Raises:
        ConfigError: the model cannot be found, is not an image model, or its file lacks weights that the features need.
    """

    def __init__(self, source: str, device: str = "auto", precision: Precision = "auto") -> None:
        folder = _local_folder(source)
        name = folder.resolve().name if Path(source).expanduser().is_dir() else source
        self._open(folder, f"hf:{source}", f"hf:{name}", device, precision)

    def _open(self, folder: Path, label: str, name: str, device: str, precision: Precision) -> None:
        """Load the model in ``folder``; ``label`` is its name in errors, ``name`` its name in bags."""
        self.name = name
        self.run_on(device, precision)
        model, self._processor, missing = _load(label, folder)
        self._model = model.eval().requires_grad_(False).float().to(self.device)
        self._pooling = "class token" if self._has_class_token() else "pooled output"
        needed = {key for key in missing if self._pooling != "class token" or "pooler" not in key}
        if needed:
            raise ConfigError(
                f"{label}: the file lacks {len(needed)} weights of the model ({sorted(needed)[0]}, ...)",
                "give a complete checkpoint",
            )
        self.weights_hash = sha256_of_arrays(
            {key: value.float().cpu().numpy() for key, value in model.state_dict().items() if key not in missing}
        )
        blank = np.zeros((1, 256, 256, 3), np.uint8)
        self.input_size = int(self.inputs(blank)["pixel_values"].shape[-1])
        try:
            self.dimension = int(self.encode(blank).shape[1])
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{label}: not a model that takes only images ({error})", "give a vision model, such as a ViT or DINOv2"
            ) from None
        self.recipe = f"{self._pooling}; {canonical_json(self._preprocessing())}"

    def inputs(self, tiles: np.ndarray) -> Mapping[str, torch.Tensor]:
        """The tiles as the model's own processor prepares them."""
        prepared: Mapping[str, torch.Tensor] = self._processor(
            images=list(tiles), return_tensors="pt", input_data_format="channels_last"
        )
        return prepared

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, dimension) of the processor's output."""
        output = self._model(**inputs)
        tokens: torch.Tensor = output.last_hidden_state  # (B, T, D)
        if self._pooling == "class token":
            return tokens[:, 0]
        pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = tokens.float().mean(dim=1)
        return pooled.flatten(start_dim=1)

    def _has_class_token(self) -> bool:
        return any(name.rsplit(".", 1)[-1] in _CLASS_TOKENS for name, _ in self._model.named_parameters())

    def _preprocessing(self) -> dict[str, Any]:
        described = self._processor.to_dict()
        return {name: described[name] for name in _PREPROCESSING if described.get(name) is not None}


def _local_folder(source: str) -> Path:
    """The folder of a model; a name on the hub is downloaded, or found in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
    except HFValidationError:
        raise ConfigError(
            f"hf:{source}: no such folder, and not a name on the hub", "give hf:OWNER/MODEL or a folder"
        ) from None
    except Exception as error:  # no network, no such model, no access: every layer raises its own errors
        raise ConfigError(
            f"hf:{source}: the model cannot be fetched ({first_line(error)})",
            f"run 'hf download {source} --local-dir FOLDER' on a machine with network access, and give hf:FOLDER here",
        ) from None


def _load(label: str, folder: Path) -> tuple[Any, Any, set[str]]:
    """The model, its image processor, and the names of weights that its file lacks."""
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # Always the PIL backend: torchvision's resizing gives slightly different features.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
        registers = _registers(folder)
        model, loading = AutoModel.from_pretrained(folder, **options, **({"config": registers} if registers else {}))
    except Exception as error:  # the libraries' errors on foreign or damaged files are not documented
        raise ConfigError(
            f"{label}: the model cannot be loaded ({first_line(error)})",
            "the folder needs config.json, preprocessor_config.json and model.safetensors of an image model",
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    foreign = sorted(str(key) for key in loading["unexpected_keys"] if "register_tokens" in str(key))
    if foreign:
        raise ConfigError(
            f"{label}: the file has register tokens that the model in config.json leaves out ({foreign[0]})",
            "state num_register_tokens in config.json",
        )
    return model, processor, {str(key) for key in loading["missing_keys"]}


def _registers(folder: Path) -> Any:
    """The configuration of a DINOv2 with register tokens that is labelled as a plain one, such as Hibou's; otherwise None.

    Its repository has code for that, from before transformers had this model. Read as a plain DINOv2 it would lose
    its registers, and silently give other features.
    """
    stated = read_json(folder / "config.json")
    if stated.get("model_type") != "dinov2" or not stated.get("num_register_tokens"):
        return None
    from transformers import Dinov2WithRegistersConfig

    own = ("model_type", "auto_map", "architectures", "transformers_version", "out_features", "out_indices", "stage_names")
    return Dinov2WithRegistersConfig(**{key: value for key, value in stated.items() if key not in own and key[0] != "_"})
