"""Every model by its name, small, in double precision; bags for them; and what numpy says of common steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comel.base.registry import resolve_name
from comel.cohort.classes import Head
from comel.models import MODELS
from comel.models.base import BagBatch
from comel.models.heads import HeadedModel

FEATURES, DIM = 6, 16
BREAST = Head("breast", ("normal", "tumour"), "normal")
LUNG = Head("lung", ("adeno", "squamous"), None)
COLON = Head("colon", ("low", "high", "normal"), "normal")

REGISTRY = {name: place for name, place in MODELS.items() if name != "comel"}
SMALL: dict[str, dict[str, Any]] = {
    "mean": {},
    "max": {},
    "abmil": {"attention_hidden": 8},
    "clam-sb": {"attention_hidden": 8},
    "clam-mb": {"attention_hidden": 8},
    "dsmil": {"attention_hidden": 8},
    "transmil": {"num_heads": 4, "landmarks": 6},
    "rrt-mil": {"num_heads": 4, "regions": 2, "position_kernel": 3, "attention_hidden": 8},
}
NAMES = list(REGISTRY)


def make(name: str, *heads: Head, seed: int = 0, **options: Any) -> Any:
    """A small model in evaluation mode, float64."""
    kind = resolve_name(name, REGISTRY, "comel.models")
    torch.manual_seed(seed)
    model: HeadedModel = kind(FEATURES, kind.Options(dim=DIM, **{**SMALL[name], **options}), heads).double().eval()
    for head in model.heads:  # biases start at zero, and would go untested
        for parameter in head.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter)
    return model


def bag(count: int, seed: int = 0) -> Tensor:
    """Features (1, count, FEATURES)."""
    return torch.randn(1, count, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def padded(*sizes: int) -> BagBatch:
    """The bags ``bag(size, seed=number)`` side by side, with rows of nines between, after and before their instances."""
    longest = max(sizes) + 3
    features = torch.full((len(sizes), longest, FEATURES), 9.0, dtype=torch.float64)
    mask = torch.zeros(len(sizes), longest, dtype=torch.bool)
    for b, size in enumerate(sizes):
        places = torch.randperm(longest, generator=torch.Generator().manual_seed(b))[:size].sort().values
        features[b, places], mask[b, places] = bag(size, seed=b)[0], True
    return BagBatch(features, None, mask)


def array(tensor: Any) -> np.ndarray:
    """As numpy."""
    result: np.ndarray = tensor.detach().numpy()
    return result


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """The softmax as it is written."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    result: np.ndarray = e / e.sum(axis=axis, keepdims=True)
    return result


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    """``x W^T + b``."""
    result: np.ndarray = x @ array(layer.weight).T + (0 if layer.bias is None else array(layer.bias))
    return result


def layer_norm(layer: Any, x: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
    result: np.ndarray = scaled * array(layer.weight) + array(layer.bias)
    return result


def embedded(model: Any, x: Tensor) -> np.ndarray:
    """Instances (M, dim) of the first bag."""
    instances: np.ndarray = np.maximum(linear(model.trunk.embedding.embed, array(x[0])), 0)
    return instances


def cross_entropy(logits: np.ndarray, label: int) -> float:
    """Of one bag over all the logits given."""
    return float(np.log(np.exp(logits).sum()) - logits[label])
