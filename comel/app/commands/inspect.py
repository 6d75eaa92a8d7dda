"""``comel inspect``: a slide's properties, and the tiles that would be cut from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comel.app.commands.options import Json, print_json
from comel.app.options import Flag, Given, options_of

if TYPE_CHECKING:
    from comel.app.schemas import ExtractOptions

__all__ = ["inspect"]

_OF_TILES = (
    "assume_mpp",
    "target_mpp",
    "tile_size",
    "overlap",
    "tissue",
    "tissue_folder",
    "min_tissue",
    "ink",
    "max_pen",
    "max_fold",
)


@options_of(
    "comel.app.schemas:ExtractOptions",
    only=_OF_TILES,
    names={"tissue_folder": Flag("--tissue-folder", "Folder of your own tissue outlines: <slide name>.geojson, .png, ...")},
    config="YAML file of comel extract; options and --set override it.",
    example="target_mpp=1.0",
)
def inspect(
    slide: Annotated[Path, typer.Argument(help="A slide.")],
    given: Given[ExtractOptions],
    overlay: Annotated[Path | None, typer.Option(help="PNG file to write, showing the tissue and the tiles.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of level 0, overriding the slide's own.")] = None,
    picture: Annotated[bool, typer.Option(help="Show the overlay in a terminal with enough colours.")] = True,
    as_json: Json = False,
) -> None:
    """Print a slide's properties and the tiles that would be cut from it. Only the overlay is written, if requested."""
    from comel.app import api

    found = api.inspect(slide, overlay=overlay, mpp=mpp, **dict(given.settings().extraction()))
    if as_json:
        print_json(found.facts)
        return
    for line in _lines(found.facts):
        typer.echo(line)
    if overlay is not None:
        typer.echo(_line("overlay", overlay))
    if picture:
        from rich.console import Console

        from comel.app.commands.picture import can_show, picture_text

        console = Console()
        if can_show(console):
            console.print(picture_text(found.overlay, console.width, console.height - 2))


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts as text for a person."""
    said = dict(facts)
    lines = [_line(name, said[name]) for name in ("slide", "format")]
    lines.append(_line("objective", f"{said['objective_power']:g}x" if said["objective_power"] else "not stated"))
    lines.append(_line("size", f"{said['width']} x {said['height']} px"))
    sides = [f"{said[name]:.4g}" for name in ("mpp_x", "mpp_y")]
    source = {"slide": "stated by the slide", "manifest": "given", "assumed": "assumed"}[said["mpp_source"]]
    lines.append(_line("um/px", f"{' x '.join(sides if sides[0] != sides[1] else sides[:1])}, {source}"))
    if said["bounds"] is not None:
        x, y, width, height = said["bounds"]
        lines.append(_line("bounds", f"{width} x {height} px at ({x}, {y})"))
    for number, level in enumerate(said["levels"]):
        tile = "" if level["tile"] is None else ", tiles of {} x {} px".format(*level["tile"])
        read = ", tiles are read from here" if number == said["read_level"] else ""
        factor = "not read: its factor is unknown" if level["downsample"] is None else f"1:{level['downsample']:.4g}"
        what = f"{level['width']} x {level['height']} px, {factor}{tile}{read}"
        lines.append(_line(f"level {number}", what))
    lines.append(_line("tissue", f"{said['tissue_area_mm2']:.2f} mm2 by {said['tissue']}"))
    colours = f", {', '.join(said['ink_colours'])}" if said["ink_colours"] else ""
    lines.append(_line("ink", f"{said['ink_share']:.1%} of the slide{colours}"))
    lines.append(_line("folds", f"{said['fold_share_of_tissue']:.1%} of the tissue"))
    enlarged = ", enlarged: the slide is coarser than requested" if said["interpolated"] else ""
    small = f", {said['too_small']}" if said["too_small"] else ""
    lines.append(_line("tiles", f"{said['tiles']}{enlarged}{small}"))
    return lines


def _line(name: str, value: object) -> str:
    return f"{name:12} {value}"
