"""Which slides and patients a run has seen, and in which split: training slides are never test cases, and slides it was tested
on are never trained on, whichever task asks for them later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from comel.base.names import composed
from comel.base.text import listed
from comel.cohort.manifest import SPLITS, Manifest, ManifestRow
from comel.errors import ManifestError

__all__ = ["Place", "Seen", "following", "patient_key", "splits_to_evaluate"]

_KEY_LENGTH = 24


class Place(NamedTuple):
    """The split of a slide or a patient, and the task."""

    split: str
    task: str


@dataclass(frozen=True)
class Seen:
    """The slides and patients that a run has seen.

    Attributes:
        slides: by slide; in the first of train, val and test if it was in several.
        patients: the same, by :func:`patient_key`.
        dealt: the split assigned to each (task, slide).
    """

    slides: dict[str, Place] = field(default_factory=dict)
    patients: dict[str, Place] = field(default_factory=dict)
    dealt: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, task: str, slides: Mapping[str, Iterable[str]], patients: Mapping[str, Iterable[str]]) -> None:
        """Add a task's slides and patient keys, by split."""
        for split, names in slides.items():
            for name in names:
                self.dealt[task, name] = split
                _put(self.slides, name, Place(split, task))
        for split, keys in patients.items():
            for key in keys:
                _put(self.patients, key, Place(split, task))

    def of_patients(self, rows: Iterable[ManifestRow]) -> dict[str, Place]:
        """Where the patients of these rows were seen, by the rows' names of them; also patients with a slide that was seen."""
        found: dict[str, Place] = {}
        for row in rows:
            for place in (self.slides.get(row.slide_id), self.patients.get(patient_key(row.patient))):
                if place is not None:
                    _put(found, row.patient, place)
        return found

    def taken_for(self, patient: str, rows: Iterable[ManifestRow]) -> tuple[str, str]:
        """By which name one of :meth:`of_patients` is known, as a sentence, and what to do where that is somebody else."""
        for row in rows:
            if row.patient != patient:
                continue
            for kind, column, name, place in (
                ("patient", "patient_id", patient, self.patients.get(patient_key(patient))),
                ("slide", "slide_id", row.slide_id, self.slides.get(row.slide_id)),
            ):
                if place is not None:
                    said = f"{kind}s are compared by name: {kind} {name} is taken for the one of the run's task '{place.task}'"
                    return said, f"if it is another, give it another {column}, such as {row.task}-{name}"
        raise KeyError(patient)


def patient_key(patient: str) -> str:
    """A key that distinguishes patients without naming them: the beginning of a SHA-256 (hex).

    Anyone with a list of names can still test it for a match.
    """
    return hashlib.sha256(b"patient\0" + composed(patient).encode()).hexdigest()[:_KEY_LENGTH]


def following(manifest: Manifest, seen: Seen, tasks: Sequence[str] | None = None) -> tuple[Manifest, list[str]]:
    """The manifest, with the run's split in each row that has no split and whose patient or slide the run has seen.

    Args:
        manifest: the cohort to be learned.
        seen: what the run has seen.
        tasks: the tasks to be learned; default all. Other rows only say who a slide's patient is.

    Returns:
        The manifest, and notes on the rows that follow the run. Names are all that is compared, so a patient 1 of another
        hospital is taken for the run's; one of the notes says so.

    Raises:
        ManifestError: a row states another split than the run's; or a task has no slide.
    """
    places = seen.of_patients(manifest.rows)
    known = [row for row in manifest.of_tasks(tasks).rows if row.patient in places]
    torn = [row for row in known if row.split not in (None, places[row.patient].split)]
    if torn:
        split, task = places[torn[0].patient]
        whose = f" of patient {torn[0].patient}" if torn[0].patient != torn[0].slide_id else ""
        more = f" ({len(torn) - 1} more rows like it)" if len(torn) > 1 else ""
        said, otherwise = seen.taken_for(torn[0].patient, manifest.rows)
        raise ManifestError(
            f"{manifest.path.name} row {torn[0].row} column split: slide {torn[0].slide_id}{whose} is {torn[0].split} here and "
            f"was {split} in the run's task '{task}'{more}; {said}",
            f"leave these cells empty, so that the rows follow the run; {otherwise}",
        )
    split_of = {row.slide_id: places[row.patient].split for row in known if row.split is None}
    if not split_of:
        return manifest, []
    rows = [replace(row, split=split_of.get(row.slide_id, row.split)) for row in manifest.rows]
    counts = ", ".join(f"{count} in {split}" for split in SPLITS if (count := list(split_of.values()).count(split)))
    first = next(row.patient for row in known if row.split is None)
    notes = [f"slides of patients that the run has seen stay in its splits: {counts}"]
    return replace(manifest, rows=rows), [*notes, "; ".join(seen.taken_for(first, manifest.rows))]


def splits_to_evaluate(manifest: Manifest, seen: Seen, tasks: Sequence[str] | None = None) -> tuple[dict[str, str], list[str]]:
    """The split of each slide when a run is evaluated: the run's if it has seen the slide or its patient, otherwise the
    manifest's, otherwise test.

    Args:
        manifest: the cases to evaluate the run on.
        seen: what the run has seen.
        tasks: the tasks to evaluate; default all.

    Returns:
        The split by slide, and a note for each group of slides that are not in the split that the manifest says; then one
        on the names that this rests on.
    """
    places = seen.of_patients(manifest.rows)
    split_of, moved, first = dict[str, str](), dict[tuple[str, str], list[str]](), ""
    for row in manifest.rows:
        expected = row.split or seen.dealt.get((row.task, row.slide_id)) or "test"
        split = places[row.patient].split if row.patient in places else expected
        split_of[row.slide_id] = split
        if split != expected and (tasks is None or row.task in tasks):
            moved.setdefault((split, expected), []).append(row.slide_id)
            first = first or row.patient
    notes = [
        f"{len(slides)} slides count as {split}, not as {expected}, because the run has seen them or their patients there: "
        f"{listed(slides)}"
        for (split, expected), slides in sorted(moved.items())
    ]
    return split_of, [*notes, *(["; ".join(seen.taken_for(first, manifest.rows))] if moved else [])]


def _put(places: dict[str, Place], name: str, place: Place) -> None:
    known = places.get(name)
    if known is None or SPLITS.index(place.split) < SPLITS.index(known.split):
        places[name] = place
