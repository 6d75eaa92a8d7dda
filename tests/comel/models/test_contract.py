"""What every model keeps to: shapes, ranges, masks, growing heads, persistence, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import comel
from comel.bags.bag import read_bag
from comel.base.registry import resolve_name
from comel.cohort.classes import Head
from comel.models import MODELS
from comel.models.base import BagBatch, settings_of
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from comel.runs.weights import build_model, load_state, save_state
from comel.strategies.base import Strategy
from comel.strategies.linears import adapted_linears, input_grams
from tests.comel.models.zoo import BREAST, COLON, FEATURES, LUNG, NAMES, REGISTRY, SMALL, bag, make, padded
from tests.comel.toys import FINETUNE, OWLORA, TASKS, Stream

SETS = ["mean", "max", "abmil", "clam-sb", "clam-mb", "dsmil"]
EVERY = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in REGISTRY.items():
        monkeypatch.setitem(MODELS, name, place)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@EVERY
@pytest.mark.parametrize("heads", [(BREAST,), (BREAST, LUNG, COLON)], ids=["one", "three"])
@pytest.mark.parametrize("sizes", [(5, 1, 12), (40,)], ids=["small", "larger"])
def test_shapes_and_ranges(name: str, heads: tuple[Head, ...], sizes: tuple[int, ...]) -> None:
    model, bags, classes = make(name, *heads), padded(*sizes), sum(len(head.labels) for head in heads)
    output = model(bags)
    b, m = bags.features.shape[:2]
    assert bags.mask is not None
    assert output.logits is output.head_logits
    assert output.logits.shape == (b, classes)
    assert output.instance_scores.shape == (b, m, classes)
    assert output.attention.shape == (b, m)
    assert output.bag_features.shape[0] == b
    assert output.instance_features.shape[:2] == (b, m)
    assert output.instance_logits is None or output.instance_logits.shape == (b, m, classes)
    close(output.attention.sum(dim=1), torch.ones(b, dtype=torch.float64))
    assert (output.attention >= 0).all()
    assert (output.attention[~bags.mask] == 0).all()
    assert (output.instance_scores >= 0).all()
    assert (output.instance_scores <= 1 + 1e-12).all()
    assert (output.instance_scores[~bags.mask] == 0).all()
    for number in range(len(heads)):
        for given in (True, False):
            evidence = model.evidence(model.with_task(output, number) if given else output, number)
            assert evidence.shape == (b, m)
            assert (evidence >= 0).all()
            assert (evidence <= 1).all()


@EVERY
def test_padding_does_not_matter(name: str) -> None:
    model, sizes = make(name, BREAST, COLON), (1, 2, 3, 7, 33)
    bags = padded(*sizes)
    assert bags.mask is not None
    together, labels = model(bags), torch.tensor([0, 1, 2, 3, 4])
    alone = [model(bag(size, seed=b)) for b, size in enumerate(sizes)]
    for b, single in enumerate(alone):
        real = bags.mask[b]
        close(together.logits[b], single.logits[0])
        close(together.bag_features[b], single.bag_features[0])
        for part in ("attention", "instance_scores", "instance_features"):
            close(getattr(together, part)[b, real], getattr(single, part)[0])
    losses = [model.loss(single, labels[b : b + 1]) for b, single in enumerate(alone)]
    for term, value in model.loss(together, labels).items():
        close(value, torch.stack([loss[term] for loss in losses]).mean())


@pytest.mark.parametrize("name", SETS)
def test_the_order_of_instances_does_not_matter(name: str) -> None:
    model, x, order = make(name, BREAST, LUNG), bag(11), torch.randperm(11, generator=torch.Generator().manual_seed(3))
    output, shuffled = model(x), model(x[:, order])
    close(shuffled.logits, output.logits)
    close(shuffled.bag_features, output.bag_features)
    close(shuffled.attention, output.attention[:, order])
    close(shuffled.instance_scores, output.instance_scores[:, order])


@EVERY
def test_a_new_head_leaves_the_old_logits_alone(name: str) -> None:
    model, x = make(name, BREAST, LUNG), bag(9)
    before, weights = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    model.add_head(COLON)
    torch.testing.assert_close(model(x).logits[:, :4], before.logits, rtol=0, atol=1e-13)
    for key, value in weights.items():
        if key != "temperature":
            assert torch.equal(model.state_dict()[key], value)
    new = dict(model.heads[2].named_parameters())
    assert all((value == 0).all() for key, value in new.items() if key.endswith("bias"))
    assert all(value.dtype == torch.float64 and (value != 0).any() for key, value in new.items() if key.endswith("weight"))


@EVERY
def test_every_parameter_is_the_trunks_or_one_heads(name: str) -> None:
    model = make(name, BREAST, LUNG)
    parts = [list(model.trunk.parameters()), model.head_parameters(0), model.head_parameters(1)]
    ids = [id(parameter) for part in parts for parameter in part]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.parameters()}


@EVERY
@pytest.mark.parametrize("over", ["task", "seen"])
def test_the_loss_over_a_task_leaves_other_heads_alone(name: str, over: Any) -> None:
    model = make(name, BREAST, LUNG)
    sum(model.loss(model(bag(9)), torch.tensor([3]), over=over).values()).backward()
    grads = [parameter.grad for parameter in model.head_parameters(0)]
    assert any(grad is not None and (grad != 0).any() for grad in grads) == (over == "seen")
    own = [parameter.grad for parameter in model.head_parameters(1)]
    assert any(grad is not None and (grad != 0).any() for grad in own)


@EVERY
@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiny_bags_train(name: str, count: int) -> None:
    model = make(name, BREAST, LUNG).train()
    for label in range(4):
        model.zero_grad()
        terms = model.loss(model(bag(count)), torch.tensor([label]))
        assert all(torch.isfinite(value) for value in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def toy_bags() -> list[tuple[torch.Tensor, int]]:
    """Twelve bags; a third of the instances of a tumour's are shifted."""
    bags = []
    for seed in range(12):
        x = bag(9, seed)
        x[:, : 3 * (seed % 2), :2] += 4
        bags.append((x, seed % 2))
    return bags


@EVERY
def test_training_learns(name: str) -> None:
    model, bags = make(name, BREAST), toy_bags()

    def total(x: torch.Tensor, label: int) -> torch.Tensor:
        return torch.stack(list(model.loss(model(x), torch.tensor([label])).values())).sum()

    with torch.no_grad():
        before = sum(total(x, label).item() for x, label in bags)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(25):
        for x, label in bags:
            optimizer.zero_grad()
            total(x, label).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        assert sum(total(x, label).item() for x, label in bags) < 0.5 * before
        assert all(model(x).logits[0].argmax().item() == label for x, label in bags)


@EVERY
def test_dropout_is_for_training_only(name: str) -> None:
    model, x = make(name, BREAST), bag(20)
    assert torch.equal(model(x).logits, model(x).logits)
    model.train()
    assert not torch.equal(model(x).logits, model(x).logits)


@EVERY
def test_a_bag_that_is_surely_normal_stays_dark(name: str) -> None:
    model = make(name, BREAST, COLON)
    with torch.no_grad():
        for layer in model.heads[0].modules():
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                layer.weight.zero_()
                layer.bias.copy_(torch.tensor([60.0, 0.0]))
    output = model(bag(9))
    assert model.probabilities(output)[0, 0] > 1 - 1e-12
    for head, given in ((0, True), (0, False), (1, False)):
        assert (model.evidence(model.with_task(output, head) if given else output, head) < 1e-12).all()


@EVERY
def test_a_given_task_counts_however_unlikely_it_seems(name: str) -> None:
    model = make(name, BREAST, LUNG)
    expected = model.evidence(model.with_task(model(bag(9)), 1), 1)
    with torch.no_grad():  # the same for both classes of the head, so that nothing changes within it
        for layer in model.heads[1].modules():
            if isinstance(layer, nn.Linear) and layer.bias is not None and layer.bias.shape == (2,):
                layer.bias.sub_(400)
    output = model(bag(9))
    assert (model.probabilities(output)[:, 2:] < 1e-100).all()
    assert (model.evidence(output, 1) < 1e-100).all()
    close(model.evidence(model.with_task(output, 1), 1), expected)
    assert expected.amax() > 0.05


@EVERY
def test_state_is_written_and_read(name: str, tmp_path: Path) -> None:
    model, x = make(name, BREAST, LUNG).float(), bag(9).float()
    with torch.no_grad():  # not what a fresh model of the same seed would have
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_state(tmp_path, model, Strategy())
    again = build_model({"name": name, **settings_of(model)})
    load_state(tmp_path, again)
    assert type(again) is type(model)
    expected, found = model(x), again.eval()(x)
    for part in ("logits", "attention", "instance_scores", "bag_features"):
        assert torch.equal(getattr(found, part), getattr(expected, part))


@EVERY
def test_adapters_find_layers_that_see_every_bag(name: str) -> None:
    model = make(name, BREAST)
    layers = adapted_linears(model)
    assert {layer.rpartition(".")[2] for layer in layers} == set(model.adapter_targets) - ({"u"} if name == "abmil" else set())
    grams = input_grams(model, layers, [(BagBatch(bag(9)), 0), (padded(5), 1)])
    assert all(torch.trace(gram) > 0 for gram in grams.values())


@EVERY
def test_adapters_find_the_same_whatever_slices_a_bag_is_computed_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, bags = make(name, BREAST), [(BagBatch(bag(9)), 0), (BagBatch(bag(13, 1)), 1)]
    layers = adapted_linears(model)
    whole = input_grams(model, layers, bags)
    monkeypatch.setattr("comel.nn.block._ROWS_AT_ONCE", 4)
    for layer, gram in input_grams(model, layers, bags).items():
        torch.testing.assert_close(gram, whole[layer], rtol=1e-5, atol=1e-6)


@EVERY
def test_half_precision_training_step_is_finite(name: str) -> None:
    model = make(name, BREAST, LUNG).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        for bags in (BagBatch(bag(40).float()), BagBatch(padded(7).features.float(), None, padded(7).mask)):
            terms = model.loss(model(bags), torch.tensor([3]))
            torch.stack([value.float() for value in terms.values()]).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@EVERY
def test_unknown_options_and_defaults(name: str) -> None:
    kind = resolve_name(name, REGISTRY, "comel.models")
    assert kind.Options().dim == 512
    with pytest.raises(ValidationError, match="extra"):
        kind.Options(widht=3)
    if "num_heads" in SMALL[name]:
        with pytest.raises(ValidationError, match="dim 20 is not a multiple of 8 heads"):
            kind.Options(dim=20)
    model = kind(FEATURES)
    assert not model.heads
    assert len(model.classes) == 0


@pytest.mark.parametrize(
    ("name", "strategy"), [("abmil", FINETUNE), ("dsmil", FINETUNE), ("clam-mb", OWLORA), ("transmil", OWLORA)]
)
def test_a_run_from_training_to_prediction(name: str, strategy: dict[str, Any], toy_stream: Stream, tmp_path: Path) -> None:
    settings = toy_stream.settings(strategy, tasks=TASKS[:2], epochs=8, lr=3e-3)
    settings["model"] = {"name": name, "dim": 32, **SMALL[name], **({"attention_hidden": 16} if name == "clam-mb" else {})}
    run = comel.train(settings, tmp_path / "run", quiet=True)
    assert RunDirectory(run).versions() == [1, 2]
    predictor = Predictor.open(run, device="cpu")
    for slide in toy_stream.slides(task="kidney", split="train"):
        prediction = predictor.predict(read_bag(toy_stream.bag(slide)), task="kidney")
        assert prediction.label in slide_labels(toy_stream, slide)
        assert prediction.probabilities is not None
        assert prediction.instance_scores is not None
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)
        assert prediction.instance_scores.max() <= max(prediction.probabilities[3], 1e-6) + 1e-6


def slide_labels(stream: Stream, slide: str) -> list[str]:
    return [row["label"] for row in stream.rows if row["slide_id"] == slide]
