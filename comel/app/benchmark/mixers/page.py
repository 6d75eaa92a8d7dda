"""The tables and plots of ``comel bench mixers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comel.app.benchmark.mixers.checks import CHECKS
from comel.app.benchmark.mixers.cost import Cost, crossing, growth
from comel.nn.mixers import mixer_class

__all__ = ["draw_costs", "draw_quality", "table_of_cards", "table_of_checks", "table_of_costs", "table_of_quality"]

_BYTES_PER_NUMBER = 4


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    rows = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*rows, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def table_of_cards(names: Sequence[str]) -> str:
    """What each mixer is."""
    lines = []
    for name in names:
        card = mixer_class(name).card
        lines.append(
            (name, card.title, card.sees, card.reach, f"{card.exponent:g}", card.coords, card.numbers, card.paper, card.licence)
        )
    head = (
        "mixer",
        "what it does",
        "sees",
        "reach",
        "exponent",
        "coordinates",
        "compared with",
        "paper",
        "licence of its code",
    )
    return table(head, lines).replace("|---:", "|---")


def table_of_checks(checks: Mapping[str, Mapping[str, bool]]) -> str:
    """A line per mixer, a column per check."""
    lines = [(name, *("yes" if found[title] else "**no**" for title in CHECKS)) for name, found in checks.items()]
    return table(("mixer", *CHECKS), lines)


def table_of_costs(costs: Mapping[str, Sequence[Cost]], stopped: Mapping[str, str | None], dim: int) -> str:
    """Milliseconds over the length, growth, memory at the largest length, and the lengths from which it is faster."""
    lengths = sorted({cost.tiles for own in costs.values() for cost in own})
    shown = [length for length in lengths if length in (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 20)]
    gdat = {cost.tiles: cost for cost in costs.get("gdat", ())}
    lines = []
    for name, own in costs.items():
        at = {cost.tiles: cost for cost in own}
        last = own[-1] if own else None
        peak = None if last is None or last.peak_bytes is None else last.peak_bytes / (last.tiles * dim * _BYTES_PER_NUMBER)
        ratio = last.forward / gdat[last.tiles].forward if last and last.tiles in gdat else None
        lines.append(
            (
                name,
                *(f"{1e3 * at[m].forward:.1f}" if m in at else "-" for m in shown),
                _number(growth(own), "{:.2f}"),
                _number(ratio, "{:.1f}") + (f" at 2^{last.tiles.bit_length() - 1}" if last and ratio is not None else ""),
                _number(peak, "{:.1f}"),
                _length(crossing(own, costs.get("attention", ()))),
                _length(crossing(own, costs.get("gdat", ()))),
            )
        )
    head = (
        "ms forward",
        *(f"2^{m.bit_length() - 1}" for m in shown),
        "growth",
        "times GDAT",
        "peak",
        "faster than attention from",
        "than GDAT from",
    )
    notes = [f"- {name}: {why}" for name, why in stopped.items() if why]
    return table(head, lines) + ("\n" + "\n".join(notes) + "\n" if notes else "")


def table_of_quality(
    means: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    indices: Mapping[str, Mapping[str, float]],
    fits: Mapping[str, Any],
    names: Sequence[str],
) -> str:
    """Accuracy, the task given (AUC, instance AUC) in percent on each suite, the index, and the block's parameters."""
    order = sorted(names, key=lambda name: -indices.get(name, {}).get("index", float("-inf")))
    lines = []
    for name in order:
        cells = []
        for suite in means:
            scores = means[suite].get(name, {})
            percent = [
                _number(None if (v := scores.get(s)) is None else 100 * v, "{:.1f}")
                for s in ("within_task_accuracy", "auc", "instance_auc")
            ]
            cells.append(f"{percent[0]} ({percent[1]}, {percent[2]})")
        share = f"{fits[name].share:.2f}" + ("" if fits[name].fair else " (not within 10 %)")
        lines.append((name, *cells, _number(indices.get(name, {}).get("index"), "{:+.2f}"), share))
    return table(("accuracy, task given (AUC, instance AUC)", *means, "index", "parameters"), lines)


def draw_costs(costs: Mapping[str, Sequence[Cost]], path: Path) -> None:
    """Seconds over tiles, both in logarithms, a line per mixer, the slower above."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6.5), constrained_layout=True)
    colours = pyplot.get_cmap("tab20")
    ends: list[tuple[int, float, str]] = []
    shown: dict[str, Any] = {}
    for number, (name, own) in enumerate(costs.items()):
        if not own:
            continue
        strong = name in ("attention", "gdat", "mlp")
        tiles, seconds = [cost.tiles for cost in own], [cost.forward for cost in own]
        axes.plot(
            tiles, seconds, color="black" if strong else colours(number % 20), linewidth=2.2 if strong else 1.1,
            linestyle={"attention": "-", "gdat": "--", "mlp": ":"}.get(name, "-"),
        )  # fmt: skip
        ends.append((tiles[-1], seconds[-1], name))
        shown[name] = "black" if strong else colours(number % 20)
    for end, height, name in _spread(ends):
        axes.annotate(
            name, (end, height), xytext=(4, 0), textcoords="offset points", fontsize=7, va="center", color=shown[name]
        )
    axes.set(xscale="log", yscale="log", xlabel="tiles in the bag", ylabel="seconds, one block forward")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.25)
    axes.set_xlim(right=2 * max((tiles for tiles, _, _ in ends), default=1))
    axes.set_ylim(top=1.3 * max((height for _, height, _ in _spread(ends)), default=1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_quality(indices: Mapping[str, Mapping[str, float]], costs: Mapping[str, Sequence[Cost]], path: Path) -> None:
    """The index over the time for the largest length that all have measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in costs if costs[name] and "index" in indices.get(name, {})]
    if not names:
        return
    length = max(set.intersection(*({cost.tiles for cost in costs[name]} for name in names)))
    figure, axes = pyplot.subplots(figsize=(8, 5.5), constrained_layout=True)
    for name in names:
        seconds = next(cost.forward for cost in costs[name] if cost.tiles == length)
        axes.plot(
            seconds, indices[name]["index"], "o", color="black" if name in ("gdat", "attention", "mlp", "identity") else "C0"
        )
        axes.annotate(name, (seconds, indices[name]["index"]), xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel=f"seconds, one block forward over {length:,} tiles", ylabel="index (0: the average mixer)")
    axes.grid(alpha=0.25)
    axes.margins(0.1)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _spread(ends: list[tuple[int, float, str]], apart: float = 1.13) -> list[tuple[int, float, str]]:
    """Labels at the ends of the lines, moved up so that none covers another."""
    placed: list[tuple[int, float, str]] = []
    for tiles, seconds, name in sorted(ends):
        near = [other for other in placed if other[0] == tiles]
        lowest = max((other[1] for other in near), default=0.0) * apart
        placed.append((tiles, max(seconds, lowest), name))
    return placed


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _length(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,.0f}"
