"""``comel demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.app.commands.options import Json, print_json

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the synthetic cohort.")] = 0,
    slides: Annotated[int | None, typer.Option(help="Slides per organ.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a slide in level-0 pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs per task.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on a synthetic cohort: synth, extract, train, evaluate, predict with maps."""
    from comel.app import api

    summary = api.demo(out, seed=seed, slides_per_organ=slides, size=size, epochs=epochs, quiet=as_json)
    if as_json:
        print_json(summary)
