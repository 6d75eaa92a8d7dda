"""The CoMEL model under its contract: shapes, probabilities, instance scores, loss terms."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from comel.cohort.classes import Head
from comel.errors import ConfigError
from comel.models.base import BagBatch, settings_of
from comel.models.comel import CoMEL, CoMELOptions
from comel.nn.bppl import bppl_loss, pseudo_labels, reachable_threshold, scaled_attention

BREAST = Head("breast", ("normal", "tumour"), "normal")
LUNG = Head("lung", ("adeno", "squamous"), None)
COLON = Head("colon", ("low", "high", "normal"), "normal")
DIM, FEATURES = 16, 6


def make(*heads: Head, seed: int = 0, **options: Any) -> CoMEL:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"dim": DIM, "blocks": 1, "num_heads": 4, "attention_hidden": 8, "region_size": 3, **options}
    return CoMEL(FEATURES, CoMELOptions(**settings), heads).double().eval()


def linear(module: Any) -> nn.Linear:
    """A part of a model that is a linear layer."""
    assert isinstance(module, nn.Linear)
    return module


def bags_of(column: int, number: int = 6, count: int = 5) -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(column)
    place = torch.randn(FEATURES, generator=generator) * 3
    return [(place + torch.randn(count, FEATURES, generator=generator), column) for _ in range(number)]


def line_of(count: int) -> Tensor:
    """Coordinates (1, count, 2) of tiles far apart, none beside another."""
    return torch.stack([torch.arange(count) ** 2, torch.arange(count) ** 2], dim=1).unsqueeze(0) * 256


def taught(*heads: Head, **options: Any) -> CoMEL:
    """A model that has seen bags of all its heads, one task after another."""
    model = make(**options)
    for head in heads:
        model.add_head(head)
        columns = model.classes.columns(len(model.classes.heads) - 1)
        seen = [bag for column in range(columns.start, columns.stop) for bag in bags_of(column)]
        model.double().end_task([(BagBatch(x.double().unsqueeze(0), line_of(len(x))), column) for x, column in seen])
    return model.double().eval()


def batch(*sizes: int, seed: int = 0) -> BagBatch:
    """Bags of these sizes side by side, padded with large numbers at the end."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(sizes)
    features = torch.full((len(sizes), longest, FEATURES), 9.0, dtype=torch.float64)
    mask = torch.zeros(len(sizes), longest, dtype=torch.bool)
    coords = torch.stack([torch.arange(longest) % 5, torch.arange(longest) // 5], dim=1).expand(len(sizes), -1, -1) * 256
    for b, size in enumerate(sizes):
        features[b, :size], mask[b, :size] = torch.randn(size, FEATURES, dtype=torch.float64, generator=generator), True
    return BagBatch(features, coords, mask)


OPTIONS = [
    {"instance": instance, "recognition": recognition}
    for instance in ("classifier", "attention")
    for recognition in ("statistics", "none")
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("heads", [(BREAST,), (BREAST, LUNG, COLON)], ids=["one", "three"])
def test_output_keeps_the_contract(options: dict[str, object], heads: tuple[Head, ...]) -> None:
    model, bags = taught(*heads, **options), batch(5, 1, 12)
    output, classes = model(bags), sum(len(head.labels) for head in heads)
    assert output.logits.shape == output.head_logits.shape == (3, classes)
    assert output.attention.shape == (3, 12)
    assert bags.mask is not None
    assert (output.instance_scores[~bags.mask] == 0).all()
    assert output.instance_scores.shape == (3, 12, classes)
    assert output.bag_features.shape == (3, DIM)
    assert output.instance_features.shape == (3, 12, DIM)
    assert (output.instance_logits is not None) == (options["instance"] == "classifier")
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(model.probabilities(output).sum(dim=1), ones)
    torch.testing.assert_close(output.attention.sum(dim=1), ones)
    assert (output.instance_scores >= 0).all()
    assert (output.instance_scores <= 1).all()
    for number in range(len(heads)):
        within = model.probabilities(output, number)
        columns = model.classes.columns(number)
        torch.testing.assert_close(within[:, columns].sum(dim=1), ones)
        torch.testing.assert_close(within.sum(dim=1), ones)
        for known in (True, False):
            evidence = model.evidence(model.with_task(output, number) if known else output, number)
            assert evidence.shape == (3, 12)
            assert (evidence >= 0).all()
            assert (evidence <= 1).all()


def test_a_bare_tensor_is_a_batch() -> None:
    model, x = taught(BREAST, LUNG), torch.randn(2, 7, FEATURES, dtype=torch.float64)
    assert torch.equal(model(x).logits, model(BagBatch(x)).logits)


@pytest.mark.parametrize("options", [*OPTIONS, {"grouping": "spatial"}, {"grouping": "region", "pad": "published"}], ids=str)
def test_a_padded_batch_equals_its_single_bags(options: dict[str, object]) -> None:
    model, bags, sizes = taught(BREAST, COLON, **options), batch(5, 1, 12), (5, 1, 12)
    together = model(bags)
    assert bags.coords is not None
    for b, size in enumerate(sizes):
        alone = model(BagBatch(bags.features[b : b + 1, :size], bags.coords[b : b + 1, :size]))
        torch.testing.assert_close(together.logits[b], alone.logits[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.bag_features[b], alone.bag_features[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(together.attention[b, :size], alone.attention[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(together.instance_scores[b, :size], alone.instance_scores[0], rtol=0, atol=1e-9)
        for number, known in ((0, True), (1, False), (1, True)):
            found = model.evidence(model.with_task(together, number) if known else together, number)[b, :size]
            expected = model.evidence(model.with_task(alone, number) if known else alone, number)[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        label = torch.tensor([1])
        one = model.loss(alone, label)
        single = dataclasses.replace(
            together,
            **{
                f.name: getattr(together, f.name)[b : b + 1]
                for f in dataclasses.fields(together)
                if getattr(together, f.name) is not None
            },
        )
        for name, value in model.loss(single, label).items():
            torch.testing.assert_close(value, one[name], rtol=1e-8, atol=1e-9)


def test_a_new_head_leaves_old_columns() -> None:
    model, x = taught(BREAST, LUNG), torch.randn(3, 7, FEATURES, dtype=torch.float64)
    before = model(x)
    model.add_head(COLON)
    after = model.double().eval()(x)
    assert torch.equal(after.head_logits[:, :4], before.head_logits)
    # a head that nothing is known of yet takes no probability from the others
    torch.testing.assert_close(model.probabilities(after)[:, :4], model.probabilities(before))
    assert (model.probabilities(after)[:, 4:] < 1e-12).all()
    ours = {id(p) for number in range(3) for p in model.head_parameters(number)}
    assert ours | {id(p) for p in model.trunk.parameters()} == {id(p) for p in model.parameters()}


def test_heads_are_combined_as_task_times_class() -> None:
    model, x = taught(BREAST, LUNG, COLON), torch.randn(4, 7, FEATURES, dtype=torch.float64)
    output = model(x)
    assert model.recognition is not None
    columns = [slice(0, 2), slice(2, 4), slice(4, 7)]
    task = model.recognition.log_task(x, None, columns).exp()
    for number, part in enumerate(columns):
        expected = task[:, number : number + 1] * output.head_logits[:, part].softmax(dim=1)
        torch.testing.assert_close(model.probabilities(output)[:, part], expected, rtol=0, atol=1e-12)
    plain = taught(BREAST, LUNG, COLON, recognition="none")(x)
    assert plain.logits is plain.head_logits


def test_a_bag_is_judged_by_its_strongest_instances_and_the_pooled_head_on_one_scale() -> None:
    bags, sizes = batch(5, 1, 12), (5, 1, 12)
    plain = taught(BREAST, COLON, bag_evidence=False, evidence_share=0.25, context="none")
    both = taught(BREAST, COLON, bag_evidence=True, evidence_share=0.25, pooled_share=0.5, context="none")
    both.load_state_dict(plain.state_dict(), strict=False)
    both.evidence_of_bag.settled.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(both(bags).head_logits, plain(bags).head_logits, rtol=0, atol=1e-12)  # nothing settled yet
    pooled = torch.stack([torch.randn(4, 5), torch.randn(4, 5)]).double()
    for head in (0, 1):
        own = both.classes.columns(head)
        labels = torch.tensor([own.start, own.start + 1, own.start, own.start + 1])
        both.evidence_of_bag.settle(own, pooled[0], pooled[1], labels)  # type: ignore[union-attr]
    without, output, measured = plain(bags), both(bags), both.evidence_of_bag
    assert output.instance_logits is not None
    assert measured is not None
    for b, size in enumerate(sizes):
        ranked = output.instance_logits[b, :size].sort(dim=0, descending=True).values
        evidence = ranked[: max(1, round(size / 4))].mean(dim=0) * torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
        expected = 0.5 * (without.head_logits[b] - measured.midpoint[0]) * measured.gain[0]
        expected = expected + (evidence - measured.midpoint[1]) * measured.gain[1]
        torch.testing.assert_close(output.head_logits[b], expected, rtol=0, atol=1e-12)


def test_the_instance_classifier_sees_one_tile_at_a_time() -> None:
    model, x = taught(BREAST, LUNG, context="none"), torch.randn(1, 8, FEATURES, dtype=torch.float64)
    together = model(x).instance_logits
    alone = torch.cat([model(x[:, m : m + 1]).instance_logits for m in range(8)], dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(model(x).instance_logits, together, rtol=0, atol=1e-12)


def test_under_attention_a_bag_that_is_surely_normal_stays_dark() -> None:
    model, x = taught(BREAST, COLON, instance="attention", context="none"), torch.randn(2, 9, FEATURES, dtype=torch.float64)
    with torch.no_grad():
        linear(model.bag_heads[0]).weight.zero_()
        linear(model.bag_heads[0]).bias.copy_(torch.tensor([40.0, 0.0]))
    output = model(x)
    probability = model.probabilities(output)
    for column in (1, 2, 3):  # the findings of both heads
        assert (output.instance_scores[:, :, column] <= probability[:, None, column] + 1e-15).all()
    assert (model.evidence(model.with_task(output, 0), 0) < 1e-15).all()
    assert (model.evidence(output, 0) < 1e-15).all()


def test_instance_scores_by_hand() -> None:
    model, x = taught(BREAST, COLON), torch.randn(1, 4, FEATURES, dtype=torch.float64)
    output = model(x)
    p, within = model.probabilities(output)[0].tolist(), torch.sigmoid(output.instance_logits[0]).tolist()
    for m in range(4):
        low, high = within[m][2], within[m][3]
        expected = [
            (p[0] + p[1]) * (1 - within[m][1]),
            (p[0] + p[1]) * within[m][1],
            (p[2] + p[3] + p[4]) * low,
            (p[2] + p[3] + p[4]) * high,
            (p[2] + p[3] + p[4]) * (1 - max(low, high)),
        ]
        assert output.instance_scores[0, m].tolist() == pytest.approx(expected, abs=1e-12)
        found = model.evidence(output, 1)[0, m].item()
        assert found == pytest.approx((p[2] + p[3] + p[4]) * max(low, high), abs=1e-12)
        assert model.evidence(model.with_task(output, 1), 1)[0, m].item() == pytest.approx(max(low, high), abs=1e-12)


@pytest.mark.parametrize("instance", ["classifier", "attention"])
def test_a_given_task_counts_however_unlikely_it_seems(instance: str) -> None:
    model = taught(BREAST, COLON, instance=instance).float()
    x = torch.stack([features for features, _ in bags_of(0, number=2)]) * 100  # no doubt where these come from
    output = model(x)
    foreign = 1 if model.probabilities(output)[0, 2:].sum() < 1e-30 else 0
    assert (model.probabilities(output)[:, model.classes.columns(foreign)] < 1e-30).all()
    evidence = model.evidence(model.with_task(output, foreign), foreign)
    assert (evidence.amax(dim=1) > 1e-3).all()
    assert (model.evidence(output, foreign) < 1e-12).all()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("loss_over", ["task", "seen"])
@pytest.mark.parametrize("instance", ["classifier", "attention"])
def test_loss_terms_of_tiny_bags_are_finite(count: int, loss_over: str, instance: str) -> None:
    model = make(BREAST, LUNG, loss_over=loss_over, instance=instance, bppl_tau1=0.0).train()
    for label in range(4):
        model.zero_grad()
        terms = model.loss(model(torch.randn(1, count, FEATURES, dtype=torch.float64)), torch.tensor([label]))
        assert list(terms) == ["ce", "bppl", *(["instance"] if instance == "classifier" else [])]
        torch.stack(list(terms.values())).sum().backward()
        assert all(torch.isfinite(value) for value in terms.values())
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_cross_entropy_over_the_task_or_over_all_seen() -> None:
    x, labels = torch.randn(3, 5, FEATURES, dtype=torch.float64), torch.tensor([1, 2, 6])
    for loss_over in ("task", "seen"):
        model = taught(BREAST, LUNG, COLON, loss_over=loss_over)
        output = model(x)
        expected = []
        for b, label in enumerate(labels.tolist()):
            part = model.classes.columns(model.classes.head_of(label)) if loss_over == "task" else slice(0, 7)
            expected.append(output.head_logits[b, label] - output.head_logits[b, part].logsumexp(dim=0))
        assert model.loss(output, labels)["ce"].item() == pytest.approx(-sum(expected).item() / 3, abs=1e-12)


def test_cross_entropy_over_the_task_leaves_other_heads_alone() -> None:
    for loss_over, touched in (("task", False), ("seen", True)):
        model = make(BREAST, LUNG, loss_over=loss_over)
        model.loss(model(torch.randn(1, 5, FEATURES, dtype=torch.float64)), torch.tensor([3]))["ce"].backward()
        grad = linear(model.bag_heads[0]).weight.grad
        assert (grad is not None and bool(grad.ne(0).any())) == touched


def sure(model: CoMEL, column: int, logit: float = 6.0) -> CoMEL:
    """The model made certain of a column within its head."""
    head = model.classes.head_of(column)
    with torch.no_grad():
        linear(model.bag_heads[head]).weight.zero_()
        linear(model.bag_heads[head]).bias.zero_()
        linear(model.bag_heads[head]).bias[column - model.classes.columns(head).start] = logit
    return model


def test_bppl_and_instance_terms_by_hand() -> None:
    options: dict[str, Any] = {"bppl_relative": True, "bppl_temperature": 0.2, "bppl_centre": False, "top_instances": 0.4}
    model = sure(make(BREAST, **options), 1)
    output = model(torch.randn(1, 5, FEATURES, dtype=torch.float64))
    h, attention, scores = output.instance_features[0], output.attention[0], output.instance_logits[0, :, 1]
    pseudo = pseudo_labels(h, attention, reachable_threshold(0.5, 0.2), 0.2)
    assert pseudo.kept_fraction > 0
    terms = model.loss(output, torch.tensor([1]))
    torch.testing.assert_close(terms["bppl"], bppl_loss(scaled_attention(attention), pseudo))
    top = scores.sort(descending=True).values[:2]
    expected = -top.sigmoid().log().mean() + bppl_loss(scores.sigmoid(), pseudo)
    torch.testing.assert_close(terms["instance"], expected)
    # a normal bag has no pseudo-label, and every instance of it is negative
    terms = model.loss(output, torch.tensor([0]))
    assert terms["bppl"].item() == 0
    expected = -0.5 * ((1 - scores.sigmoid()).log().mean() + (1 - top.sigmoid()).log().mean())
    torch.testing.assert_close(terms["instance"], expected)


def test_bppl_labels_only_what_is_sure_correct_and_positive() -> None:
    x = torch.randn(1, 5, FEATURES, dtype=torch.float64)
    for column, label, logit, labelled in ((1, 1, 6.0, True), (1, 1, 1.0, False), (1, 0, 6.0, False), (0, 0, 6.0, False)):
        model = sure(make(BREAST, bag_evidence=False), column, logit)
        model.loss(model(x), torch.tensor([label]))
        assert model.end_epoch()["bppl_bags"] == float(labelled)
    # without a negative label every class is a finding
    for label in (2, 3):
        model = sure(make(BREAST, LUNG, bag_evidence=False), label)
        model.loss(model(x), torch.tensor([label]))
        assert model.end_epoch()["bppl_bags"] == 1.0


def test_every_finding_of_a_task_without_a_negative_trains_its_classifier() -> None:
    model = make(BREAST, LUNG)
    model.loss(model(torch.randn(1, 5, FEATURES, dtype=torch.float64)), torch.tensor([2]))["instance"].backward()
    untouched, taught_one = (linear(head.linear).weight.grad for head in model.instance_heads)
    assert taught_one is not None
    assert untouched is not None
    assert (taught_one.abs().sum(dim=1) > 0).all()
    assert untouched.eq(0).all()


def test_tau2_follows_the_training_bags() -> None:
    model = sure(make(BREAST, bppl_tau=0.5, bag_evidence=False), 1, logit=2.0)
    x, confidence = torch.randn(1, 5, FEATURES, dtype=torch.float64), torch.tensor(2.0).sigmoid().item()
    assert model.tau2.item() == 0.5
    for label in (1, 1, 0, 0):
        model.loss(model(x), torch.tensor([label]))
    assert model.end_epoch()["tau2"] == 0.5
    assert model.tau2.item() == pytest.approx((1 + 0.5 * confidence / 2) / 2, abs=1e-6)
    moved = model.tau2.item()
    assert model.end_epoch() == {"tau2": moved, "bppl_kept": 0.0, "bppl_bags": 0.0}  # an epoch without bags moves nothing
    model.add_head(LUNG)
    assert model.tau2.item() == moved
    fresh = make(BREAST, LUNG, bag_evidence=False)
    fresh.load_state_dict(model.state_dict())
    assert fresh.tau2.item() == moved


def test_settings_rebuild_the_model() -> None:
    model = taught(BREAST, LUNG, instance="attention")
    settings = settings_of(model)
    heads = [Head.from_dict(head) for head in settings["heads"]]
    again = CoMEL(settings["dimension"], CoMELOptions.model_validate(settings["options"]), heads).double().eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, 5, FEATURES, dtype=torch.float64)
    assert torch.equal(again(x).logits, model(x).logits)


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValidationError, match="dim 20 is not a multiple of 8 heads"):
        CoMELOptions(dim=20)
    with pytest.raises(ValidationError, match="belongs to the groupings"):
        CoMELOptions(grouping="spatial", pad="published")
    with pytest.raises(ValidationError, match="extra"):
        CoMELOptions(depth=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="two tasks are called 'lung'"):
        make(LUNG, LUNG)


def test_half_precision_training_step_is_finite() -> None:
    model = sure(make(BREAST, bag_evidence=False).float(), 1).train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss(model(torch.randn(1, 40, FEATURES)), torch.tensor([1]))
    torch.stack([value.float() for value in terms.values()]).sum().backward()
    assert model.end_epoch()["bppl_bags"] == 1.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_calibration_puts_the_threshold_at_one_half_and_leaves_the_bag_alone() -> None:
    model = make(BREAST, LUNG)
    x = torch.randn(1, 6, FEATURES, dtype=torch.float64)
    before = model(x)
    threshold = model.evidence(model.with_task(before, 0), 0)[0, 2].item()
    assert model.calibrate(0, threshold) == 0.5
    after = model(x)
    assert model.evidence(model.with_task(after, 0), 0)[0, 2].item() == pytest.approx(0.5, abs=1e-6)
    order = model.evidence(model.with_task(before, 0), 0)[0].argsort()
    assert torch.equal(model.evidence(model.with_task(after, 0), 0)[0].argsort(), order)
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(model.evidence(model.with_task(after, 1), 1), model.evidence(model.with_task(before, 1), 1))
    assert make(BREAST, instance="attention").calibrate(0, 0.3) == 0.3


@settings(max_examples=200, deadline=None)
@given(st.floats(-13, 13, width=32))
def test_the_instance_at_the_threshold_stays_positive(logit: float) -> None:
    model, scored = make(BREAST).float(), torch.tensor([logit])
    model.calibrate(0, torch.sigmoid(scored).item())
    assert torch.sigmoid(scored - model.instance_shift[1]) >= 0.5


def test_every_head_starts_from_whole_bags() -> None:
    model = make(BREAST, top_instances=0.1, top_decay=0.5)
    shares = []
    for _ in range(5):
        shares.append(model._share(0))
        model.end_epoch()
    assert shares == [1.0, 0.5, 0.25, 0.125, 0.1]
    model.add_head(LUNG)
    assert (model._share(0), model._share(1)) == (0.1, 1.0)
