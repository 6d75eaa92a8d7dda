"""An extraction's progress for people: a live view on a terminal, occasional lines in a log, a table on request."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipelines.batch.status import RunningSlide, Status

__all__ = ["status_line", "status_table", "watch"]

_SECONDS_BETWEEN_LINES = 15.0
_SLIDES_SHOWN = 16
_BAR_WIDTH = 24


@contextmanager
def watch(status: Callable[[], Status], *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show the status while an extraction runs; yields ``say(text)``, which prints a permanent line."""
    if quiet:
        yield lambda text: None
    elif sys.stderr.isatty():
        with _live(status) as say:
            yield say
    else:
        with _lines(status) as say:
            yield say


def status_line(status: Status) -> str:
    """The status in one line."""
    parts = [f"{status.done} of {status.slides} done"]
    if status.failed:
        parts.append(f"{sum(status.failed.values())} failed")
    if status.running:
        parts.append(f"{len(status.running)} running")
    parts.append(f"{status.tiles_per_second:.0f} tiles/s")
    if status.seconds_left is not None and status.remaining:
        parts.append(f"{_duration(status.seconds_left)} left")
    return ", ".join(parts)


def status_table(status: Status) -> None:
    """Print the full status."""
    typer.echo(f"done       {status.done} of {status.slides}, {status.tiles} tiles")
    typer.echo(f"remaining  {status.remaining}")
    typer.echo(f"failed     {sum(status.failed.values())}")
    for reason, count in status.failed.items():
        typer.echo(f"  {count:6}  {reason}")
    typer.echo(f"running    {len(status.running)}")
    for slide in status.running:
        typer.echo(f"  {slide.host}, process {slide.pid}: {_slide_line(slide)}")
    typer.echo(f"tiles/s    {status.tiles_per_second:.1f}")
    left = "not known yet" if status.seconds_left is None else _duration(status.seconds_left)
    typer.echo(f"time left  {left}")


@contextmanager
def _live(status: Callable[[], Status]) -> Iterator[Callable[[str], None]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    started = time.monotonic()

    def render() -> RenderableType:
        now = status()
        head = Table.grid(padding=(0, 1))
        ended = now.slides - now.remaining
        text = f"{status_line(now)}, {_duration(time.monotonic() - started)} so far"
        head.add_row("extract", ProgressBar(total=max(now.slides, 1), completed=ended, width=_BAR_WIDTH), text)
        slides = Table.grid(padding=(0, 1))
        for slide in now.running[:_SLIDES_SHOWN]:
            bar = ProgressBar(total=max(slide.tiles, 1), completed=slide.tiles_done, width=_BAR_WIDTH)
            slides.add_row(" ", bar, _slide_line(slide))
        return Group(head, slides)

    with Live(get_renderable=render, console=Console(stderr=True), refresh_per_second=2, transient=True) as live:
        yield lambda text: live.console.print(text, highlight=False, markup=False)


@contextmanager
def _lines(status: Callable[[], Status]) -> Iterator[Callable[[str], None]]:
    ended = threading.Event()

    def say(text: str) -> None:
        sys.stderr.write(f"extract: {text}\n")
        sys.stderr.flush()

    def say_often() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LINES):
            say(status_line(status()))

    thread = threading.Thread(target=say_often, name="progress", daemon=True)
    thread.start()
    try:
        yield say
    finally:
        ended.set()
        thread.join()
        say(status_line(status()))


def _slide_line(slide: RunningSlide) -> str:
    tiles = f" {slide.tiles_done} of {slide.tiles} tiles" if slide.tiles else ""
    return f"{slide.slide_id}  {slide.stage}{tiles}, {_duration(time.time() - slide.since)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
