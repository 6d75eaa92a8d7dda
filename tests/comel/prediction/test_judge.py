"""The judge: to the bit what the model's contract says step by step, for every model, with the task unknown and given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import comel
from comel.bags.bag import Bag, read_bag
from comel.cohort.bags import BagStore
from comel.cohort.config import DataConfig
from comel.cohort.tasks import load_tasks, read_cohort
from comel.errors import ConfigError, FeatureMismatch, RunError
from comel.models import MODELS
from comel.models.base import MILModel
from comel.models.batch import make_batch
from comel.prediction.judge import Judge, View
from comel.prediction.prediction import NO_PLACES
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from comel.runs.weights import build_model, load_state
from comel.scoring.evaluate import evaluate_cases
from tests.comel.models.zoo import SMALL
from tests.comel.toys import CONTRACT, DIMENSION, FINETUNE, MODEL, TASKS, Stream, features_of, make_bag, write_stream

CPU = torch.device("cpu")
MODELS_OF = {"comel": MODEL, **{name: {"name": name, "dim": 16, **SMALL[name]} for name in MODELS if name != "comel"}}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return write_stream(tmp_path_factory.mktemp("small"), ("colon", "kidney"), slides=8)


@pytest.fixture(scope="module", params=sorted(MODELS_OF))
def run(request: pytest.FixtureRequest, stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, trained enough to have temperatures and thresholds of their own."""
    settings = stream.settings(FINETUNE, epochs=2) | {"model": MODELS_OF[request.param]}
    return comel.train(settings, tmp_path_factory.mktemp(request.param) / "run", quiet=True)


@pytest.fixture(scope="module")
def domains(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One head for both tasks."""
    settings = stream.settings(FINETUNE, epochs=2)
    settings["data"] = {**settings["data"], "mode": "domain-incremental"}
    return comel.train(settings, tmp_path_factory.mktemp("domains") / "run", quiet=True)


def opened(run: Path) -> tuple[MILModel, Judge]:
    """The model by itself, and a judge over the same weights."""
    directory = RunDirectory(run)
    info = directory.info()
    model = build_model(info.model)
    load_state(directory.version_folder(), model)
    return model.eval(), Judge.open(directory, info, "cpu")


def some_bags() -> Iterator[Bag]:
    """Known and unknown organs, a single tile, and a bag whose file states no coordinates."""
    for seed, task in enumerate(TASKS):
        for label, size in (("normal", 14), ("tumour", 20), ("tumour", 1)):
            features, labels = features_of(task, label, np.random.default_rng(seed), size)
            yield make_bag(f"{task}-{label}-{size}", features, labels)
    yield replace(make_bag("nowhere", np.ones((5, DIMENSION))), coords=None, geometry=None)


def as_bytes(value: Any) -> Any:
    """Floats and arrays as their bytes, so that equal means equal to the last bit."""
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    return value.hex() if isinstance(value, float) else value


def seen(view: View) -> dict[str, Any]:
    names = ("head", "column", "probabilities", "scores", "distance", "by_class")
    return {name: as_bytes(getattr(view, name)) for name in names}


@torch.inference_mode()
def step_by_step(model: MILModel, bag: Bag, head: int | None) -> dict[str, Any]:
    """The model's contract called in the order in which version 0.1.0 called it where it predicted a bag."""
    batch = make_batch(bag, CPU)
    output = model(batch)
    distance = model.distance(batch, head)
    probabilities = model.probabilities(output, head)[0]
    if head is not None:
        output = model.with_task(output, head)
    column = int(probabilities.argmax())
    chosen = model.classes.head_of(column)
    by_class = output.instance_scores[0].clamp(0, 1).mul(255).round().byte()
    found = {
        "head": chosen,
        "column": column,
        "probabilities": probabilities.double(),
        "scores": model.evidence(output, chosen)[0].float(),
        "distance": None if distance is None else float(distance[0]),
        "by_class": by_class if by_class.shape[1] == len(probabilities) else None,
    }
    return {name: as_bytes(value) for name, value in found.items()}


def test_a_look_is_to_the_bit_what_the_model_says(run: Path) -> None:
    model, judge = opened(run)
    for bag in some_bags():
        look = judge.look(bag)
        assert look is not None
        assert seen(look.free()) == step_by_step(model, bag, None), bag.slide_id
        for head in (0, 1):
            view = look.given(head)
            assert seen(view) == step_by_step(model, bag, head), bag.slide_id
            assert view.head == head
        with torch.inference_mode():
            assert as_bytes(look.logits) == as_bytes(model(make_batch(bag, CPU)).head_logits[0].double())


def test_evaluation_and_prediction_say_the_same_to_the_bit(run: Path, stream: Stream) -> None:
    predictor, (model, judge) = Predictor.open(run, device="cpu"), opened(run)
    store = BagStore(stream.bags, CONTRACT)
    data = DataConfig(manifest=stream.manifest, bags=stream.bags)
    for head, task in enumerate(load_tasks(read_cohort(data), data)):
        cases = [*task.val, *task.test]
        results = evaluate_cases(judge, task, head, cases, store)
        assert [result.case for result in results] == cases
        for result in results:
            bag = read_bag(stream.bag(result.case.slides[0]))
            free, given = predictor.predict(bag), predictor.predict(bag, task=task.name)
            assert as_bytes(result.probabilities) == as_bytes(free.probabilities)
            assert as_bytes(result.scores) == as_bytes(free.instance_scores)
            assert as_bytes(result.within) == as_bytes(given.probabilities)
            assert as_bytes(result.scores_given) == as_bytes(given.instance_scores)
            with torch.inference_mode():
                logits = model(make_batch(bag, CPU)).head_logits[0].double().numpy()
            assert as_bytes(result.head_logits) == as_bytes(logits[model.classes.columns(head)])
            assert as_bytes(result.labels) == as_bytes(np.asarray(bag.labels))
            with torch.inference_mode():
                distance = model.distance(make_batch(bag, CPU))
            assert as_bytes(result.distance) == as_bytes(None if distance is None else float(distance[0]))


def test_one_forward_pass_answers_both_questions(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = opened(run)
    calls: list[Any] = []
    forward = model.forward

    def counted(bags: Any) -> Any:
        calls.append(bags)
        return forward(bags)

    monkeypatch.setattr(model, "forward", counted)
    model.train()  # a judge never looks with dropout on
    judge = Judge(model, CONTRACT, CPU)
    bag = next(some_bags())
    first, second = judge.look(bag), judge.look(bag)
    assert first is not None
    assert second is not None
    assert [seen(first.free()), seen(first.given(1)), seen(first.given(0))] == [
        seen(second.free()),
        seen(second.given(1)),
        seen(second.given(0)),
    ]
    assert len(calls) == 2


def test_a_given_task_is_what_the_distance_is_measured_to(toy_run: Path) -> None:
    """Of no kind at all, or not of the kind that was named: which of the two is said depends on the question."""
    _, judge = opened(toy_run)
    threshold = RunDirectory(toy_run).info().distance_threshold
    assert threshold is not None
    for organ, own, other in (("colon", 0, 1), ("kidney", 1, 0)):
        for seed in range(5):
            features, _ = features_of(organ, "tumour", np.random.default_rng(seed), 20)
            look = judge.look(make_bag("x", features))
            assert look is not None
            distances = [view.distance for view in (look.free(), look.given(own), look.given(other))]
            assert None not in distances
            free, right, wrong = (float(value or 0) for value in distances)
            assert free == min(right, wrong) == right  # the nearest class of all is one of its own organ
            assert wrong > threshold, "a slide of another organ than the named one is flagged, though the organ is known"


def test_one_head_has_one_distance(domains: Path) -> None:
    """In a domain-incremental run a named task has no classes of its own, so nothing changes but the name."""
    predictor = Predictor.open(domains, device="cpu")
    for bag in some_bags():
        free, named = predictor.predict(bag), predictor.predict(bag, task="kidney")
        assert free.mode == named.mode == "domain-incremental"
        assert free.out_of_distribution == named.out_of_distribution
        assert as_bytes(free.probabilities) == as_bytes(named.probabilities)
        assert as_bytes(free.instance_scores) == as_bytes(named.instance_scores)


def test_a_bag_without_instances_is_not_looked_at(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, judge = opened(run)
    monkeypatch.setattr(judge.model, "forward", lambda bags: pytest.fail("the model was run"))
    assert judge.look(make_bag("empty", np.empty((0, DIMENSION)))) is None
    assert len(model.classes) == 4


def test_a_bag_made_otherwise_is_refused_whether_or_not_it_holds_anything(run: Path) -> None:
    _, judge = opened(run)
    for size in (0, 3):
        bag = make_bag("other", np.zeros((size, DIMENSION)), contract=replace(CONTRACT, encoder="uni"))
        with pytest.raises(FeatureMismatch, match="other: encoder uni instead of toy"):
            judge.look(bag)


def test_what_cannot_be_opened(toy_run: Path, tmp_path: Path) -> None:
    import shutil

    directory = RunDirectory(Path(shutil.copytree(toy_run, tmp_path / "run")))
    info = directory.info()
    with pytest.raises(ConfigError, match="no device 'nowhere'"):
        Judge.open(directory, info, "nowhere")
    path = directory.version_folder() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunError, match=r"model\.safetensors: missing or changed since it was written"):
        Judge.open(directory, info, "cpu")


def test_a_bag_without_coordinates_gets_a_note_if_the_model_looks_at_places(stream: Stream, tmp_path: Path) -> None:
    run, bag = tmp_path / "run", read_bag(stream.bag("colon-00"))
    comel.train(stream.settings(epochs=1), run, quiet=True)
    predictor, nowhere = Predictor.open(run), replace(bag, coords=None, geometry=None)
    assert NO_PLACES not in predictor.predict(bag).notes
    assert NO_PLACES in predictor.predict(nowhere).notes
    assert all(NO_PLACES in each.notes for each in predictor.predict_case("both", [bag, replace(nowhere, slide_id="other")]))
