"""``comel report``: runs in, one HTML page and a model card out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from comel.base.files import write_text
from comel.base.progress import progress_bar, say
from comel.base.trust import Trust
from comel.errors import ConfigError
from comel.reporting.card import model_cards
from comel.reporting.cases import best_and_worst
from comel.reporting.collect import collect
from comel.reporting.page import page
from comel.reporting.slides import slide_maps
from comel.reporting.together import read_together

__all__ = ["CARD", "write_report"]

CARD = "model_card.md"


def write_report(
    runs: Path | Sequence[Path], out: Path | None = None, *, trust: Iterable[str | Path] = (), quiet: bool = False
) -> Path:
    """Write a report on one or several runs, replacing both files if they exist.

    Args:
        runs: run directories, finished or not; several are compared. The folder of ``--folds`` or ``--orders`` stands for its
            runs and their joint results.
        out: the HTML file; default ``report.html`` in the given folder, for several in the working directory. The
            model card ``model_card.md`` goes beside it.
        trust: files of code that the runs may load to draw maps (:class:`comel.base.trust.Trust`).
        quiet: print no progress.

    Returns:
        The HTML file.

    Raises:
        ConfigError: no run is named, or ``out`` is not an HTML file.
        RunError: a run is missing or damaged.
    """
    trusted = Trust(trust)
    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(path) for path in runs]
    if not paths:
        raise ConfigError("no run to report on", "name one or several run directories")
    together = {path: found for path in paths if (found := read_together(path)) is not None}
    reports = collect([run for path in paths for run in (together[path].runs if path in together else (path,))])
    if out is None:
        out = (reports[0].path if len(reports) == 1 else paths[0] if len(paths) == 1 else Path.cwd()) / "report.html"
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ConfigError(f"--out {out}: not the name of an HTML file", "write a name such as report.html")
    cases = sum(len(picked) for report in reports if report.cases is not None for picked in best_and_worst(report.cases))
    with progress_bar(cases, "report", quiet=quiet) as advance:
        maps = [slide_maps(report, advance, trusted) for report in reports]
    for note in trusted.notes:
        say(f"report: {note}", quiet=quiet)
    write_text(out, page(reports, maps, list(together.values())))
    write_text(out.with_name(CARD), model_cards(reports))
    return out
