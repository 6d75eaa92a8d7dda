"""DER++: the logits that are stored, and what they are compared with."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from comel.strategies.derpp import DERpp, DERppOptions
from tests.comel.strategies.tiny import (
    assert_a_killed_run_ends_alike,
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    head_logits,
    learn,
    new_model,
    terms_of,
)


def test_logits_are_those_of_the_model_that_has_learned_the_task() -> None:
    model, strategy = new_model(), DERpp()
    learn(model, strategy, 0)
    first = head_logits(model, 0)
    learn(model, strategy, 1)
    second = head_logits(model, 1)
    kept = [bag.logits for bag in strategy.memory.bags]
    for stored, wanted in zip(kept, [*first, *second], strict=True):
        assert stored is not None
        assert torch.equal(stored, wanted)
        assert not stored.requires_grad
    assert [len(logits) for logits in kept if logits is not None] == [2] * 6 + [4] * 6


def test_taking_logits_leaves_the_models_mode() -> None:
    model, strategy = new_model(1).train(), DERpp()
    strategy.after_task(model, None, bags_of(0))  # type: ignore[arg-type]
    assert model.training
    torch.testing.assert_close(strategy.memory.bags[2].logits, head_logits(model, 0)[2])


def test_the_term_by_hand_over_the_columns_that_existed() -> None:
    model, strategy = new_model(), DERpp(DERppOptions(alpha=0.7, beta=0.4))
    learn(model, strategy, 0)
    learn(model, strategy, 1)
    begin(model, strategy, 2)
    model.eval()
    bag, column = bags_of(2)[0]
    widths = set()
    for _ in range(12):
        stored = copy.deepcopy(strategy.memory).draw()[0]
        assert stored.logits is not None
        output = model(stored.batch(torch.device("cpu")))
        now, before = output.head_logits[0].detach().numpy(), stored.logits.numpy()
        terms = terms_of(model, strategy, bag, column)
        wanted = 0.7 * np.mean((now[: len(before)].astype(np.float64) - before) ** 2)
        assert terms["stored_logits"].item() == pytest.approx(wanted, rel=1e-4, abs=1e-10)
        own = model.loss(output, torch.tensor([stored.column]))
        for name, value in own.items():
            torch.testing.assert_close(terms[f"stored_{name}"], 0.4 * value, rtol=1e-5, atol=1e-7)
        widths.add(len(before))
    assert widths == {2, 4}


def test_columns_that_did_not_exist_take_no_gradient() -> None:
    model, strategy = new_model(), DERpp()
    learn(model, strategy, 0)
    begin(model, strategy, 1)
    term = terms_of(model.train(), strategy, *bags_of(1)[0])["stored_logits"]
    old, new = (torch.autograd.grad(term, model.head_parameters(h)[0], retain_graph=True)[0] for h in (0, 1))
    assert old.any()
    assert not new.any()


def test_logits_drift_less_the_more_they_weigh() -> None:
    drift = []
    for alpha in (0.0, 30.0):
        model, strategy = new_model(), DERpp(DERppOptions(alpha=alpha, beta=0.0))
        learn(model, strategy, 0, epochs=4)
        before = head_logits(model, 0)
        learn(model, strategy, 1, epochs=4)
        drift.append((head_logits(model, 0)[:, :2] - before).abs().mean().item())
    assert drift[0] > 1.3 * drift[1]


def test_the_first_task_replays_nothing() -> None:
    model, strategy = new_model(), DERpp()
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 1)
    assert set(terms_of(model, strategy, *bags_of(0)[0])) == {"ce", "bppl", "instance"}


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(lambda: DERpp(DERppOptions(bags=7)), tmp_path)


def test_options_are_checked() -> None:
    assert (DERppOptions().alpha, DERppOptions().beta, DERppOptions().bags) == (3.0, 1.0, 30)
    for wrong in ({"alpha": -1}, {"gamma": 1}):
        with pytest.raises(ValidationError):
            DERppOptions(**wrong)


def test_killed_anywhere_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run over files, killed inside the second stage, and a task added to it; as if never killed."""
    assert_a_killed_run_ends_alike({"name": "derpp", "bags": 5}, "comel.strategies.derpp:DERpp", tmp_path, monkeypatch)
    (kept,) = {path.stat().st_size for path in tmp_path.glob("*/versions/003/reservoir.safetensors")}
    assert kept > 0
