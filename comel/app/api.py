"""The commands that need slides or the service, as Python functions. Only the composition root imports comel,
pipelines and service together.

Everything heavy is imported inside the function that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.app.schemas import ExtractOptions, given, with_keywords
from comel.base.progress import progress_bar
from comel.base.settings import parse_section
from comel.errors import ComelError, ConfigError
from pipelines.extraction.settings import ExtractSettings
from pipelines.synth.settings import SynthSettings

if TYPE_CHECKING:
    from pipelines.batch.pool import Pool
    from pipelines.batch.run import CohortReport
    from pipelines.batch.status import Status
    from pipelines.extraction.inspection import Inspection

__all__ = [
    "bench_extract",
    "check_bags",
    "demo",
    "encoders",
    "extract",
    "extract_status",
    "inspect",
    "serve",
    "synth",
    "worker",
]


@with_keywords(SynthSettings)
def synth(out: Path, *, quiet: bool = False, **settings: Any) -> Path:
    """Generate a synthetic cohort; returns its manifest.

    Args:
        out: folder for slides, masks and ``manifest.csv``.
        quiet: print no progress.
        settings: fields of :class:`pipelines.synth.settings.SynthSettings`: seed, organs, slides_per_organ, size, ...
    """
    from pipelines.synth.cohort import generate_cohort

    chosen = parse_section(SynthSettings, given(settings), "synth")
    with progress_bar(len(chosen.organs) * chosen.slides_per_organ, "synth", quiet=quiet) as advance:
        return generate_cohort(Path(out), settings=chosen, progress=lambda done, total, slide: advance(1, text=slide))


@with_keywords(ExtractOptions)
def extract(manifest: Path, out: Path, *, quiet: bool = False, **settings: Any) -> CohortReport:
    """Extract a manifest's slides to bags in ``out``; complete bags are kept.

    Args:
        manifest: the cohort.
        out: folder of the bags, of ``overlays/`` and of ``failures.csv``.
        quiet: print no progress.
        settings: fields of :class:`comel.app.schemas.ExtractOptions`: encoder, target_mpp, root, workers, device, ...
    """
    from comel.app.commands.extract_view import watch
    from comel.cohort.manifest import read_manifest
    from pipelines.batch.run import RUN_OPTIONS, CohortRun, SlideOutcome

    options: ExtractOptions = parse_section(ExtractOptions, given(settings), "extract")
    rows = read_manifest(Path(manifest), root=options.root, names=None).rows
    how = {name: getattr(options, name) for name in RUN_OPTIONS}
    run = CohortRun(rows, Path(out), options.extraction(), _pool(options), **how)
    with watch(run.status, quiet=quiet) as say:

        def tell(outcome: SlideOutcome) -> None:
            if outcome.failure is not None:
                say(f"{outcome.slide_id} failed, {outcome.failure.stage}: {outcome.failure.reason}")
            elif outcome.state == "done":
                say("; ".join([f"{outcome.slide_id} done, {outcome.tiles} tiles", *outcome.notes]))

        return run.run(tell)


def _pool(options: ExtractOptions) -> Pool:
    if options.engine == "dask":
        if options.workers is not None:
            raise ConfigError(
                "--workers applies to this machine only", "with --engine dask, start as many Dask workers as you want"
            )
        from pipelines.batch.dask_pool import DaskPool

        return DaskPool(options.scheduler, scheduler_file=options.scheduler_file)
    if options.scheduler is not None or options.scheduler_file is not None:
        raise ConfigError("a scheduler was given, but the engine is local", "add --engine dask")
    from pipelines.batch.pool import LocalPool

    return LocalPool(options.workers)


def extract_status(manifest: Path, out: Path, *, root: Path | None = None) -> Status:
    """The progress of an extraction of a manifest's slides in ``out``, by all processes, with the last run's settings."""
    from comel.cohort.manifest import read_manifest
    from pipelines.batch.status import folder_status

    return folder_status(read_manifest(Path(manifest), root=root, names=None).rows, Path(out))


@with_keywords(ExtractSettings)
def bench_extract(
    slides: Sequence[Path],
    *,
    workers: int | None = None,
    repeats: int = 3,
    size: int = 4096,
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Measure the extraction of ``slides``, or of a synthetic one; see
    :func:`comel.app.benchmark.extraction.measure_extraction`.

    Args:
        slides: the slides to read; none for a synthetic slide, which is deleted afterwards.
        workers: decoding threads, and processes of the DataLoader used for comparison.
        repeats: repeats of every measurement.
        size: side of the synthetic slide in pixels.
        device: the patch encoder's device.
        quiet: no progress.
        settings: fields of :class:`pipelines.extraction.settings.ExtractSettings`.
    """
    from tempfile import TemporaryDirectory

    from comel.app.benchmark.extraction import WAYS, measure_extraction
    from pipelines.patch_encoders import load_encoder

    chosen = parse_section(ExtractSettings, given(settings), "bench extract")
    encoder = load_encoder(chosen.encoder, device, chosen.precision)
    with TemporaryDirectory() as folder:
        if not slides:
            synth(Path(folder), organs=("colon",), slides_per_organ=2, size=size, quiet=quiet)
            slides = [Path(folder) / "slides" / "colon-0000.tif"]
        with progress_bar(repeats * len(WAYS), "bench extract", quiet=quiet) as advance:
            return measure_extraction(
                [Path(slide) for slide in slides],
                encoder,
                chosen,
                workers=workers,
                repeats=repeats,
                progress=lambda way: advance(1, text=way),
            )


def serve(models: Sequence[str | Path] | None = None, **settings: Any) -> None:
    """Answer predictions over HTTP until interrupted; settings are those of :class:`service.settings.ServiceSettings`.

    Args:
        models: run directories, or ``NAME=RUN``; a run without a name gets its folder's name. The first is the default.
            By default, the settings file's or the environment's.
        settings: values that override these.
    """
    from service.app import serve as run_service
    from service.settings import ServiceSettings

    runs = list(models) if models is not None else None
    run_service(parse_section(ServiceSettings, given({"runs": runs, **settings}), "serve"))


def worker(models: Sequence[str | Path] | None = None, **settings: Any) -> None:
    """Work on the jobs that :func:`serve` accepts elsewhere, until stopped (SIGTERM or Ctrl-C); same arguments as there."""
    import signal
    import threading

    from service.backend import work as run_worker
    from service.logs import make_log, route_library_logs
    from service.settings import ServiceSettings

    runs = list(models) if models is not None else None
    until = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: until.set())
    log = make_log()
    route_library_logs(log)
    run_worker(parse_section(ServiceSettings, given({"runs": runs, **settings}), "worker"), log, until)


@with_keywords(ExtractSettings)
def inspect(path: Path, *, mpp: float | None = None, overlay: Path | None = None, **settings: Any) -> Inspection:
    """Describe a slide: size, levels, mpp and its source, tissue, ink and folds, number of tiles; and draw a picture of it.

    Args:
        path: the slide.
        mpp: micrometres per pixel of level 0, overriding the slide's own.
        overlay: the PNG file to write the picture to.
        settings: fields of :class:`pipelines.extraction.settings.ExtractSettings`: target_mpp, tissue, min_tissue, ...
    """
    from comel.base.files import atomic_path
    from pipelines.extraction.inspection import inspect_slide

    found = inspect_slide(Path(path), parse_section(ExtractSettings, given(settings), "inspect"), mpp=mpp)
    if overlay is not None:
        with atomic_path(Path(overlay)) as temporary:
            found.overlay.save(temporary, format="PNG")
    return found


def encoders(name: str | None = None) -> list[dict[str, Any]]:
    """Facts about every patch encoder, or about one and how to obtain it; see :mod:`pipelines.patch_encoders.listing`."""
    from pipelines.patch_encoders.listing import list_encoders, obtain

    entries = list_encoders(name)
    return entries if name is None else [{**entries[0], "obtain": obtain(name)}]


def mixers(name: str | None = None) -> list[dict[str, Any]]:
    """The card of every mixer, or of one with its options; see :mod:`comel.nn.mixers`."""
    from comel.nn.mixers import MIXERS, mixer_class

    entries = []
    for each in [name] if name is not None else MIXERS:
        kind = mixer_class(each)
        entry: dict[str, Any] = {"name": each, **asdict(kind.card), "block": kind.whole}
        if name is not None:
            fields = kind.Options.model_fields.items()
            entry["options"] = [{"name": key, "default": f.default, "description": f.description} for key, f in fields]
        entries.append(entry)
    return entries


def check_bags(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read feature files in full, with checksums; one entry per file with its content or the problem."""
    from comel.bags.foreign import feature_files, read_any_bag

    entries = []
    for file in feature_files(paths):
        entry: dict[str, Any] = {"file": str(file)}
        try:
            bag = read_any_bag(file, verify=True)
            labels = bag.labels
            positive = None if labels is None else int((labels == 1).sum())
            entry |= {"instances": len(bag), "positive_instances": positive, **asdict(bag.contract)}
            entry["scales"] = {f"{scale.contract.mpp:g}": len(scale) for scale in bag.scales}
        except ComelError as error:
            entry |= {"error": str(error)}
        entries.append(entry)
    return entries


def demo(out: Path, **settings: Any) -> dict[str, Any]:
    """Run the whole pipeline on a synthetic cohort: synth, extract, train, evaluate, predict; returns the summary."""
    from comel.app.demo import run_demo

    return run_demo(Path(out), **settings)
