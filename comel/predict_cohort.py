"""Prediction of slides, bags and manifests to files: JSON, map PNG and GeoJSON a slide, and one table for all.

Part of the composition root: it reads slides through ``pipelines``, imported only where a slide is given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.errors import ComelError, ConfigError, SlideError
from comel.files import atomic_path, write_text
from comel.prediction import Prediction, check_table, failed_row, prediction_row, write_table
from comel.progress import progress_bar

if TYPE_CHECKING:
    from comel.predictor import Predictor
    from pipelines.contract import ContractReader

__all__ = ["Input", "predict_cohort"]

_BAG_SUFFIXES = {".h5", ".hdf5", ".pt", ".pth"}


@dataclass(frozen=True)
class Input:
    """One thing to predict: a bag, a slide, or a bag with the slide to draw its map on; or why it cannot be."""

    name: str
    bag: Path | None = None
    slide: Path | None = None
    mpp: float | None = None
    problem: ComelError | None = None


def predict_cohort(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    version: int | None = None,
    task: str | None = None,
    bags: Path | None = None,
    slide: Path | None = None,
    root: Path | None = None,
    table: Path | None = None,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    assume_encoder: str | None = None,
    encoder: str | None = None,
    tissue_folder: Path | None = None,
    width: int = 1024,
    merge: bool = False,
    device: str = "auto",
    quiet: bool = False,
) -> list[Prediction | ComelError]:
    """Predict and write ``<name>.json``, ``<name>.png``, ``<name>.geojson`` to ``out``, and a table.

    Args:
        run: the run directory.
        inputs: slides, bags (.h5, .pt) and manifests (.csv), in any mixture.
        out: folder for the files.
        version: of the run; default the current one.
        task: where it is known; the prediction is then within that task.
        bags: folder in which a manifest's slides have their bags already; without it they are extracted.
        slide: the slide of a single bag, to draw its map on.
        root: folder that a manifest's relative paths start from.
        table: .csv or .parquet; default ``out/predictions.csv``.
        mpp: micrometres per pixel of a single slide, whatever it says itself.
        assume_mpp: micrometres per pixel of slides that state none.
        assume_encoder: encoder of feature files that do not name theirs.
        encoder: where the model's patch encoder comes from, such as ``uni:FOLDER``; default by its name.
        tissue_folder: tissue that you drew, ``<slide_id>.geojson``, ``.png``, ...; of a slide that is no manifest's, by its
            file name. Used for the slides that it has a file of.
        width: of the map picture in pixels.
        merge: GeoJSON of regions instead of tiles.
        device: of model and encoder.
        quiet: no progress.

    Returns:
        In the order of the inputs a prediction, or the error that kept one of several from being predicted. The error of a
        single input is raised.

    Raises:
        ConfigError: an option or an input does not fit, or there are slides and the model cannot read any.
    """
    from comel.predictor import Predictor
    from pipelines.contract import ContractReader

    run, inputs, out = Path(run), [Path(path) for path in inputs], Path(out)
    table = table or out / "predictions.csv"
    check_table(table)
    wanted = list(_inputs(inputs, bags, slide, root, mpp))
    predictor = Predictor.open(run, version=version, device=device)
    reader = ContractReader(
        predictor.contract, assume_mpp=assume_mpp, device=device, encoder=encoder, tissue_folder=tissue_folder
    )
    if any(entry.bag is None and entry.slide is not None for entry in wanted):
        reader.settings()
    out.mkdir(parents=True, exist_ok=True)
    results: list[Prediction | ComelError] = []
    rows: list[dict[str, Any]] = []
    with progress_bar(len(wanted), "predict", quiet=quiet) as advance:
        for entry in wanted:
            try:
                prediction = _predict_one(predictor, reader, entry, out, task, assume_encoder, width, merge)
                results.append(prediction)
                rows.append(prediction_row(prediction))
                advance(1, text=f"{entry.name}: {prediction.predicted_class or 'nothing'}")
            except ComelError as error:
                if len(wanted) == 1:
                    raise
                results.append(error)
                rows.append(failed_row(entry.name, error))
                advance(1, text=f"{entry.name}: failed")
    write_table(rows, table)
    return results


def _predict_one(
    predictor: Predictor,
    reader: ContractReader,
    entry: Input,
    out: Path,
    task: str | None,
    assume_encoder: str | None,
    width: int,
    merge: bool,
) -> Prediction:
    from comel.foreign import read_any_bag
    from comel.geojson import to_geojson
    from comel.maps import PNG_EFFORT, draw_map

    if entry.problem is not None:
        raise entry.problem
    notes: list[str] = []
    if entry.bag is not None:
        bag = dataclasses.replace(read_any_bag(entry.bag, assume_encoder=assume_encoder), slide_id=entry.name)
    else:
        assert entry.slide is not None
        extracted = reader.extract(entry.slide, slide_id=entry.name, mpp=entry.mpp)
        bag, notes = extracted.bag, list(extracted.notes)
    prediction = predictor.predict(bag, task=task)
    thumbnail = None
    if entry.slide is not None:
        try:
            thumbnail = reader.thumbnail(entry.slide, mpp=entry.mpp)
        except SlideError as error:
            if entry.bag is None:
                raise
            notes.append(f"the map is drawn without the slide: {error.what}")
    prediction = dataclasses.replace(prediction, notes=(*prediction.notes, *notes))
    if prediction.coords is not None:
        picture = draw_map(prediction, thumbnail, width=width)
        with atomic_path(out / f"{entry.name}.png") as temporary:
            picture.save(temporary, format="PNG", compress_level=PNG_EFFORT)
    if prediction.coords is not None and prediction.geometry is not None:
        write_text(out / f"{entry.name}.geojson", json.dumps(to_geojson(prediction, merge=merge)) + "\n")
    prediction.save_json(out / f"{entry.name}.json")
    return prediction


def _inputs(
    paths: Sequence[Path], bags: Path | None, slide: Path | None, root: Path | None, mpp: float | None
) -> Iterator[Input]:
    """Everything to predict, each under a name of its own.

    Raises:
        ConfigError: there is nothing, an option does not fit, or two inputs would write the same files.
    """
    found: dict[str, Path] = {}
    if not paths:
        raise ConfigError("nothing to predict", "give slides, bags or manifests")
    if slide is not None and (len(paths) != 1 or paths[0].suffix.lower() not in _BAG_SUFFIXES):
        raise ConfigError("--slide belongs to a single bag", "give one .h5 or .pt file with it")
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file", "check the path")
        for entry in _expand(path, bags, slide, root, mpp):
            if entry.name in found:
                raise ConfigError(f"{found[entry.name]} and {path} would both be '{entry.name}'", "use two folders")
            found[entry.name] = path
            yield entry


def _expand(path: Path, bags: Path | None, slide: Path | None, root: Path | None, mpp: float | None) -> Iterator[Input]:
    from comel.foreign import bag_path
    from comel.manifest import read_manifest

    if path.suffix.lower() == ".csv":
        for row in read_manifest(path, root=root).rows:
            try:
                bag = bag_path(bags, row.slide_id) if bags is not None else None
            except ComelError as error:
                yield Input(row.slide_id, problem=error)
                continue
            there = row.path if bag is None or row.path.exists() else None
            yield Input(row.slide_id, bag, there, row.mpp)
    elif path.suffix.lower() in _BAG_SUFFIXES:
        yield Input(path.stem, bag=path, slide=slide, mpp=mpp)
    else:
        yield Input(path.name if path.is_dir() else path.stem, slide=path, mpp=mpp)
