"""A bag as a batch of one on a device."""

from __future__ import annotations

import numpy as np
import torch

from comel.bags.bag import Bag
from comel.models.base import BagBatch

__all__ = ["make_batch"]


def make_batch(bag: Bag, device: torch.device, keep: np.ndarray | None = None) -> BagBatch:
    """One bag as a batch of one, float32, on a device; ``keep`` chooses instances."""
    features = bag.features if keep is None else bag.features[keep]
    coords = bag.coords if keep is None or bag.coords is None else bag.coords[keep]
    tensor = torch.from_numpy(np.ascontiguousarray(features)).to(device).float().unsqueeze(0)
    place = None if coords is None else torch.from_numpy(np.ascontiguousarray(coords)).to(device).unsqueeze(0)
    return BagBatch(tensor, place)
