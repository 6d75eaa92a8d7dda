"""What must hold on a CUDA device; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comel.cohort.classes import Head
from comel.models.base import BagBatch
from comel.models.comel import CoMEL, CoMELOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

HEADS = [Head("a", ("normal", "tumour"), "normal"), Head("b", ("x", "y"), None)]


def model(**options: Any) -> CoMEL:
    torch.manual_seed(0)
    made = CoMEL(48, CoMELOptions(dim=32, num_heads=4, attention_hidden=16, **options), heads=HEADS)
    made.end_task([(BagBatch(torch.randn(1, 9, 48) + column), column) for column in (0, 1, 2, 3) for _ in range(3)])
    return made.eval()


@pytest.mark.parametrize("grouping", ["strided", "region", "spatial"])
def test_a_prediction_is_the_same_as_on_the_cpu(grouping: str) -> None:
    torch.manual_seed(1)
    side = torch.arange(400)
    batch = BagBatch(torch.randn(1, 400, 48), torch.stack([side % 20, side // 20], dim=1).unsqueeze(0) * 256)
    made = model(grouping=grouping)
    with torch.inference_mode():
        here = made(batch)
        there = made.to("cuda")(batch.to("cuda"))
    torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(there.instance_scores.cpu(), here.instance_scores, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_training_step_is_finite(precision: torch.dtype) -> None:
    made = model().to("cuda").train()
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-3, fused=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = made(torch.randn(1, 300, 48, device="cuda"))
        loss = torch.stack(list(made.loss(output, torch.tensor([1], device="cuda")).values())).float().sum()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in made.parameters())


def test_adapters_stay_orthogonal() -> None:
    from peft import get_peft_model

    from comel.owlora import OWLoraConfig, OWLoraModel

    made = model().to("cuda")
    config = OWLoraConfig(r=4, target_modules=list(made.adapter_targets), energy=0.5, tasks=3)
    wrapped = get_peft_model(made.trunk, config, adapter_name="one")
    tuner = wrapped.base_model
    assert isinstance(tuner, OWLoraModel)
    optimizer = torch.optim.Adam([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2, weight_decay=1e-2, fused=True)
    for _ in range(5):
        optimizer.zero_grad()
        made(torch.randn(1, 50, 48, device="cuda")).bag_features.square().mean().backward()
        optimizer.step()
        tuner.retract("one")
    for _, layer in tuner.adapted_layers():
        a = layer.owlora_A["one"].double()
        assert (a @ layer.protected_in.to(a.device)).abs().max() < 1e-5
        assert (a @ a.T - torch.eye(4, device=a.device)).abs().max() < 1e-5
