"""Manifest and bags to tasks: order, labels, splits, cases of several slides, and the feature contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comel.bags.bag import write_bag
from comel.cohort.bags import BagStore, join_slides, usable
from comel.cohort.config import DataConfig
from comel.cohort.tasks import Case, TaskData, load_tasks, read_cohort
from comel.errors import BagError, ComelError, ConfigError, FeatureMismatch, ManifestError
from tests.comel.toys import CONTRACT, DIMENSION, Stream, make_bag, write_manifest, write_stream

Rows = list[dict[str, str]]


@pytest.fixture
def changed(toy_stream: Stream, tmp_path: Path) -> Callable[[Callable[[Rows], Rows | None]], DataConfig]:
    """The stream with another manifest over the same bags."""

    def change(edit: Callable[[Rows], Rows | None]) -> DataConfig:
        rows = [dict(row) for row in toy_stream.rows]
        rows = edit(rows) or rows
        return DataConfig(manifest=write_manifest(tmp_path / "m.csv", rows), bags=toy_stream.bags)

    return change


Changed = Callable[[Callable[[Rows], "Rows | None"]], DataConfig]


def tasks_of(config: DataConfig, **how: Any) -> list[TaskData]:
    return load_tasks(read_cohort(config), config, **how)


def test_tasks_come_in_the_order_asked_for_else_as_they_appear(toy_stream: Stream) -> None:
    config = DataConfig(manifest=toy_stream.manifest, bags=toy_stream.bags)
    assert [task.name for task in tasks_of(config)] == ["colon", "kidney", "liver"]
    some = tasks_of(config.model_copy(update={"tasks": ["liver", "colon"]}))
    assert [task.name for task in some] == ["liver", "colon"]
    assert [case.name for case in some[0].test] == toy_stream.slides(task="liver", split="test")


def test_the_negative_label_has_the_first_column(changed: Changed) -> None:
    def tumour_first(rows: Rows) -> Rows:
        return sorted(rows, key=lambda row: row["label"] == "normal")

    assert tasks_of(changed(tumour_first))[0].head.labels == ("normal", "tumour")
    named = changed(tumour_first).model_copy(update={"negative": "tumour"})
    assert tasks_of(named)[0].head.labels == ("tumour", "normal")
    assert tasks_of(named)[0].head.positive == (False, True)
    none = changed(tumour_first).model_copy(update={"negative": "healthy"})
    assert tasks_of(none)[0].head.negative is None
    assert tasks_of(none)[0].head.positive == (True, True)


def test_declared_labels_are_the_columns(toy_stream: Stream) -> None:
    config = DataConfig(manifest=toy_stream.manifest, bags=toy_stream.bags, labels={"colon": ["tumour", "adenoma", "normal"]})
    assert tasks_of(config)[0].head.labels == ("tumour", "adenoma", "normal")
    assert tasks_of(config)[1].head.labels == ("normal", "tumour")
    with pytest.raises(
        ManifestError, match=r"manifest\.csv row 3 column label: unknown label 'tumour'; 'colon' has normal, adenoma"
    ):
        tasks_of(config.model_copy(update={"labels": {"colon": ["normal", "adenoma"]}}))
    with pytest.raises(ConfigError, match=r"data\.labels names the task 'lung'; the manifest has colon, kidney, liver"):
        tasks_of(config.model_copy(update={"labels": {"lung": ["a", "b"]}}))


def test_a_task_of_one_label_is_refused(changed: Changed) -> None:
    def all_normal(rows: Rows) -> None:
        for row in rows:
            if row["task"] == "kidney":
                row["label"] = "normal"

    with pytest.raises(ConfigError, match=r"task 'kidney' has only the label\(s\) normal"):
        tasks_of(changed(all_normal))


def test_domains_share_one_head(changed: Changed) -> None:
    def grade(rows: Rows) -> None:
        rows[-16]["label"] = "grade 2"

    config = changed(grade).model_copy(update={"mode": "domain-incremental"})
    heads = {task.head for task in tasks_of(config)}
    assert len(heads) == 1
    assert heads.pop().labels == ("normal", "tumour", "grade 2")


def test_splits_of_the_manifest_stand_and_others_are_dealt(toy_stream: Stream, changed: Changed) -> None:
    config = DataConfig(manifest=toy_stream.manifest, bags=toy_stream.bags)
    for task in tasks_of(config):
        for split in ("train", "val", "test"):
            assert [case.name for case in task.cases(split)] == toy_stream.slides(task=task.name, split=split)
    undealt = changed(lambda rows: [{k: v for k, v in row.items() if k != "split"} for row in rows])
    for task in tasks_of(undealt):
        names = [case.name for case in task.cases(None)]
        assert sorted(names) == toy_stream.slides(task=task.name)
        assert all(task.cases(split) for split in ("train", "val", "test"))
        assert {case.label for case in task.train} == {"normal", "tumour"}
    assert tasks_of(undealt) == tasks_of(undealt)


def test_a_fold_is_tested_on(changed: Changed) -> None:
    def fold(rows: Rows) -> None:
        for i, row in enumerate(rows):
            row["fold"] = str(i // 2 % 4)

    config = changed(fold)
    for number in range(4):
        tasks = tasks_of(config.model_copy(update={"fold": number}))
        assert [case.name for case in tasks[0].test] == [f"colon-{i:02d}" for i in range(16) if i // 2 % 4 == number]
        assert not {case.name for case in tasks[0].test} & {case.name for case in (*tasks[0].train, *tasks[0].val)}


def test_a_task_without_training_slides_is_refused(changed: Changed) -> None:
    def no_training(rows: Rows) -> None:
        for row in rows:
            if row["task"] == "liver":
                row["split"] = "test"

    with pytest.raises(ComelError, match="of task 'liver' has no patient left for train"):
        tasks_of(changed(no_training))
    config = changed(no_training)
    tested = dict.fromkeys((row.slide_id for row in read_cohort(config).rows), "test")
    assert len(tasks_of(config, splits=tested)[2].test) == 16


def test_the_splits_of_an_evaluation_stand(changed: Changed) -> None:
    config = changed(lambda rows: [{k: v for k, v in row.items() if k != "split"} for row in rows[:8]])
    trained = tasks_of(config)[0]
    splits = {slide: split for split, slides in trained.slides().items() for slide in slides}
    assert tasks_of(config, splits=splits) == [trained]


@pytest.mark.parametrize(
    ("missing", "said"),
    [("manifest", "no manifest is named; give --manifest"), ("bags", "no folder of bags is named; give --bags")],
)
def test_data_that_is_not_named(toy_stream: Stream, missing: str, said: str) -> None:
    config = DataConfig(manifest=toy_stream.manifest, bags=toy_stream.bags)
    with pytest.raises(ConfigError, match=said):
        tasks_of(config.model_copy(update={missing: None}))


def test_a_case_of_two_slides_is_one_bag(tmp_path: Path) -> None:
    def pair(rows: Rows) -> None:
        for i, row in enumerate(rows):
            row["case_id"] = f"case-{i // 4}-{row['label']}"

    def side_by_side(rows: Rows) -> None:
        pair(rows)
        for row in rows:
            row["split"] = "train"

    stream = write_stream(tmp_path / "stream", ("colon",), slides=8, change=side_by_side)
    task = tasks_of(DataConfig(manifest=stream.manifest, bags=stream.bags))[0]
    case = task.train[0]
    assert case.slides == ("colon-00", "colon-02")
    store = BagStore(stream.bags)
    joined = store.read(case)
    parts = [store.read(Case(slide, slide, "normal", (slide,))) for slide in case.slides]
    np.testing.assert_array_equal(joined.features, np.concatenate([part.features for part in parts]))
    assert joined.slide_id == case.name
    assert joined.labels is not None
    assert joined.coords is not None
    assert len(joined.labels) == len(joined)
    assert len(np.unique(joined.coords, axis=0)) == len(joined)
    rows = joined.coords[len(parts[0]) :, 1]
    assert parts[0].coords is not None
    assert rows.min() > parts[0].coords[:, 1].max()


def test_joined_slides_keep_what_all_of_them_have() -> None:
    labelled = make_bag("a", np.ones((3, DIMENSION)), np.zeros(3, np.int8))
    plain = make_bag("b", np.ones((2, DIMENSION)))
    assert join_slides("case", [labelled]) is labelled
    assert join_slides("case", [labelled, plain]).labels is None
    assert join_slides("case", [labelled, replace(plain, coords=None)]).coords is None
    assert len(join_slides("case", [labelled, plain])) == 5


def test_a_store_keeps_bags_while_there_is_room(toy_stream: Stream) -> None:
    case = Case("colon-00", "colon-00", "normal", ("colon-00",))
    kept, not_kept = BagStore(toy_stream.bags), BagStore(toy_stream.bags, cache_bytes=0)
    assert kept.read(case) is kept.read(case)
    assert not_kept.read(case) is not not_kept.read(case)
    assert kept.contract == CONTRACT


def test_a_store_makes_room_for_the_bags_of_another_stage(toy_stream: Stream) -> None:
    first, second = (Case(slide, slide, "normal", (slide,)) for slide in ("colon-00", "kidney-00"))
    size = sum(array.nbytes for array in BagStore(toy_stream.bags).read(first).arrays().values())
    store = BagStore(toy_stream.bags, cache_bytes=1.5 * size)
    kept = store.read(first)
    assert store.read(second) is not store.read(second)
    assert store.read(first) is kept
    store.keep_only([second])
    assert store.read(second) is store.read(second)
    assert store.read(first) is not kept


def test_a_store_refuses_what_was_made_otherwise(toy_stream: Stream, tmp_path: Path) -> None:
    other = make_bag("colon-00", np.ones((3, DIMENSION)), contract=replace(CONTRACT, encoder=None))
    write_bag(tmp_path / "colon-00.h5", other)
    case = Case("colon-00", "colon-00", "normal", ("colon-00",))
    with pytest.raises(FeatureMismatch, match=r"colon-00\.h5: encoder not stated instead of toy.* --assume-encoder toy"):
        BagStore(tmp_path, CONTRACT).read(case)
    assert len(BagStore(tmp_path, CONTRACT, assume_encoder="toy").read(case)) == 3
    with pytest.raises(BagError, match="no features of slide colon-01"):
        BagStore(tmp_path).read(Case("colon-01", "p", "normal", ("colon-01",)))


def test_an_empty_bag_is_not_usable() -> None:
    with pytest.raises(BagError, match=r"a: the bag has no instances \(no tissue\)"):
        usable(make_bag("a", np.ones((0, DIMENSION))))
