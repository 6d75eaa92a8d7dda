"""``comel bags scale`` and ``comel bags join-scales``: bags of several scales as bags of one scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, Quiet, print_json

if TYPE_CHECKING:
    from comel.bags.bag import Bag

__all__ = ["bags_join_scales", "bags_scale"]

Paths = Annotated[list[Path], typer.Argument(help="Bags or folders of them.")]
Out = Annotated[Path, typer.Option(help="Folder to write; existing files must have the same content.")]


def bags_scale(
    paths: Paths,
    out: Out,
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the scale to take.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take one scale out of bags of several. A second run continues where the first stopped."""
    from comel.bags.scales import take_scale

    _write(paths, out, lambda bag: take_scale(bag, mpp), as_json, quiet)


def bags_join_scales(paths: Paths, out: Out, as_json: Json = False, quiet: Quiet = False) -> None:
    """Append the features of the coarser tiles that contain a tile. A second run continues where the first stopped."""
    from comel.bags.scales import join_scales

    _write(paths, out, join_scales, as_json, quiet)


def _write(paths: list[Path], out: Path, change: Callable[[Bag], Bag], as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from comel.bags.scales import write_scaled

    report = write_scaled(paths, out, change, quiet=quiet or as_json)
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(f"{report.written} bags written, {report.kept} existed; {out}")
