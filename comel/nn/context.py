"""Context: what a bag's tiles show together, and where they lie to each other, as evidence for its label.

Many questions are not answered by any single tile: two findings together, a share above a bound, lymphocytes around the
tumour or away from it, one cluster or many tiles scattered. With p_m (J,) what tile m shows of J concepts
(:mod:`comel.nn.concepts`), a bag of M tiles is described by

    h_k     = mean_m p_mk                                   shares
    q_kl    = h_k h_l                                       what occurs in the same bag
    c^r_kl  = mean_m p_mk mean_{n around m, radius r} p_nl  what lies beside what, for r = 1 and 3 tiles
    log (c^r_kl + e) / (q_kl + e)                           the same against chance
    log (1 + pieces_k), largest_k / all_k                   into how many pieces a concept falls

(square roots of h, q and c). Every term but the last lets instances look at each other through groups: a concept of the bag,
or one of the surroundings. A sparse logistic regression on these numbers, for each finding against the rest, is the
evidence. Sets of concepts and penalties vote, each with a weight exp(-n loss / 2) by its loss on training bags that it was
not fitted on. Where one tile is enough, no context is needed: the strongest tiles of a linear classifier
(:mod:`comel.nn.strongest`) vote beside them. How much the two count, and where the midpoint lies, is fitted to the votes on
bags held out too, so the evidence is a log-odds that means what it says for new bags, and what says nothing of them is left
out.

What rests on a tile is a_m = M sum_k p_mk |d evidence / d p_mk|, in the mean with the tiles around. A tile decides as far as
it is much and its bag shows the finding. Tiles are scored by this and by the linear classifier (drawn half way to the tiles
around): by the context the more, the more of the evidence is its.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from comel.nn.concepts import ConceptKind, Concepts, linear_of, normalised
from comel.nn.instances import strongest
from comel.nn.places import Places
from comel.nn.strongest import VOTING_SHARE
from comel.nn.votes import Linear, sparse_vote, splits_of, strongest_vote, weigh

__all__ = ["RADII", "Context", "ContextEvidence", "HeadContext", "PlacedBag", "describe", "length", "sample"]

Context = Literal["full", "linear", "none"]
"""Whether all votes count, or only that of the linear classifier of tiles."""

PlacedBag = tuple[Tensor, Tensor | None]
"""A bag's features (M, D) and the corners of its tiles (M, 2), or None."""

RADII = (1, 3)
"""Of the surroundings that are looked at, in tiles."""
_CHANCE = 5e-4
_ROOT = 1e-6
_LEAST_PIECE = 3
_SETS: tuple[tuple[ConceptKind, int], ...] = (("clusters", 12), ("components", 8), ("components", 12))
_TILES, _NUMBERS = 40_000, 16_000_000
"""Most tiles that a task is learned from, and most of their features: a sample spread evenly over every bag."""
_LEAST_TILES = 20
_REST = 4
"""Power of the context's share by which it scores tiles: below nearly all of the evidence, the linear classifier is sharper."""
_LEAST = 1e-6
_MOST_RANKED = 1_000_000
"""More values than torch.quantile takes are cut."""


def length(concepts: int, *, placed: bool) -> int:
    """How many numbers :func:`describe` gives for ``concepts`` concepts."""
    pairs = concepts * (concepts + 1) // 2
    return concepts + pairs + (2 * len(RADII) * pairs + 2 * concepts if placed else 0)


def describe(shown: Tensor, places: Places | None = None) -> Tensor:
    """What a bag's tiles show together and, with ``places``, where: see the module. Differentiable but for the pieces.

    Args:
        shown: (M, J) how much each tile shows of each concept; M at least 1.
        places: of the tiles, for the radii of the module, or None if they are not known.

    Returns:
        (numbers,), see :func:`length`.
    """
    first, second = torch.triu_indices(shown.shape[1], shown.shape[1], device=shown.device)
    shares = shown.mean(dim=0)  # (J,)
    together = shares[first] * shares[second]  # (pairs,)
    parts = [_root(shares), _root(together)]
    if places is not None:
        for radius in RADII:
            total, number = places.around(shown, radius)
            around = total / number.clamp_min(1).unsqueeze(1)  # (M, J)
            beside = (shown.T @ around / len(shown))[first, second]  # (pairs,)
            parts += [_root(beside), torch.log((beside.clamp_min(0) + _CHANCE) / (together + _CHANCE))]
            if radius == 1:
                parts.append(_pieces((total + shown) / (number + 1).unsqueeze(1) > 0.5, places).to(shown))
    return torch.cat(parts)


def _root(values: Tensor) -> Tensor:
    return torch.sqrt(values.clamp_min(0) + _ROOT)


def _pieces(present: Tensor, places: Places) -> Tensor:
    """Of each concept's smoothed presence (M, J) the log of the number of its pieces and the largest one's share, (2 J,)."""
    numbers = []
    for sizes in places.pieces(present):
        large = sizes[sizes >= _LEAST_PIECE]
        numbers.append((np.log1p(len(large)), large[0] / large.sum() if len(large) else 0.0))
    return torch.tensor(np.array(numbers).T.ravel())


class _Rule(nn.Module):
    """What a bag's numbers say of each label of a task; one for tiles with places, one for tiles without."""

    bias: Tensor
    strength: Tensor
    share: Tensor
    scale: Tensor
    learned: Tensor

    def __init__(self, sets: Sequence[int], labels: int, *, placed: bool) -> None:
        super().__init__()
        self.labels = labels
        for i, concepts in enumerate(sets):
            self.register_buffer(f"weight_{i}", torch.zeros(labels, length(concepts, placed=placed)))
        self.register_buffer("bias", torch.zeros(labels))
        self.register_buffer("strength", torch.zeros(labels))  # of the strongest tiles' vote
        self.register_buffer("share", torch.zeros(labels))  # of the context in the evidence
        self.register_buffer("scale", torch.ones(labels))  # what a tile that decides adds
        self.register_buffer("learned", torch.tensor(False))  # whether it says something of every finding

    def forward(self, shown: Sequence[Tensor], places: Places | None) -> Tensor:
        """The context's part of the log-odds, (labels,); ``shown`` is (M, J) of each set of concepts."""
        parts = [getattr(self, f"weight_{i}") @ describe(each, places) for i, each in enumerate(shown)]
        return self.bias + torch.stack(parts).sum(dim=0)

    def read(self, shown: Sequence[Tensor], places: Places | None) -> tuple[Tensor, Tensor]:
        """The part of the log-odds, and how much rests on each tile, either way, (M, labels): M sum_k p_mk |d / d p_mk|."""
        if not self.share.any():
            return self.bias, shown[0].new_zeros(len(shown[0]), self.labels)
        with torch.inference_mode(False), torch.enable_grad():
            leaves = [each.detach().clone().requires_grad_() for each in shown]
            evidence = self(leaves, places)
            weights = torch.zeros(len(shown[0]), self.labels, dtype=evidence.dtype, device=evidence.device)
            for label in self.share.nonzero().flatten().tolist():
                slopes = torch.autograd.grad(evidence[label], leaves, retain_graph=True)
                parts = [(each * slope.abs()).sum(dim=1) for each, slope in zip(leaves, slopes, strict=True)]
                weights[:, label] = len(leaves[0]) * torch.stack(parts).sum(dim=0).detach()
        return evidence.detach(), weights

    def learn(self, finding: int, context: Linear | None, alone: Linear, present: np.ndarray) -> None:
        """Set a finding's column from the two votes, or from one."""
        if context is None:
            (strength,), bias = weigh([alone.held_out], present)
            self.strength[finding], self.bias[finding] = float(strength), bias
            return
        (first, second), bias = weigh([context.held_out, alone.held_out], present)
        for i, weights in enumerate(context.weights):
            getattr(self, f"weight_{i}")[finding] = torch.from_numpy(first * weights)
        self.bias[finding] = first * context.bias + bias
        self.strength[finding] = second
        spreads = first * context.held_out.std(), second * alone.held_out.std()
        self.share[finding] = spreads[0] / max(sum(spreads), _LEAST)


class HeadContext(nn.Module):
    """One task's concepts, its linear classifier of tiles, and what they say of a bag.

    Args:
        dimension: D.
        labels: of the task.
        context: which votes count.
    """

    tile_weight: Tensor
    tile_bias: Tensor

    def __init__(self, dimension: int, labels: int, context: Context = "full") -> None:
        super().__init__()
        self.labels, self.context = labels, context
        self.sets = nn.ModuleList(Concepts(dimension, kind, number) for kind, number in _SETS)
        numbers = [number if kind == "clusters" else 2 * number for kind, number in _SETS]
        self.anywhere = _Rule(numbers, labels, placed=False)
        self.placed = _Rule(numbers, labels, placed=True)
        self.register_buffer("tile_weight", torch.zeros(labels, dimension))
        self.register_buffer("tile_bias", torch.zeros(labels))

    def forward(self, features: Tensor, places: Places | None) -> tuple[Tensor, Tensor] | None:
        """A bag (M, D) with its tiles' places -> log-odds of each label (labels,), logits of its tiles (M, labels).

        Both are 0 for the negative label. None if nothing was learned: of one label only, of too few bags, or nothing that held
        for bags held out.
        """
        places = places if self.placed.learned else None
        rule = self.anywhere if places is None else self.placed
        if not rule.learned:
            return None
        shown, alone = self._seen(features)  # (M, J) of each set, (M, labels)
        evidence, weight = rule.read(shown, places)  # (labels,), (M, labels)
        votes = torch.stack([strongest(column, VOTING_SHARE).mean() for column in alone.T])  # (labels,)
        evidence = evidence + rule.strength * votes
        if places is not None:
            alone, weight = (alone + places.mean(alone)) / 2, places.mean(weight)
        deciding = torch.sigmoid(evidence) * weight / (weight + rule.scale)
        together = torch.logit(deciding.clamp(_LEAST, 1 - _LEAST))  # (M, labels)
        share = rule.share**_REST
        return evidence, (1 - share) * alone + share * together

    def _seen(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each tile shows of each set's concepts, (M, J) of each, and its logits, (M, labels): one product for all."""
        weight = torch.cat([*(concepts.weight for concepts in self.sets), self.tile_weight])  # type: ignore[list-item]
        bias = torch.cat([*(concepts.bias for concepts in self.sets), self.tile_bias])  # type: ignore[list-item]
        sizes = [len(concepts) for concepts in self.sets]  # type: ignore[arg-type]
        *parts, alone = linear_of(features, weight, bias).split([*sizes, self.labels], dim=1)
        return [concepts.present(part) for concepts, part in zip(self.sets, parts, strict=True)], alone  # type: ignore[operator]

    def fit(self, bags: Iterable[tuple[PlacedBag, int]], findings: Sequence[int]) -> None:
        """Learn the task; see :meth:`ContextEvidence.fit`."""
        tiles, labels = sample(bags, min(_TILES, _NUMBERS // self.tile_weight.shape[1]))
        for concepts in self.sets:
            concepts.fit(np.concatenate(tiles))  # type: ignore[operator]
        sparse = self.context == "full"
        rules = {False: self.anywhere, True: self.placed}
        numbers: dict[bool, list[list[np.ndarray]]] = {False: [], True: []}
        for (features, coords), _ in bags:
            shown, _ = self._seen(features)
            numbers[False].append([describe(each).cpu().numpy() for each in shown])
            if coords is not None:
                places = Places(coords, RADII)
                numbers[True].append([describe(each, places).cpu().numpy() for each in shown])
        # Where some bags have places and others have none, that must not stand for the label.
        known = {placed: rows for placed, rows in numbers.items() if len(rows) == len(labels)}
        learned = []
        for finding in findings:
            present = np.array(labels) == finding
            if not (splits := splits_of(present)):
                continue
            learned.append(finding)
            alone = strongest_vote(tiles, present, splits)
            self.tile_weight[finding] = torch.from_numpy(alone.weights[0])
            self.tile_bias[finding] = alone.bias
            for placed, rows in known.items():
                sets = [np.stack(column).astype(np.float64) for column in zip(*rows, strict=True)]
                rules[placed].learn(finding, sparse_vote(sets, present, splits) if sparse else None, alone, present)
        for placed in known:
            rule, every = rules[placed], list(findings)
            useful = (rule.share[every] > 0) | (rule.strength[every] > 0)
            rule.learned.fill_(bool(every) and bool(useful.all()))
        self._measure(bags, learned, [rules[placed] for placed in known])

    def _measure(self, bags: Iterable[tuple[PlacedBag, int]], findings: Sequence[int], rules: Sequence[_Rule]) -> None:
        """What a tile that decides adds: the weight of a positive bag's strongest tenth begins there, in the mean."""
        marks: dict[tuple[int, int], list[float]] = {}
        for (features, coords), label in bags:
            if label not in findings:
                continue
            shown, _ = self._seen(features)
            for i, rule in enumerate(rules):
                places = Places(coords, RADII) if rule is self.placed and coords is not None else None
                _, weight = rule.read(shown, places)
                weight = (weight if places is None else places.mean(weight))[:, label]
                marks.setdefault((i, label), []).append(float(torch.quantile(weight[:_MOST_RANKED].double(), 0.9)))
        for (i, label), values in marks.items():
            rules[i].scale[label] = max(float(np.mean(values)), _LEAST)


def sample(bags: Iterable[tuple[PlacedBag, int]], most: int) -> tuple[list[np.ndarray], list[int]]:
    """Normalised tiles of each bag, thinned evenly to about ``most`` in all, and the bags' labels."""
    tiles: list[np.ndarray] = []
    labels, step = [], 1
    for (features, _), label in bags:
        tiles.append(_every(normalised(features).cpu().numpy(), step))
        labels.append(label)
        while sum(map(len, tiles)) > most and any(len(rows) >= 2 * _LEAST_TILES for rows in tiles):
            step *= 2
            tiles = [_every(rows, 2) for rows in tiles]
    return tiles, labels


def _every(rows: np.ndarray, step: int) -> np.ndarray:
    """Each ``step``-th row, or more of them where fewer than a handful would be left."""
    return rows[:: max(1, min(step, len(rows) // _LEAST_TILES))]


class ContextEvidence(nn.Module):
    """The context's evidence of every task.

    Args:
        dimension: D.
        context: which votes count.
    """

    tasks: Tensor

    def __init__(self, dimension: int, context: Context = "full") -> None:
        super().__init__()
        self.dimension, self.context = dimension, context
        self.heads = nn.ModuleList()
        self.register_buffer("tasks", torch.zeros(0, dtype=torch.int64))  # (heads,) that each has learned from

    def add_head(self, labels: int) -> None:
        """Append a head, which has learned nothing yet."""
        self.heads.append(HeadContext(self.dimension, labels, self.context).to(self.tasks.device))
        self.tasks = torch.cat([self.tasks, self.tasks.new_zeros(1)])

    def knows(self, head: int) -> bool:
        """Whether a head has learned from one task; concepts of a task do not serve the bags of another."""
        return int(self.tasks[head]) == 1

    def fit(self, head: int, bags: Iterable[tuple[PlacedBag, int]], findings: Sequence[int]) -> None:
        """Learn a task from its training bags.

        Args:
            head: its number.
            bags: (features, corners) of each, and the place of its label in the head; gone through three times.
            findings: the labels that are findings.
        """
        self.tasks[head] += 1
        if self.knows(head):
            self.heads[head].fit(bags, findings)  # type: ignore[operator]

    def forward(self, head: int, features: Tensor, places: Places | None = None) -> tuple[Tensor, Tensor] | None:
        """See :meth:`HeadContext.forward`; the places are for :data:`RADII`."""
        found: tuple[Tensor, Tensor] | None = self.heads[head](features, places)
        return found
