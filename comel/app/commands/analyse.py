"""``comel analyse``: what the network of a run does with bags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.app.commands.options import Json, Quiet, Run, Trusted, print_json

__all__ = ["analyse"]


def analyse(
    run: Run,
    bags: Annotated[list[Path], typer.Argument(help="Feature files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for numbers and pictures.")],
    version: Annotated[int | None, typer.Option(min=0, help="Version of the run; default the one in use.")] = None,
    task: Annotated[str | None, typer.Option(help="Whose classes are asked for; default the likeliest of each bag.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Tiles per bag whose attention is looked at.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of tiles.")] = 0,
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which heads and branches of the network matter, how far heads look, and the patterns they form."""
    from comel.app.analyse import analyse as run_analysis
    from comel.base.cores import limit_torch_threads

    limit_torch_threads()
    result = run_analysis(
        run,
        bags,
        out,
        version=version,
        task=task,
        queries=queries,
        device=device,
        seed=seed,
        trust=trust or (),
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(result)
    else:
        typer.echo((out / "analysis.md").read_text(encoding="utf-8"))
        typer.echo(f"numbers and pictures: {out}")
