"""What a head says of a bag of its task stays the same, to the bit, whatever is learned later."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import comel
from comel.bags.bag import read_bag
from comel.models.batch import make_batch
from comel.runs.directory import RunDirectory
from comel.runs.weights import build_model, load_state
from tests.comel.toys import FINETUNE, OWLORA, Stream, write_stream


@pytest.mark.parametrize("strategy", [OWLORA, FINETUNE], ids=["owlora", "finetune"])
def test_the_first_tasks_logits_are_those_of_its_own_version(strategy: dict[str, object], tmp_path: Path) -> None:
    stream: Stream = write_stream(tmp_path / "stream", ("colon", "kidney"))
    run = RunDirectory(comel.train(stream.settings(strategy, epochs=2), tmp_path / "run", quiet=True))
    models = []
    for version in (1, 2):
        model = build_model(run.info(version).model)
        load_state(run.version_folder(version), model)
        models.append(model.eval())
    for slide in stream.slides(task="colon", split="test"):
        with torch.inference_mode():
            first, second = (model(make_batch(read_bag(stream.bag(slide)), torch.device("cpu"))) for model in models)
        assert first.head_logits.abs().max() > 0.1
        assert torch.equal(first.head_logits, second.head_logits[:, :2])
        assert first.instance_logits is not None
        assert second.instance_logits is not None
        assert torch.equal(first.instance_logits, second.instance_logits[..., :2])
