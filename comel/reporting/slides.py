"""The best and the worst test cases with their maps, predicted again from their bags."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from comel.base.trust import Trust
from comel.cohort.bags import BagStore
from comel.cohort.tasks import Case
from comel.errors import ComelError
from comel.prediction.prediction import Prediction
from comel.reporting.cases import CaseTable, best_and_worst
from comel.reporting.collect import Report

if TYPE_CHECKING:
    from comel.prediction.predictor import Predictor

__all__ = ["SlideMap", "SlideMaps", "Slides", "slide_maps"]

_WIDTH, _TALLEST, _TALLEST_STRIP, _COLOURS = 352, 440, 1760, 64


@dataclass(frozen=True)
class SlideMap:
    """A test case: true and predicted class, the probability of the true one, its map as a PNG or why there is none, and
    whether it is unlike anything learned."""

    case: str
    truth: str
    predicted: str
    probability: float
    picture: bytes | None
    reason: str = ""
    strange: bool = False

    @property
    def words(self) -> str:
        """The truth and the model's prediction."""
        strange = ", unlike anything learned" if self.strange else ""
        return f"true {self.truth} ({self.probability:.3f}), predicted {self.predicted}{strange}"

    @property
    def address(self) -> str:
        """The picture as a ``data:`` URL."""
        return f"data:image/png;base64,{base64.b64encode(self.picture or b'').decode()}"


@dataclass(frozen=True)
class SlideMaps:
    """The best cases, best first, and the worst, worst first; ``reason`` explains why no map could be drawn."""

    best: list[SlideMap]
    worst: list[SlideMap]
    reason: str = ""


@dataclass(frozen=True)
class Slides:
    """A block of the page: slides with their maps beside each other. ``brief``: leave out why single maps are missing."""

    slides: Sequence[SlideMap]
    brief: bool
    kind: ClassVar[str] = "slides"


def slide_maps(
    report: Report, advance: Callable[..., None] = lambda steps=1, text="": None, trust: Trust | None = None
) -> SlideMaps:
    """Choose by the probability of the true class, task not given, and draw each map on a plain background.

    Needs the bags at the path in the run's settings; without them the cases are only named.
    """
    cases = report.cases
    if cases is None or not len(cases):
        return SlideMaps([], [])
    predictor, reason = _open(report, trust or Trust())
    store = None
    if predictor is not None and report.data.bags is not None:
        assume = report.section("data").get("assume_encoder")
        store = BagStore(report.data.bags, predictor.contract, assume_encoder=assume, cache_bytes=0)

    def shown(indices: list[int]) -> Iterator[SlideMap]:
        for index in indices:
            picture, why = None, reason
            if predictor is not None and store is not None:
                try:
                    picture = _draw(predictor, store, _case(report, cases, index))
                except ComelError as error:
                    why = str(error)
            advance(1, text=cases.names[index])
            yield SlideMap(
                cases.names[index],
                cases.classes[cases.truth[index]],
                cases.classes[cases.predicted[index]],
                float(cases.of_true_class[index]),
                picture,
                why,
                cases.strange is not None and bool(cases.strange[index]),
            )

    best, worst = best_and_worst(cases)
    return SlideMaps(list(shown(best)), list(shown(worst)), reason)


def _open(report: Report, trust: Trust) -> tuple[Predictor | None, str]:
    from comel.prediction.predictor import Predictor

    if report.data.bags is None or not report.data.bags.is_dir():
        return None, f"No maps: the bags are not at {report.data.bags or 'any folder that the settings name'}."
    assert report.newest is not None
    try:
        return Predictor.open(report.path, version=report.newest.version, trust=trust), ""
    except ComelError as error:
        return None, f"No maps: {error}."


def _case(report: Report, cases: CaseTable, index: int) -> Case:
    """The case with its slides; without the manifest, a case has its slide's name."""
    name, task = cases.names[index], cases.tasks[index]
    slides = tuple(row[0] for row in report.data.slides.get(task, []) if row[1] == name)
    return Case(name, cases.patients[index], cases.classes[cases.truth[index]], slides or (name,))


def _draw(predictor: Predictor, store: BagStore, case: Case) -> bytes:
    from comel.prediction.picture import MIN_MAP_WIDTH, draw_map

    prediction = predictor.predict(store.read(case))
    width = max(MIN_MAP_WIDTH, min(_WIDTH, round(_TALLEST / _height_over_width(prediction))))
    stream = io.BytesIO()
    draw_map(prediction, None, width=width, tallest=_TALLEST_STRIP).quantize(_COLOURS).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _height_over_width(prediction: Prediction) -> float:
    if prediction.geometry is not None:
        return prediction.geometry.level0_height / max(1, prediction.geometry.level0_width)
    if prediction.coords is None or not len(prediction.coords):
        return 1.0
    across, down = (float(side) for side in prediction.coords.max(axis=0) - prediction.coords.min(axis=0))
    return max(1e-3, down) / max(1.0, across)
