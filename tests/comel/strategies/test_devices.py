"""What strategies keep follows the model to its device, and into a folder and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comel.models.base import BagBatch
from comel.runs.weights import load_state, save_state
from comel.strategies.agem import AGEM
from comel.strategies.base import Strategy
from comel.strategies.conslide import ConSlide
from comel.strategies.derpp import DERpp
from comel.strategies.er import ER
from comel.strategies.er_ace import ERACE
from comel.strategies.ewc import EWC
from comel.strategies.lwf import LwF
from comel.training.loop import begin_stage, make_optimizer, total
from tests.comel.strategies.tiny import CONFIG, HEADS, bags_of, new_model, stage_of

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")],
)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("kind", [EWC, LwF, ER, ERACE, DERpp, AGEM, ConSlide])
def test_a_stream_goes_on_from_a_folder_on_the_models_device(kind: type[Strategy], device: str, tmp_path: Path) -> None:
    model, strategy = new_model(), kind()
    for index in range(3):
        bags: list[tuple[BagBatch, int]] = [(bag.to(device), column) for bag, column in bags_of(index)]
        model.add_head(HEADS[index])
        model.to(device)
        begin_stage(model, strategy, stage_of(index), bags, CONFIG)  # type: ignore[arg-type]
        optimizer = make_optimizer(model, strategy, stage_of(index), CONFIG)
        for bag, column in bags:
            with torch.autocast(device, torch.bfloat16, enabled=index == 2):
                terms = strategy.loss(model.train(), bag, model(bag), torch.tensor([column], device=device))
            assert all(term.device.type == device and torch.isfinite(term) for term in terms.values())
            optimizer.zero_grad()
            total(terms).backward()
            strategy.after_backward(model)
            optimizer.step()
        assert len(terms) == 3 or (index > 0 and kind is not AGEM)
        strategy.after_task(model.eval(), stage_of(index), bags)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        save_state(tmp_path / str(index), model, strategy)
        model, strategy = new_model(index + 1), kind()
        load_state(tmp_path / str(index), model, strategy)
