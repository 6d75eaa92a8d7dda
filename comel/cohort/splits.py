"""Train, validation and test sets and cross-validation folds that share no patient.

The unit is a group: all the slides of a patient and, if sites are kept together, all the patients of a site.

The rule for sites: in a task whose rows name sites, a site stays in one split as long as every class of the task occurs
in at least as many groups as there are splits, and as long as rows with a given split do not themselves spread a site.
A task with too few sites is split by patient. A classifier that has seen a hospital's stain
in training recognises it in the test (Howard et al., Nature Communications 12:4423, 2021), hence this rule.

Counts are counts of cases, because a case is a bag. The result depends on the rows and on the seed, not on the rows' order.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comel.base.text import listed
from comel.cohort.manifest import SPLITS, ManifestRow
from comel.errors import ComelError

__all__ = ["assign_folds", "assign_splits", "split_by_fold", "splits_put_aside"]

_Class = tuple[str, str]  # task, label


@dataclass(frozen=True)
class _Group:
    """Slides that must stay together: their number of cases per class, and their given split, if any."""

    key: str
    slides: tuple[str, ...]
    cases: Counter[_Class]
    split: str | None


def assign_splits(
    rows: Sequence[ManifestRow], *, val_fraction: float = 0.15, test_fraction: float = 0.25, seed: int = 0
) -> dict[str, str]:
    """Assign slides to train, val and test: by patient, stratified by (task, label), and by site if there are enough.

    Rows with a split keep it, and their patient's other slides follow. Every class is in train; if a class has
    groups left, it is in test next, then in val, and only then do the fractions decide.

    Args:
        rows: the slides of a manifest.
        val_fraction: share of each class's cases for validation; 0 for no validation set.
        test_fraction: share of each class's cases for the test; 0 for no test set.
        seed: chooses among equally good assignments.

    Returns:
        The split of every slide: ``{slide_id: "train" | "val" | "test"}``.

    Raises:
        ComelError: the fractions leave nothing for train; a patient is in two splits; a class cannot be in train.
    """
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise ComelError(
            f"split fractions: {val_fraction:g} for val and {test_fraction:g} for test", "their sum must be under 1"
        )
    shares = {"train": 1 - val_fraction - test_fraction, "test": test_fraction, "val": val_fraction}
    shares = {split: share for split, share in shares.items() if share > 0}
    groups = _groups(rows, len(shares))
    split_of = _deal(groups, shares, seed)
    by_slide = {slide: split_of[group.key] for group in groups for slide in group.slides}
    return {row.slide_id: by_slide[row.slide_id] for row in rows}


def assign_folds(rows: Sequence[ManifestRow], *, folds: int = 5, seed: int = 0) -> dict[str, int]:
    """Assign slides to cross-validation folds with scikit-learn's ``StratifiedGroupKFold``, grouped as for splits.

    Splits and folds in the rows are ignored.

    Returns:
        The fold in which every slide is tested: ``{slide_id: 0 .. folds - 1}``.

    Raises:
        ComelError: fewer than two folds, fewer patients than folds, or a class that lies entirely in one fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2:
        raise ComelError(f"{folds} folds", "give at least 2")
    groups = _groups([dataclasses.replace(row, split=None) for row in rows], folds)
    count = _groups_with(groups)
    for label in _classes(rows):
        if count[label] < 2:
            raise ComelError(
                f"{_named(label)} has only one patient, so one fold has none to train on", "add patients or leave it out"
            )
    most = max(count.values(), default=0)
    if most < folds:
        raise ComelError(f"{folds} folds of at most {most} patients per class", f"give at most {most} folds")
    of_case = [(index, label) for index, group in enumerate(groups) for label in sorted(group.cases.elements())]
    members, labels = np.array([index for index, _ in of_case]), [_named(label) for _, label in of_case]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold_of = np.full(len(groups), -1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, tested) in enumerate(splitter.split(members, labels, members)):
            fold_of[members[tested]] = fold
    for fold in range(folds):
        for label in _classes(rows):
            if not any(group.cases[label] for group, where in zip(groups, fold_of, strict=True) if where != fold):
                raise ComelError(f"{_named(label)} lies entirely in fold {fold}", "give fewer folds or another seed")
    by_slide = {slide: int(fold) for group, fold in zip(groups, fold_of, strict=True) for slide in group.slides}
    return {row.slide_id: by_slide[row.slide_id] for row in rows}


def split_by_fold(rows: Sequence[ManifestRow], fold: int, *, val_fraction: float = 0.15, seed: int = 0) -> dict[str, str]:
    """Test on one fold, and assign the others to train and val as :func:`assign_splits` does.

    Every row must have a fold; splits in the rows are ignored.

    Raises:
        ComelError: rows without a fold, a fold with no slides, a patient in the fold and outside it, or a class found
            only in this fold.
    """
    without = [row.slide_id for row in rows if row.fold is None]
    if without:
        raise ComelError(
            f"{len(without)} slides have no fold (such as {without[0]})", "fill in the column fold, or do not give a fold"
        )
    tested = [row for row in rows if row.fold == fold]
    others = [dataclasses.replace(row, split=None) for row in rows if row.fold != fold]
    if not tested:
        raise ComelError(
            f"no slide is in fold {fold}", f"the folds are {sorted({row.fold for row in rows if row.fold is not None})}"
        )
    both = {row.patient for row in tested} & {row.patient for row in others}
    if both:
        raise ComelError(f"patient {min(both)} is in fold {fold} and in another", "a patient belongs to one fold")
    for label in _classes(rows):
        if label not in _classes(others):
            raise ComelError(
                f"{_named(label)} is only in fold {fold}, so there is none to train on", "spread it over the folds"
            )
    split_of = assign_splits(others, val_fraction=val_fraction, test_fraction=0.0, seed=seed)
    return {row.slide_id: split_of.get(row.slide_id, "test") for row in rows}


def splits_put_aside(rows: Sequence[ManifestRow]) -> list[str]:
    """A note on the test slides of the column ``split``, which folds ignore."""
    tested = [row.slide_id for row in rows if row.split == "test"]
    if not tested:
        return []
    return [
        f"folds ignore the column split: its {len(tested)} test slides ({listed(tested)}) are trained on in all folds"
        " but one; to keep them for a final test, take them out of the manifest"
    ]


def _classes(rows: Sequence[ManifestRow]) -> list[_Class]:
    return sorted({(row.task, row.label) for row in rows})


def _named(label: _Class) -> str:
    return f"class {label[1]!r} of task {label[0]!r}"


def _groups_with(groups: Sequence[_Group]) -> Counter[_Class]:
    """The number of groups that contain each class."""
    return Counter(label for group in groups for label in group.cases)


def _groups(rows: Sequence[ManifestRow], splits: int) -> list[_Group]:
    """The groups to assign, with sites kept together in as many tasks as the rule of this module allows."""
    with_sites = {row.task for row in rows if row.site}
    while True:
        groups, torn = [], set()
        for members in _connected(rows, with_sites):
            given = {row.split for row in members if row.split}
            if len(given) > 1:
                torn |= {row.task for row in members}
                if not with_sites:
                    raise ComelError(f"patient {members[0].patient} is in {' and '.join(sorted(given))}", "give one split")
            cases = Counter({row.case: (row.task, row.label) for row in members}.values())
            split = given.pop() if given else None
            groups.append(_Group(members[0].slide_id, tuple(row.slide_id for row in members), cases, split))
        count, trainable = _groups_with(groups), _groups_with([group for group in groups if group.split in (None, "train")])
        few = {label[0] for label in _classes(rows) if count[label] < splits or not trainable[label]}
        if torn and not torn & with_sites:
            # A patient has two splits in a task without sites: no other grouping can fix that.
            with_sites = set()
        elif with_sites & (torn | few):
            with_sites -= torn | few
        else:
            return groups


def _connected(rows: Sequence[ManifestRow], with_sites: set[str]) -> list[list[ManifestRow]]:
    """Rows that share a case, a patient or (in the tasks named) a site, directly or through other rows."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for row in rows:
        parent[root(("case", row.case))] = root(("patient", row.patient))
        if row.site and row.task in with_sites:
            parent[root(("site", row.site))] = root(("patient", row.patient))
    members = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.slide_id):
        members[root(("patient", row.patient))].append(row)
    return sorted(members.values(), key=lambda rows: rows[0].slide_id)


def _deal(groups: Sequence[_Group], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of every group, by its key.

    Classes come from the rarest to the most common, groups from the largest to the smallest, after Sechidis et al., "On the
    stratification of multi-label data" (ECML PKDD 2011). scikit-learn's splitters only make parts of equal size.
    """
    total: Counter[_Class] = sum((group.cases for group in groups), Counter())
    have: dict[str, Counter[_Class]] = {split: Counter() for split in SPLITS}
    split_of: dict[str, str] = {}

    def give(group: _Group, split: str) -> None:
        split_of[group.key] = split
        have[split] += group.cases

    def excess(group: _Group, split: str) -> float:
        # The gradient of the squared distance from the shares, summed over the group's classes.
        return sum(
            cases * (have[split][label] - shares[split] * total[label]) / total[label] ** 2
            for label, cases in group.cases.items()
        )

    for group in groups:
        if group.split is not None:
            give(group, group.split)
    shuffled = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    shuffled.sort(key=lambda group: -group.cases.total())
    count = _groups_with(groups)
    for label in sorted(total, key=lambda label: (count[label], label)):
        for group in shuffled:
            if group.key not in split_of and group.cases[label]:
                without = [split for split in shares if not have[split][label]]
                give(group, without[0] if without else min(shares, key=lambda split: excess(group, split)))
    for label in sorted(total):
        if have["train"][label]:
            continue
        movable = [group for group in shuffled if group.split is None and group.cases[label]]
        if not movable:
            raise ComelError(
                f"{_named(label)} has no patient left for train: all {count[label]} are in val or test",
                "add patients of this class, or move one to train",
            )
        have[split_of[movable[-1].key]] -= movable[-1].cases
        give(movable[-1], "train")
    return split_of
