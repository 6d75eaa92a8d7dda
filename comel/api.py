"""The commands that need slides or the service, as Python functions: part of the composition root, which alone knows comel,
pipelines and service together.

Everything heavy is imported inside the function that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.errors import ComelError
from comel.progress import progress_bar

if TYPE_CHECKING:
    from pipelines.cohort import CohortReport

__all__ = ["bench_extract", "check_bags", "demo", "extract", "inspect", "serve", "synth"]

THUMBNAIL_SIDE = 1536


def synth(out: Path, *, quiet: bool = False, **settings: Any) -> Path:
    """Generate a synthetic cohort; returns its manifest.

    Args:
        out: folder for slides, masks and ``manifest.csv``.
        quiet: no progress.
        settings: fields of :class:`pipelines.synth.SynthSettings`: seed, organs, slides_per_organ, size, difficulty, ...
    """
    from comel.config import parse_section
    from pipelines.synth import SynthSettings, generate_cohort

    chosen = parse_section(SynthSettings, _given(settings), "synth")
    with progress_bar(len(chosen.organs) * chosen.slides_per_organ, "synth", quiet=quiet) as advance:
        return generate_cohort(Path(out), settings=chosen, progress=lambda done, total, slide: advance(1, text=slide))


def extract(
    manifest: Path,
    out: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> CohortReport:
    """Extract a manifest's slides to bags in ``out``; what is complete is kept.

    Args:
        manifest: the cohort.
        out: folder of the bags, of ``overlays/`` and of ``failures.csv``.
        root: folder that the manifest's relative paths start from; default its own.
        device: of the patch encoder.
        force: redo complete slides too.
        quiet: no progress.
        settings: fields of :class:`pipelines.settings.ExtractSettings`: encoder, target_mpp, assume_mpp, tile_size, ...
    """
    from comel.config import parse_section
    from comel.manifest import read_manifest
    from pipelines.cohort import SlideOutcome, extract_cohort
    from pipelines.settings import ExtractSettings

    chosen = parse_section(ExtractSettings, _given(settings), "extract")
    slides = len(read_manifest(Path(manifest), root=root).rows)
    with progress_bar(slides, "extract", quiet=quiet) as advance:

        def tell(outcome: SlideOutcome) -> None:
            advance(1, text=f"{outcome.slide_id} {outcome.state}, {outcome.tiles} tiles")

        return extract_cohort(Path(manifest), Path(out), chosen, root=root, device=device, force=force, progress=tell)


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
    """Measure the extraction of ``slides``, or of a synthetic one; see :func:`pipelines.speed.measure_extraction`.

    Args:
        slides: to read; none for a synthetic slide, which is thrown away afterwards.
        workers: decoding threads, and processes of the DataLoader it is compared with.
        repeats: of every measurement.
        size: side of the synthetic slide in pixels.
        device: of the patch encoder.
        quiet: no progress.
        settings: fields of :class:`pipelines.settings.ExtractSettings`.
    """
    from tempfile import TemporaryDirectory

    from comel.config import parse_section
    from pipelines.encoders import load_encoder
    from pipelines.settings import ExtractSettings
    from pipelines.speed import WAYS, measure_extraction

    chosen = parse_section(ExtractSettings, _given(settings), "bench extract")
    encoder = load_encoder(chosen.encoder, device)
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


def serve(model: Path | None = None, **settings: Any) -> None:
    """Answer predictions over HTTP until interrupted; settings are those of :class:`service.settings.ServiceSettings`.

    Args:
        model: the run directory; default what the settings file or the environment says.
        settings: in place of what these say.
    """
    from comel.config import parse_section
    from service.app import serve as run_service
    from service.settings import ServiceSettings

    run_service(parse_section(ServiceSettings, _given({"run": model, **settings}), "serve"))


def inspect(
    path: Path, *, mpp: float | None = None, assume_mpp: float | None = None, overlay: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """What a slide is: size, levels, mpp and where it comes from, tissue area, number of tiles; writes the overlay if asked."""
    from comel.config import parse_section
    from comel.files import atomic_path
    from pipelines.overlay import draw_overlay
    from pipelines.settings import ExtractSettings
    from pipelines.slide import open_slide
    from pipelines.tiles import plan_tiles
    from pipelines.tissue import find_tissue

    chosen = parse_section(ExtractSettings, _given({**settings, "assume_mpp": assume_mpp}), "inspect")
    with open_slide(Path(path), mpp=mpp, assume_mpp=assume_mpp) as slide:
        tissue = find_tissue(slide, chosen.tissue)
        plan = plan_tiles(
            slide,
            tissue,
            tile_size=chosen.tile_size,
            target_mpp=chosen.target_mpp,
            overlap=chosen.overlap,
            min_tissue=chosen.min_tissue,
        )
        if overlay is not None:
            picture = draw_overlay(slide, tissue, plan)
            with atomic_path(overlay) as temporary:
                picture.save(temporary, format="PNG")
        return {
            "slide": str(path),
            "width": slide.dimensions[0],
            "height": slide.dimensions[1],
            "mpp_x": slide.mpp_x,
            "mpp_y": slide.mpp_y,
            "mpp_source": slide.mpp_source,
            "levels": [list(size) for size in slide.level_dimensions],
            "bounds": slide.bounds,
            "tissue_area_mm2": tissue.area_mm2,
            "tiles": len(plan.coords),
            "interpolated": plan.geometry.interpolated,
        }


def check_bags(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read feature files whole, checksums included; one entry a file with what it holds or what is wrong."""
    from comel.foreign import feature_files, read_any_bag

    entries = []
    for file in feature_files(paths):
        entry: dict[str, Any] = {"file": str(file)}
        try:
            bag = read_any_bag(file, verify=True)
            labels = bag.labels
            positive = None if labels is None else int((labels == 1).sum())
            entry |= {"instances": len(bag), "positive_instances": positive, **asdict(bag.contract)}
        except ComelError as error:
            entry |= {"error": str(error)}
        entries.append(entry)
    return entries


def demo(out: Path, **settings: Any) -> dict[str, Any]:
    """The whole way on a synthetic cohort: synth, extract, train, evaluate, predict; returns the summary."""
    from comel.demonstration import run_demo

    return run_demo(Path(out), **settings)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given: None means the default."""
    return {name: value for name, value in settings.items() if value is not None}
