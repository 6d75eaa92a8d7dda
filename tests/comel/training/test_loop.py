"""The training loop: what an epoch reports is what its steps gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from comel.cohort.bags import BagStore
from comel.cohort.config import DataConfig
from comel.cohort.tasks import load_tasks, read_cohort
from comel.models.comel import CoMEL, CoMELOptions
from comel.runs.config import TrainerConfig
from comel.strategies.base import Stage
from comel.strategies.finetune import Finetune
from comel.training.loop import EpochReport, StageCases, begin_stage, make_optimizer, train_stage
from tests.comel.toys import DIMENSION, MODEL, Stream, write_stream

EPOCHS = 3


class Watched(Finetune):
    """Notes the terms of every step, and adds one of its own now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Tensor]] = []

    def loss(self, *arguments: Any) -> dict[str, Tensor]:
        terms = super().loss(*arguments)
        if len(self.steps) % 3 == 1:
            terms["rare"] = terms["ce"].double() / 3
        if len(self.steps) % 2:
            terms["half"] = terms["ce"].bfloat16()
        self.steps.append(terms)
        return terms


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return write_stream(tmp_path / "stream", ("colon",), slides=16)


def trained(stream: Stream, strategy: Finetune) -> tuple[list[EpochReport], int]:
    """What a stage reports, and how many bags it has."""
    data, config = DataConfig(manifest=stream.manifest, bags=stream.bags), TrainerConfig(epochs=EPOCHS, lr=1e-3)
    tasks = load_tasks(read_cohort(data), data)
    torch.manual_seed(0)
    options = CoMELOptions.model_validate({key: value for key, value in MODEL.items() if key != "name"})
    model = CoMEL(DIMENSION, options, heads=[tasks[0].head])
    stage = Stage(0, tuple(tasks), (0,))
    bags = StageCases(BagStore(stream.bags), stage, model, torch.device("cpu"))
    begin_stage(model, strategy, stage, bags, config)
    reports: list[EpochReport] = []
    optimizer = make_optimizer(model, strategy, stage, config)
    train_stage(model, strategy, stage, bags, optimizer, config, after_epoch=reports.append)
    return reports, len(bags)


def test_the_losses_of_an_epoch_are_the_means_of_its_steps_to_the_last_digit(stream: Stream) -> None:
    """As if each number were read and added up in double precision; a term that a step does not have counts as 0."""
    strategy = Watched()
    reports, bags = trained(stream, strategy)
    assert len(strategy.steps) == bags * EPOCHS == 24
    for epoch, report in enumerate(reports):
        sums: dict[str, float] = {}
        for terms in strategy.steps[bags * epoch : bags * (epoch + 1)]:
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        assert report.losses == {name: value / bags for name, value in sums.items()}
        assert report.losses.keys() == {"ce", "bppl", "instance", "rare", "half"}


def test_no_loss_is_read_back_before_the_epoch_is_over(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a number waits for the device, so the loop adds losses up where they are."""

    def item(tensor: Tensor, original: Any = Tensor.item) -> Any:
        assert tensor.grad_fn is None, "a loss of a step was read"
        return original(tensor)

    monkeypatch.setattr(Tensor, "item", item)
    assert len(trained(stream, Finetune())[0]) == EPOCHS
