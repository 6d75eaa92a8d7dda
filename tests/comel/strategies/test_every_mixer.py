"""Every mixer under every strategy: two tasks are learned, the state is written and read, and the third begins the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from comel.nn.mixers import MIXERS
from comel.runs.weights import load_state, save_state
from comel.strategies import STRATEGIES, strategy_class
from comel.strategies.base import Strategy
from tests.comel.strategies.tiny import bags_of, learn, new_model, trunk_of

OPTIONS: dict[str, dict[str, Any]] = {
    "owlora": {"rank": 2, "tasks": 2},
    "inflora": {"rank": 2, "tasks": 2},
    "lora": {"rank": 2},
    "conslide": {"bags": 3, "region_side": 2},
}
MIXING: dict[str, dict[str, Any]] = {"dlgsanet": {"kernel_groups": 4}}
SLOWER = sorted(set(MIXERS) - {"hilo", "catanet"})  # two of them, one with a state of its own, are tried in any case
CONTINUAL = sorted(set(STRATEGIES) - {"joint"})


def made(strategy: str) -> Strategy:
    kind = strategy_class(strategy)
    found: Strategy = kind(kind.Options(**OPTIONS.get(strategy, {})))
    return found


@pytest.mark.parametrize("strategy", CONTINUAL)
@pytest.mark.parametrize("mixer", ["catanet", "hilo", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_learns_two_tasks_and_is_written_and_read(mixer: str, strategy: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"mixer": (mixer,), "mixer_options": {mixer: MIXING[mixer]} if mixer in MIXING else {}}
    if mixer != "gdat":
        options["region_size"] = 16
    model, its = new_model(**options), made(strategy)
    before = trunk_of(model)
    learn(model, its, 0, epochs=1)
    after_first = trunk_of(model)
    assert (after_first != before).any()
    learn(model, its, 1, epochs=1)
    after_second = trunk_of(model)  # of OWLoRA's adapters too
    assert after_second.shape != after_first.shape or (after_second != after_first).any()
    save_state(tmp_path, model, its)
    again, read = new_model(2, **options), made(strategy)
    load_state(tmp_path, again, read)
    bag, _ = bags_of(1)[0]
    with torch.no_grad():
        found, expected = again.eval()(bag), model.eval()(bag)
    assert torch.isfinite(expected.logits).all()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    # The same weights at other addresses may be summed in another order.
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.instance_scores, expected.instance_scores, rtol=1e-5, atol=1e-6)
