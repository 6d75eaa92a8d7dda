"""Prediction of slides, bags and manifests to files: JSON, map PNG and GeoJSON per slide, and one table for all.

Part of the composition root: it reads slides through ``pipelines``, imported only when a prediction is made.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.app.predict.files import Writing, kept_prediction, kinds_of, write_prediction
from comel.app.predict.inputs import Input, by_case, find_inputs
from comel.app.schemas import PredictOptions, given, with_keywords
from comel.bags.bag import Bag
from comel.bags.left_out import said_left_out
from comel.base.files import sha256_of_file, sha256_of_json
from comel.base.progress import progress_bar, say
from comel.base.settings import parse_section
from comel.base.text import first_line
from comel.base.trust import Trust
from comel.base.version import comel_version
from comel.cohort.bags import check_contract
from comel.errors import ComelError, SlideError
from comel.prediction.prediction import Prediction, check_table, failed_row, prediction_row, write_table
from comel.runs.directory import RunDirectory

if TYPE_CHECKING:
    from PIL.Image import Image

    from comel.prediction.predictor import Predictor
    from pipelines.extraction.contract import ContractReader

__all__ = ["Outcome", "predict_cohort", "predict_each"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Outcome:
    """The outcome for one slide: its prediction, or the error that prevented it."""

    entry: Input
    result: Prediction | ComelError
    kept: bool = False

    def row(self) -> dict[str, Any]:
        """The slide's row of the table."""
        if isinstance(self.result, ComelError):
            return failed_row(self.entry.name, self.result, case_id=self.entry.case_id)
        return prediction_row(self.result, case_id=self.entry.case_id)

    def told(self) -> str:
        """The text for the progress line."""
        if isinstance(self.result, ComelError):
            return f"{self.entry.name}: failed"
        return f"{self.entry.name}: {self.result.predicted_class or 'nothing'}{', kept' if self.kept else ''}"

    def kinds(self) -> list[str]:
        """The kinds of files it has; see :data:`comel.app.predict.files.KINDS`."""
        return [] if isinstance(self.result, ComelError) else kinds_of(self.result)


@with_keywords(PredictOptions)
def predict_cohort(
    run: Path,
    inputs: Path | str | Sequence[Path | str],
    out: Path,
    *,
    trust: Iterable[str | Path] = (),
    quiet: bool = False,
    **options: Any,
) -> list[Prediction | ComelError]:
    """Predict and write ``<name>.json``, ``<name>.png``, ``<name>.geojson`` to ``out``, and a table.

    The slides of a manifest's case are predicted as one bag: each gets the case's label and probabilities, and the scores of
    its own tiles. If one of them cannot be used, none of the case is predicted. A slide whose files are in ``out`` and were
    made by this version from the same inputs and options is kept.

    Args:
        run: the run directory.
        inputs: slides, bags (.h5, .pt), folders of bags and manifests (.csv), in any mixture; or one of them.
        out: the folder for the files.
        trust: files of code that the run may load (:class:`comel.base.trust.Trust`).
        quiet: print no progress.
        options: fields of :class:`comel.app.schemas.PredictOptions`: version, task, bags, table, mpp, width, device, ...

    Returns:
        In the order of the inputs, one prediction per slide, or the error of one of several slides. The error
        of a single slide is raised.

    Raises:
        ConfigError: an option or an input does not fit, or there are slides but the model cannot read slides.
    """
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    chosen: PredictOptions = parse_section(PredictOptions, given(options), "predict")
    outcomes = predict_each(Path(run), list(map(Path, paths)), Path(out), chosen, trust=trust, quiet=quiet)
    return [outcome.result for outcome in outcomes]


def predict_each(
    run: Path,
    paths: Sequence[Path],
    out: Path,
    options: PredictOptions,
    *,
    trust: Iterable[str | Path] = (),
    quiet: bool = False,
) -> list[Outcome]:
    """:func:`predict_cohort` with the outcome of every slide; the table is written even if interrupted."""
    from comel.prediction.picture import check_width
    from comel.prediction.predictor import Predictor
    from pipelines.extraction.contract import ContractReader

    writing = Writing.of(out, options)
    check_table(writing.table)
    check_width(writing.width)
    inputs = find_inputs(paths, options)
    if (line := said_left_out(paths, [entry.bag or entry.slide or Path(entry.name) for entry in inputs])) is not None:
        say(line, quiet=quiet)
    trusted = Trust(trust)
    predictor = Predictor.open(run, version=options.version, device=options.device, trust=trusted)
    for note in trusted.notes:
        say(f"predict: {note}", quiet=quiet)
    predictor.check_task(options.task)
    reader = ContractReader(
        predictor.contract,
        assume_mpp=options.assume_mpp,
        device=options.device,
        encoder=options.encoder,
        trust=trusted,
        tissue_folder=options.tissue_folder,
    )
    if any(entry.bag is None and entry.problem is None for entry in inputs):
        reader.settings()
    content = sha256_of_file(RunDirectory(run).version_folder(predictor.version) / "checksums.json")
    work = _Work(predictor, reader, options, writing, content)
    writing.out.mkdir(parents=True, exist_ok=True)
    done: dict[str, Outcome] = {}
    try:
        with progress_bar(len(inputs), "predict", quiet=quiet) as advance:
            for case in by_case(inputs):
                for outcome in work.predict(case):
                    if isinstance(outcome.result, ComelError) and len(inputs) == 1:
                        raise outcome.result
                    done[outcome.entry.name] = outcome
                    advance(1, text=outcome.told())
    finally:
        outcomes = [done[entry.name] for entry in inputs if entry.name in done]
        if outcomes:
            write_table([outcome.row() for outcome in outcomes], writing.table)
    return outcomes


@dataclass(frozen=True)
class _Work:
    """Predicts case by case; ``version`` identifies the model's content."""

    predictor: Predictor
    reader: ContractReader
    options: PredictOptions
    writing: Writing
    version: str

    def predict(self, case: Sequence[Input]) -> list[Outcome]:
        """Predict the slides of a case and write their files, or keep existing ones. Whatever fails here, the other cases
        are predicted."""
        try:
            return self._predict(case)
        except Exception as error:
            return [Outcome(entry, _refusal(entry, error)) for entry in case]

    def _predict(self, case: Sequence[Input]) -> list[Outcome]:
        requests = self._requests(case)
        kept = [self._kept(entry, requests) for entry in case]
        found = [Outcome(entry, there, kept=True) for entry, there in zip(case, kept, strict=True) if there is not None]
        if len(found) == len(case):
            return found
        bags, notes = {}, {}
        for entry in sorted(case, key=lambda entry: (entry.problem is None, entry.bag is None)):  # likely failures first
            try:
                bags[entry.name], notes[entry.name] = self._read(entry)
            except Exception as error:
                said = _refusal(entry, error)
                return [Outcome(one, said if one is entry else one.problem or _case_error(one, entry)) for one in case]
        try:
            predictions = self.predictor.predict_case(
                case[0].case, [bags[entry.name] for entry in case], task=self.options.task
            )
        except ComelError as error:
            return [Outcome(entry, error) for entry in case]
        outcomes = []
        for entry, prediction in zip(case, predictions, strict=True):
            try:
                thumbnail, note = self._thumbnail(entry, prediction)
                prediction = dataclasses.replace(prediction, notes=(*prediction.notes, *notes[entry.name], *note))
                prediction = write_prediction(prediction, thumbnail, self.writing, requests.get(entry.name))
                outcomes.append(Outcome(entry, prediction))
            except Exception as error:
                outcomes.append(Outcome(entry, _refusal(entry, error)))
        return outcomes

    def _read(self, entry: Input) -> tuple[Bag, list[str]]:
        """A slide's bag, and notes on its extraction for the user."""
        from comel.bags.foreign import read_any_bag

        if entry.problem is not None:
            raise entry.problem
        if entry.bag is None:
            assert entry.slide is not None
            extracted = self.reader.extract(entry.slide, slide_id=entry.name, mpp=entry.mpp)
            return extracted.bag, list(extracted.notes)
        bag = read_any_bag(entry.bag, assume_encoder=self.options.assume_encoder)
        check_contract(self.predictor.contract, bag, entry.name)
        return dataclasses.replace(bag, slide_id=entry.name), []

    def _thumbnail(self, entry: Input, prediction: Prediction) -> tuple[Image | None, list[str]]:
        """The slide's thumbnail for the map, of the extent in the bag; or a note on why the map is drawn without it."""
        if entry.slide is None or prediction.coords is None:
            return None, []
        without = "the map is drawn without the slide"
        if prediction.geometry is None:
            return None, [f"{without}: its bag does not state where its tiles lie; extract it with comel extract"]
        try:
            return self.reader.thumbnail(entry.slide, mpp=prediction.geometry.level0_mpp_x), []
        except SlideError as error:
            if entry.bag is None:
                raise
            return None, [f"{without}: {error}"]

    def _requests(self, case: Sequence[Input]) -> dict[str, str]:
        """For each slide a hash of everything that determines its files' content; empty if unknown."""
        sources = [self._source(entry) for entry in case]
        if None in sources:
            return {}
        asked = {
            "comel": comel_version(),
            "version": self.version,
            "task": self.options.task,
            "assume_encoder": self.options.assume_encoder,
            "width": self.writing.width,
            "merge": self.writing.merge,
            "case": case[0].case,
            "slides": sources,
        }
        return {entry.name: sha256_of_json({**asked, "slide": entry.name}) for entry in case}

    def _source(self, entry: Input) -> dict[str, Any] | None:
        """A hash of the content that a slide is read from; None if unknown."""
        from pipelines.slides.slide_files import fingerprint

        if entry.problem is not None:
            return None
        try:
            if entry.bag is not None:
                slide = None if entry.slide is None else fingerprint(entry.slide)
                return {"name": entry.name, "bag": sha256_of_file(entry.bag), "slide": slide}
            assert entry.slide is not None
            made = self.reader.source(entry.slide, slide_id=entry.name, mpp=entry.mpp)
        except (OSError, ComelError):
            return None  # reading it will raise the error
        return None if made is None else {"name": entry.name, **made}

    def _kept(self, entry: Input, requests: Mapping[str, str]) -> Prediction | None:
        request = requests.get(entry.name)
        return None if request is None else kept_prediction(entry.name, self.writing, request)


def _refusal(entry: Input, error: Exception) -> ComelError:
    """Why a slide is not predicted, for any exception; a full disk stops everything, so that is raised again."""
    if isinstance(error, ComelError):
        return error
    if isinstance(error, OSError):
        if error.errno in _FULL:
            raise error
        return ComelError(f"{error.filename or entry.name}: {error.strerror or error}", "check the file and its permissions")
    refusal = ComelError(
        f"{entry.name}: cannot be predicted ({type(error).__name__}: {first_line(error)})",
        "check this slide; if there is nothing wrong with it, report this",
    )
    refusal.__cause__ = error
    return refusal


def _case_error(entry: Input, culprit: Input) -> ComelError:
    return ComelError(
        f"{entry.name}: not predicted, because slide {culprit.name} of its case {entry.case} cannot be used",
        "correct that slide, or take it out of the manifest",
    )
