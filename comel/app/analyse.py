"""``comel analyse``: what the network of a run does with bags, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comel.app.analyse_pictures import draw_distances, draw_heads, draw_patterns, draw_where
from comel.bags.bag import Bag
from comel.bags.foreign import feature_files, read_any_bag
from comel.base.files import write_json, write_text
from comel.base.progress import progress_bar
from comel.base.registry import nearest
from comel.base.trust import Trust
from comel.cohort.bags import check_contract
from comel.errors import BagError, ConfigError
from comel.models.base import BagBatch
from comel.models.batch import make_batch
from comel.models.comel import CoMEL
from comel.nn.block import Block
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Mixer
from comel.prediction.analysis.distances import Rings, local_maps, rings_of
from comel.prediction.analysis.importance import Importance, importance_of_branches, importance_of_heads
from comel.prediction.analysis.patterns import group_patterns, place_patterns
from comel.prediction.judge import Judge
from comel.runs.directory import RunDirectory

__all__ = ["analyse"]

_RADIUS = 3
_LEAST_QUERIES = 10
_LARGEST_RING = 64


def analyse(
    run: Path,
    bags: Sequence[Path],
    out: Path,
    *,
    version: int | None = None,
    task: str | None = None,
    queries: int = 256,
    device: str = "auto",
    seed: int = 0,
    trust: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Analyse the network of the CoMEL model on some bags.

    It is the network that is looked at: its pooled head's answer, and not what a task's context or instance classifier adds.

    Args:
        run: run directory.
        bags: feature files, or folders of them.
        out: folder for ``analysis.json``, ``analysis.md`` and the pictures.
        version: of the run; default the newest.
        task: whose classes are asked for; default for each bag the task that the model holds likeliest.
        queries: tiles whose attention is looked at; all, if a bag has no more.
        device: auto, cpu, cuda or cuda:N.
        seed: of the choice of tiles.
        trust: see :class:`comel.base.trust.Trust`.
        quiet: no progress.

    Returns:
        what ``analysis.json`` holds.

    Raises:
        ComelError: the run, the task or a bag cannot be used, or the model has no blocks.
    """
    directory = RunDirectory(run)
    info = directory.info(version)
    judge = Judge.open(directory, info, device, Trust(trust))
    model = judge.model
    if not isinstance(model, CoMEL):
        raise ConfigError(f"{run}: a run of the model '{info.model['name']}', which has no blocks", "analyse a run of 'comel'")
    names = [head.name for head in model.classes.heads]
    if task is not None and task not in names:
        raise ConfigError(f"--task {task}: the run has no such task", nearest(task, names))
    files = feature_files(bags)
    looks: list[dict[str, Any]] = []
    with progress_bar(len(files), "analyse", quiet=quiet) as advance:
        for file in files:
            bag = read_any_bag(file)
            if bag.slide_id in [look["slide_id"] for look in looks]:
                raise BagError(f"{file}: a second bag of {bag.slide_id}", "give each slide once")
            looks.append(_look(judge, model, bag, task, queries, seed))
            advance(1, text=bag.slide_id)
    out.mkdir(parents=True, exist_ok=True)
    result = _summary(looks, info.version, str(info.model["name"]), queries, seed)
    write_json(out / "analysis.json", result)
    write_text(out / "analysis.md", _page(result))
    if result["heads"]:
        draw_heads(result["heads"], out / "heads.png")
    if result["distances"]:
        draw_distances(result["distances"], result["unit"], out / "distances.png")
    if result["patterns"]:
        draw_patterns(result["patterns"], out / "patterns.png")
    for look in looks:
        if look["where"] is not None:
            draw_where(look["where"], look["slide_id"], out / f"where-{look['slide_id']}.png")
    return result


@contextmanager
def _seen_by(mixers: Sequence[Mixer]) -> Iterator[dict[int, tuple[Tensor, Layout]]]:
    """Within it, what each mixer is given, by number."""
    seen: dict[int, tuple[Tensor, Layout]] = {}

    def keep(number: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, Layout]) -> None:
            seen[number] = inputs

        return hook

    with ExitStack() as stack:
        for number, mixer in enumerate(mixers):
            stack.callback(mixer.register_forward_pre_hook(keep(number)).remove)
        yield seen


@torch.no_grad()
def _look(judge: Judge, model: CoMEL, bag: Bag, task: str | None, queries: int, seed: int) -> dict[str, Any]:
    """All that is found on one bag."""
    check_contract(judge.contract, bag, bag.slide_id)
    if not len(bag):
        raise BagError(f"{bag.slide_id}: a bag without instances", "leave it out")
    model.eval()
    batch = make_batch(bag, judge.device)
    look = judge.look(bag)
    assert look is not None
    head = look.free().head if task is None else model.classes.head_index(task)
    columns = model.classes.columns(head)
    mixers = [block.attention if isinstance(block, Block) else block for block in _blocks(model)]

    def answer() -> tuple[Tensor, Tensor]:
        z = model.trunk(batch.features, batch.coords, batch.mask)[1]  # (1, dim)
        logits = model.pooled_logits(z)[0, columns] / model.temperature[head]
        return z[0], torch.softmax(logits.double(), dim=-1)

    with _seen_by(mixers) as seen:
        probabilities = answer()[1]
    heaviest = int(model.trunk(batch.features, batch.coords, batch.mask)[2][0].argmax())
    column = int(probabilities.argmax())
    layers = [(n, m) for n, m in enumerate(mixers) if isinstance(m, Mixer) and _has_heads(m)]
    projections = [mixer.get_submodule("proj") for _, mixer in layers]
    numbers = [mixer.width.heads for _, mixer in layers]
    found: dict[str, Any] = {
        "slide_id": bag.slide_id,
        "instances": len(bag),
        "task": model.classes.heads[head].name,
        "label": model.classes.heads[head].labels[column],
        "probability": float(probabilities[column]),
        "layers": [number for number, _ in layers],
        "pruned": importance_of_heads(answer, projections, numbers, column),
        "only": importance_of_heads(answer, projections, numbers, column, alone=True),
        "branches": _branches(model),
        "branch": importance_of_branches(answer, [(m, w) for _, m, w in _parts(model)], column),
        "rings": {}, "maps": {}, "where": None, "spacing": _spacing(bag), "sampled": len(bag) > queries,
    }  # fmt: skip
    _attention(found, seen, mixers, batch, queries, seed, heaviest)
    return found


def _attention(
    found: dict[str, Any], seen: dict[int, Any], mixers: Any, batch: BagBatch, queries: int, seed: int, heaviest: int
) -> None:
    """Rings, maps, and where the tile that weighs most in the pooling looks, of the layers that have such rows."""
    if batch.coords is None:
        return
    layout = Layout.of(batch.features, batch.coords)
    count = len(layout)
    chosen = torch.arange(count)
    if count > queries:
        chosen = torch.from_numpy(np.sort(np.random.default_rng(seed).choice(count, queries, replace=False)))
    cells = layout.cells.cpu()
    for number, (x, own) in seen.items():
        rows = mixers[number].rows(own.pack(x), own, chosen.to(x.device))
        if rows is None:
            continue
        rows = rows.float().cpu()
        largest = min(_LARGEST_RING, int(cells.max()))
        found["rings"][number] = rings_of(rows, chosen, cells, largest)
        if len(chosen) >= _LEAST_QUERIES:
            found["maps"][number] = local_maps(rows, chosen, cells, _RADIUS)[0].numpy()
        if found["where"] is None:
            one = mixers[number].rows(own.pack(x), own, torch.tensor([heaviest], device=x.device))
            found["where"] = {"cells": cells.numpy(), "query": heaviest, "rows": one[:, 0].float().cpu().numpy()}


def _has_heads(mixer: Mixer) -> bool:
    """Whether the input of its projection is its heads side by side."""
    projection = getattr(mixer, "proj", None)
    return not mixer.whole and isinstance(projection, nn.Linear) and projection.in_features == mixer.width.dim


def _blocks(model: CoMEL) -> list[Any]:
    """Blocks, and mixers that are blocks of their own."""
    blocks = model.trunk.blocks
    assert isinstance(blocks, nn.ModuleList)
    return list(blocks)


def _parts(model: CoMEL) -> list[tuple[str, nn.Module, bool]]:
    """The branches of every block: name, module, and whether it has residual connections inside."""
    parts: list[tuple[str, nn.Module, bool]] = []
    for number, block in enumerate(_blocks(model)):
        if isinstance(block, Block):
            parts.append((f"block {number + 1} mixer", block.attention, False))
            parts.append((f"block {number + 1} feed-forward", block.feedforward or block.fc2, False))
        else:
            parts.append((f"block {number + 1}", block, True))
    return parts


def _branches(model: CoMEL) -> list[str]:
    return [name for name, _, _ in _parts(model)]


def _spacing(bag: Bag) -> float | None:
    """Micrometres from one tile to the next; None if the bag does not say."""
    geometry = bag.geometry
    return None if geometry is None else (geometry.patch_size - geometry.overlap) * geometry.mpp_x


def _mean(values: Sequence[Importance]) -> dict[str, float]:
    return {name: float(np.mean([asdict(value)[name] for value in values])) for name in asdict(values[0])}


def _summary(looks: Sequence[dict[str, Any]], version: int, model: str, queries: int, seed: int) -> dict[str, Any]:
    """Means over the bags."""
    heads = [
        {"layer": layer + 1, "head": head + 1, "pruned": _mean([look["pruned"][at][head] for look in looks]),
         "only": _mean([look["only"][at][head] for look in looks])}
        for at, layer in enumerate(looks[0]["layers"])
        for head in range(len(looks[0]["pruned"][at]))
    ]  # fmt: skip
    spacings = {look["spacing"] for look in looks}
    spacing = spacings.pop() if len(spacings) == 1 else None
    distances = [_over(layer, _of(looks, "rings", layer), spacing) for layer in _layers(looks, "rings")]
    named = [(layer, head) for layer in _layers(looks, "maps") for head in range(len(_of(looks, "maps", layer)[0]))]
    patterns: list[dict[str, Any]] = []
    if len(named) > 1:
        maps = np.stack([np.mean([own[head] for own in _of(looks, "maps", layer)], axis=0) for layer, head in named])
        groups, (places, _) = group_patterns(maps, seed), place_patterns(maps)
        for (layer, head), group, place, own in zip(named, groups, places, maps, strict=True):
            row = {"layer": layer + 1, "head": head + 1, "group": int(group)}
            patterns.append({**row, "place": place.tolist(), "map": own.tolist()})
    branches = [
        {"branch": name, **_mean([look["branch"][at] for look in looks])} for at, name in enumerate(looks[0]["branches"])
    ]
    keys = ("slide_id", "instances", "task", "label", "probability", "sampled")
    return {
        "version": version, "model": model, "queries": queries, "seed": seed,
        "unit": "cells" if spacing is None else "um",
        "bags": [{key: look[key] for key in keys} for look in looks],
        "heads": heads, "branches": branches, "distances": distances, "patterns": patterns,
    }  # fmt: skip


def _layers(looks: Sequence[dict[str, Any]], what: str) -> list[int]:
    """The layers of which something was found on any bag."""
    return sorted({layer for look in looks for layer in look[what]})


def _of(looks: Sequence[dict[str, Any]], what: str, layer: int) -> list[Any]:
    """What was found of a layer on the bags that have it."""
    return [look[what][layer] for look in looks if layer in look[what]]


def _over(layer: int, rings: Sequence[Rings], spacing: float | None) -> dict[str, Any]:
    """Attention over distance of a layer, a mean over the bags for the rings that all have."""
    most = min(len(ring.base) for ring in rings)
    mass = np.mean([ring.mass[:, :most].numpy() for ring in rings], axis=0)  # (heads, K + 1)
    base = np.mean([ring.base[:most].numpy() for ring in rings], axis=0)
    unit = 1.0 if spacing is None else spacing
    return {
        "layer": layer + 1,
        "distance": (np.arange(most) * unit).tolist(),
        "mass_over_base": np.divide(mass, base, out=np.zeros_like(mass), where=base > 0).tolist(),
        "mean_distance": (np.mean([ring.distance.numpy() for ring in rings], axis=0) * unit).tolist(),
        "entropy": np.mean([ring.entropy.numpy() for ring in rings], axis=0).tolist(),
    }


def _page(result: dict[str, Any]) -> str:
    """The numbers as text."""
    bags = result["bags"]
    how = "sampled" if any(bag["sampled"] for bag in bags) else "all"
    lines = [f"# What the network does with {len(bags)} bags", ""]
    most = f"{result['queries']} at most per bag, seed {result['seed']}"
    lines += [f"Version {result['version']}; attention of {how} tiles ({most}).", ""]
    lines += [
        "| branch that is silent | probability lost | divergence | feature turned | changed |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["branches"]:
        numbers = f"{row['drop']:+.3f} | {row['divergence']:.3f} | {row['turn']:.3f} | {row['change']:.3f}"
        lines.append(f"| {row['branch']} | {numbers} |")
    if result["heads"]:
        lines += ["", "| head | lost without it | lost with it alone | divergence without |", "|---|---:|---:|---:|"]
        for row in result["heads"]:
            without, only = row["pruned"], row["only"]
            numbers = f"{without['drop']:+.3f} | {only['drop']:+.3f} | {without['divergence']:.4f}"
            lines.append(f"| {row['layer']}.{row['head']} | {numbers} |")
    else:
        lines += ["", "The mixers of this run have no heads that can be silenced one by one."]
    if result["distances"]:
        lines += ["", f"| layer | mean distance looked at, by head ({result['unit']}) | evenness, by head |", "|---|---|---|"]
        for row in result["distances"]:
            far, even = ", ".join(f"{v:.0f}" for v in row["mean_distance"]), ", ".join(f"{v:.2f}" for v in row["entropy"])
            lines.append(f"| {row['layer']} | {far} | {even} |")
    else:
        lines += ["", "No attention over distance: the mixers have no weights from tile to tile, or the bags no coordinates."]
    return "\n".join(lines) + "\n"
