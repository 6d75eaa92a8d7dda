"""Rehearsal: some bags of earlier tasks are stored and seen again while a later task is learned.

A bag is offered to the reservoir once, when its task is learned (``after_task``). Training passes each bag as many times as
there are epochs; if every pass counted, a bag could be stored many times over and a task trained for longer would take over the
reservoir. Offered once, every training bag of every task so far is in it with equal probability. It follows that a task
never rehearses its own bags, and that the first one rehearses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from comel.base.files import write_json
from comel.errors import RunError
from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.base import Stage, StageBags, Strategy, train_heads, unfreeze
from comel.strategies.persistence import read_state, read_tensors, write_tensors

__all__ = ["Rehearsal", "RehearsalOptions", "Reservoir", "StoredBag", "compact", "draw_seed", "of_stored", "train_whole_model"]

_FILE = "reservoir.safetensors"
_STATE = "strategy.json"
_ENTERING, _DRAWING = 0, 1


@dataclass(frozen=True)
class StoredBag:
    """A stored bag, on the CPU.

    Attributes:
        features: (M, D) float32, or float16 if that is lossless.
        coords: (M, 2) or None.
        column: the column of its label.
        logits: (C,) float32, the heads' logits when it was stored, or None.
    """

    features: Tensor
    coords: Tensor | None
    column: int
    logits: Tensor | None = None

    @classmethod
    def of(cls, bag: BagBatch, column: int, logits: Tensor | None = None) -> StoredBag:
        """A copy of one bag (B = 1)."""
        rows = slice(None) if bag.mask is None else bag.mask[0]
        coords = None if bag.coords is None else bag.coords[0, rows].cpu().clone()
        kept = None if logits is None else logits.detach().float().cpu().clone()
        return cls(compact(bag.features[0, rows]), coords, column, kept)

    def batch(self, device: torch.device) -> BagBatch:
        """As a batch of one, float32, on a device."""
        coords = None if self.coords is None else self.coords.to(device).unsqueeze(0)
        return BagBatch(self.features.to(device).float().unsqueeze(0), coords)

    def thinned(self, instances: int | None, generator: np.random.Generator) -> StoredBag:
        """Some of its instances, in their order; itself if it has no more than ``instances``."""
        if instances is None or len(self.features) <= instances:
            return self
        keep = torch.from_numpy(np.sort(generator.choice(len(self.features), instances, replace=False)))
        return replace(self, features=self.features[keep], coords=None if self.coords is None else self.coords[keep])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        named = {"features": self.features, "coords": self.coords, "logits": self.logits}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class Reservoir:
    """A uniform sample of the bags offered so far: algorithm R of Vitter (1985, ACM TOMS 11:1).

    The n-th bag takes a random place out of n, and is kept if that is one of the ``capacity`` first. Random numbers are drawn
    from the seed and a count, so that a reservoir read from a folder continues exactly as before.

    Args:
        capacity: the largest number of bags.
        seed: the seed of all random choices.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity, self.seed = capacity, seed
        self.bags: list[StoredBag] = []
        self.seen = 0
        self.drawn = 0

    def offer(self, bag: BagBatch, column: int, logits: Tensor | None = None) -> bool:
        """Offer a bag (B = 1) to the reservoir; returns whether it was kept."""
        place = self.seen
        if self.seen >= self.capacity:
            place = int(np.random.default_rng([self.seed, _ENTERING, self.seen]).integers(self.seen + 1))
        self.seen += 1
        if place >= self.capacity:
            return False
        self.bags[place : place + 1] = [StoredBag.of(bag, column, logits)]
        return True

    def draw(self, number: int = 1, instances: int | None = None) -> list[StoredBag]:
        """``number`` different bags, or all if there are fewer, each with at most ``instances`` instances."""
        if not self.bags:
            return []
        generator = np.random.default_rng([self.seed, _DRAWING, self.drawn])
        self.drawn += 1
        chosen = generator.choice(len(self.bags), min(number, len(self.bags)), replace=False)
        return [self.bags[index].thinned(instances, generator) for index in chosen]

    @property
    def bytes(self) -> int:
        """The stored bytes."""
        return sum(tensor.nbytes for bag in self.bags for tensor in bag.tensors.values())

    def save(self, folder: Path) -> None:
        """``reservoir.safetensors`` if there are bags, and the counts in ``strategy.json``."""
        if self.bags:
            tensors = {f"{i}.{name}": tensor for i, bag in enumerate(self.bags) for name, tensor in bag.tensors.items()}
            tensors["columns"] = torch.tensor([bag.column for bag in self.bags])
            write_tensors(folder / _FILE, tensors)
        counts = {"seed": self.seed, "seen": self.seen, "drawn": self.drawn, "bags": len(self.bags)}
        write_json(folder / _STATE, counts)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            RunError: a file is missing or damaged.
        """
        state = read_state(folder / _STATE)
        try:
            self.seed, self.seen, self.drawn, number = (int(state[name]) for name in ("seed", "seen", "drawn", "bags"))
            tensors = read_tensors(folder / _FILE) if number else {}
            self.bags = [
                StoredBag(
                    tensors[f"{i}.features"], tensors.get(f"{i}.coords"), int(tensors["columns"][i]), tensors.get(f"{i}.logits")
                )
                for i in range(number)
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise RunError(f"{folder}: the stored bags are not complete", "restore the run from a copy") from None


class RehearsalOptions(BaseModel):
    """Settings of a strategy that keeps whole bags."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    bags: int = Field(30, ge=1, description="number of whole bags of earlier tasks to keep")
    max_instances: int | None = Field(
        None, ge=1, description="train on at most this many instances of a stored bag, redrawn each time"
    )


class Rehearsal(Strategy):
    """The base of strategies with stored bags: the memory; all heads and the trunk train.

    Derived classes define how stored bags are learned from. A version's folder then holds features of old
    slides: ``old_data_bytes`` is their size.
    """

    Options = RehearsalOptions
    options: RehearsalOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.memory = self.new_memory()

    def new_memory(self) -> Any:
        """The empty memory."""
        return Reservoir(self.options.bags)

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """In the first stage: adopt the run's seed."""
        if stage.index == 0:
            self.memory.seed = draw_seed()

    def parameters(self, model: MILModel, stage: Stage) -> list[dict[str, Any]]:
        """The trunk and all heads: the stored bags keep the old heads correct."""
        return train_whole_model(model)

    def replay(self, model: MILModel, number: int = 1) -> Iterator[tuple[StoredBag, BagOutput, Tensor]]:
        """Stored bags, the model's output for each, and its label (1,); none before the second task."""
        device = next(model.parameters()).device
        for stored in self.memory.draw(number, self.options.max_instances):
            yield stored, model(stored.batch(device)), torch.tensor([stored.column], device=device)

    def remembered(self, model: MILModel, bag: BagBatch) -> Tensor | None:
        """Logits (C,) to be stored with a bag; None by default."""
        return None

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Offer each bag of the stage to the reservoir."""
        for bag, column in bags:
            self.memory.offer(bag, column, self.remembered(model, bag))

    def old_data_bytes(self) -> int:
        """Bytes of the stored bags."""
        held: int = self.memory.bytes
        return held

    def save(self, model: MILModel, folder: Path) -> None:
        """Write the memory."""
        self.memory.save(folder)

    def load(self, model: MILModel, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        self.memory.load(folder)


def compact(features: Tensor) -> Tensor:
    """A copy on the CPU: float16 if that is lossless, as for most feature files; otherwise float32."""
    features = features.detach().cpu()
    half = features.half()
    return half if torch.equal(half.float(), features.float()) else features.float().clone()


def draw_seed() -> int:
    """A seed from torch's generator, which the trainer seeds before each stage."""
    return int(torch.randint(2**31 - 1, ()))


def of_stored(terms: dict[str, Tensor], weight: float = 1.0) -> dict[str, Tensor]:
    """Loss terms of a stored bag, renamed so as not to clash with the new bag's."""
    return {f"stored_{name}": weight * value for name, value in terms.items()}


def train_whole_model(model: MILModel) -> list[dict[str, Any]]:
    """Optimizer groups of the trunk and every head."""
    return [{"params": unfreeze(model.trunk.parameters())}, train_heads(model, range(len(model.classes.heads)))]
