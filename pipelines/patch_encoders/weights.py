"""Weights of the named encoders: found in a folder or downloaded from the hub, read without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comel.base.files import sha256_of_arrays
from comel.base.text import first_line
from comel.errors import ConfigError
from pipelines.patch_encoders.facts import EncoderFacts

__all__ = ["hash_of_weights", "load_weights", "model_folder", "read_weights"]


def read_weights(facts: EncoderFacts, folder: str | None) -> dict[str, Any]:
    """The tensors of an encoder by name, on the CPU; safetensors, or a torch file from which only tensors are read.

    Args:
        facts: the encoder's facts.
        folder: the folder with the hub repository's files; None to download them.

    Raises:
        ConfigError: there are no weights, no access to them, or the file is damaged or holds more than tensors.
    """
    path = _in_folder(facts, folder) if folder is not None else _from_hub(facts)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        import torch

        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("model", content)
        return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # the readers may raise anything on a damaged or hostile file
        raise ConfigError(f"{path}: not a weights file ({first_line(error)})", f"download it again from {facts.page}") from None


def model_folder(facts: EncoderFacts, folder: str | None) -> Path:
    """The folder of a transformers model: the one given, or the hub's repository, downloaded or found in the cache.

    Raises:
        ConfigError: there is no such folder, or no access to the repository.
    """
    if folder is not None:
        return _existing(facts, folder)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(facts.repository, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # no network, no such model, no access: every layer raises its own errors
        raise _no_access(facts, error) from None


def load_weights(network: Any, weights: dict[str, Any], facts: EncoderFacts) -> None:
    """Put ``weights`` into ``network``, every tensor of both and no other.

    Raises:
        ConfigError: a tensor is missing, unexpected, or has a different shape.
    """
    expected = network.state_dict()
    wrong = sorted(set(expected) ^ set(weights))
    wrong += sorted(name for name in set(expected) & set(weights) if expected[name].shape != weights[name].shape)
    if wrong:
        raise ConfigError(
            f"{facts.name}: the weights do not fit the network: {len(wrong)} of {len(expected)} tensors are missing, "
            f"unexpected or of a different shape ({wrong[0]}, ...)",
            f"give the folder of {facts.repository}",
        )
    network.load_state_dict(weights)


def hash_of_weights(weights: dict[str, Any]) -> str:
    """SHA-256 (hex) of tensors by name, independent of the kind of file."""
    return sha256_of_arrays({name: tensor.float().numpy() for name, tensor in weights.items()})


def _existing(facts: EncoderFacts, folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{facts.name}:{folder}: no such folder", f"give the folder that holds {facts.repository}")
    return path


def _in_folder(facts: EncoderFacts, folder: str) -> Path:
    place = _existing(facts, folder)
    for name in facts.files:
        if (place / name).is_file():
            return place / name
    raise ConfigError(
        f"{facts.name}:{folder}: the folder holds no {' or '.join(facts.files)}", f"download it from {facts.page}"
    )


def _from_hub(facts: EncoderFacts) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    absent: BaseException = FileNotFoundError("no weights in the cache")
    for name in facts.files:
        try:
            return Path(hf_hub_download(facts.repository, name))
        except EntryNotFoundError as error:
            absent = error
        except Exception as error:  # no network, no such model, no access: every layer raises its own errors
            raise _no_access(facts, error) from None
    raise _no_access(facts, absent)


def _no_access(facts: EncoderFacts, error: BaseException) -> ConfigError:
    ask = f"ask for access at {facts.page} and run 'hf auth login', or " if facts.gated else ""
    return ConfigError(
        f"{facts.name}: the weights cannot be fetched ({first_line(error)})",
        f"{ask}run 'hf download {facts.repository} --local-dir FOLDER' with network access, and give {facts.name}:FOLDER",
    )
