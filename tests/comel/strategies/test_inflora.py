"""InfLoRA: where A lies, that it stays there, and what the memory of old inputs holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.errors import CapacityError
from comel.models.comel import CoMEL, CoMELOptions
from comel.strategies.base import Stage
from comel.strategies.inflora import InfLora, InfLoraOptions, down_projection
from comel.strategies.linears import adapted_linears
from tests.comel.strategies.test_strategies import (
    CONFIG,
    DIM,
    FEATURES,
    HEADS,
    TASKS,
    bags_of,
    begin,
    head_names,
    learn,
    new_model,
    trained_names,
)

RANK = 4
EPSILON = 0.95
LAYERS = 8


def inflora(**options: float) -> InfLora:
    return InfLora(InfLoraOptions(**{"rank": RANK, "tasks": 4, "threshold": EPSILON, **options}))


def inputs_of_embed(task: int) -> np.ndarray:
    """What the first layer reads of a task's bags, a column an instance, (in, n) float64."""
    return torch.cat([bag.features[0] for bag, _ in bags_of(task)]).double().numpy().T


def span(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the columns' span, vanishing directions left out."""
    left, spectrum, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, spectrum > 1e-3 * spectrum[0]]


def projector(memory: torch.Tensor) -> np.ndarray:
    return memory.numpy() @ np.linalg.pinv(memory.numpy())


def adapter_rows(model: CoMEL, adapter: str) -> dict[str, torch.Tensor]:
    return {name: layer.lora_A[adapter].weight.detach().clone() for name, layer in adapted_linears(model).items()}  # type: ignore[index, union-attr]


def test_only_b_and_the_head_train() -> None:
    model, strategy = new_model(), inflora()
    learn(model, strategy, 0, epochs=1)
    names = trained_names(model, begin(model, strategy, 1))
    trained = {name for name in names if ".lora_B.002." in name}
    assert len(trained) == LAYERS
    assert names == trained | head_names(model, 1)


def test_a_reads_nothing_of_the_old_space_and_does_not_move() -> None:
    """Every layer, two later tasks: A is orthogonal to the memory and orthonormal, B starts at 0 and alone moves."""
    model, strategy = new_model(), inflora()
    learn(model, strategy, 0, epochs=2)
    for index in (1, 2):
        memory = {name: basis.clone() for name, basis in strategy.memory.items()}
        optimizer = begin(model, strategy, index)
        adapter = f"{index + 1:03d}"
        start = adapter_rows(model, adapter)
        assert len(start) == LAYERS
        for name, rows in start.items():
            assert (rows.double() @ memory[name]).abs().max() < 1e-5
            torch.testing.assert_close(rows @ rows.T, torch.eye(RANK), rtol=0, atol=1e-5)
        ups = {name: p for name, p in model.named_parameters() if f".lora_B.{adapter}." in name}
        assert len(ups) == LAYERS
        assert not any(p.any() for p in ups.values())
        for group in optimizer.param_groups:
            group["lr"] = CONFIG.lr * group["lr_scale"]
        for bag, column in bags_of(index):
            optimizer.zero_grad()
            sum(strategy.loss(model, bag, model(bag), torch.tensor([column])).values()).backward()  # type: ignore[union-attr]
            optimizer.step()
        assert all(p.abs().max() > 1e-3 for p in ups.values())
        for name, rows in adapter_rows(model, adapter).items():
            assert torch.equal(rows, start[name]), name
        strategy.after_task(model, Stage(index, (TASKS[index],), (index,)), bags_of(index))


def test_a_is_the_leading_part_of_the_new_inputs_outside_the_old_ones() -> None:
    """Equations 6 and 8 by another way: a singular value decomposition of the projected inputs themselves, in numpy."""
    model, strategy = new_model(), inflora()
    learn(model, strategy, 0, epochs=1)
    memory = strategy.memory["embed"]
    begin(model, strategy, 1)
    rows = adapter_rows(model, "002")["embed"].double().numpy()
    projected = inputs_of_embed(1) - projector(memory) @ inputs_of_embed(1)
    left = np.linalg.svd(projected, full_matrices=False)[0][:, :RANK]
    np.testing.assert_allclose(rows.T @ rows, left @ left.T, atol=1e-4)
    inside = span(projected)
    assert inside.shape[1] < FEATURES - memory.shape[1]  # so that lying inside says something
    np.testing.assert_allclose(inside @ (inside.T @ rows.T), rows.T, atol=1e-4)


def test_what_lies_in_the_memory_comes_out_as_before() -> None:
    model, strategy = new_model(), inflora()
    learn(model, strategy, 0, epochs=2)
    memory = {name: basis.float() for name, basis in strategy.memory.items()}
    old = {name: layer.weight.detach().clone() for name, layer in adapted_linears(model).items()}
    learn(model, strategy, 1, epochs=3)
    for name, layer in adapted_linears(model).items():
        moved = layer.weight.detach() - old[name]
        assert (moved @ memory[name]).abs().max() < 1e-5, name
        assert moved.abs().max() > 1e-3, name


def test_the_memory_reaches_the_rising_threshold_with_the_fewest() -> None:
    """After task t the basis holds 0.95 + 0.05 t / 4 of the energy of what the layer read of task t."""
    model, strategy = new_model(), inflora()
    held = np.zeros((FEATURES, 0))
    for index in range(4):
        learn(model, strategy, index, epochs=1)
        basis = strategy.memory["embed"].numpy()
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-9)
        inputs, threshold = inputs_of_embed(index), 0.95 + 0.05 * index / 4

        def share(columns: np.ndarray, inputs: np.ndarray = inputs) -> float:
            return float(np.sum((columns.T @ inputs) ** 2) / np.sum(inputs**2))

        np.testing.assert_allclose(basis[:, : held.shape[1]], held, atol=1e-9)  # the old part stays
        assert share(basis) >= threshold - 1e-6
        if basis.shape[1] > held.shape[1]:
            assert share(basis[:, :-1]) < threshold
        held = basis
    assert held.shape[1] > 4


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 11), st.integers(1, 12), st.integers(1, 8), st.integers(0, 10**6))
def test_down_projection_anywhere(n: int, k: int, spanned: int, rank: int, seed: int) -> None:
    """Orthonormal, outside the memory, inside the projected inputs; as many rows as these have directions, or the rank."""
    generator = np.random.default_rng(seed)
    memory = np.linalg.qr(generator.normal(size=(n, min(k, n - 1))))[0]
    inputs = np.linalg.qr(generator.normal(size=(n, n)))[0][:, : min(spanned, n)] @ generator.normal(size=(min(spanned, n), 40))
    rows = down_projection(torch.from_numpy(inputs @ inputs.T), torch.from_numpy(memory), rank).numpy()
    projected = inputs - memory @ (memory.T @ inputs)
    inside = np.linalg.svd(projected)[0][:, : np.linalg.matrix_rank(projected, tol=1e-8)]
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-9)
    np.testing.assert_allclose(rows @ memory, 0, atol=1e-9)
    np.testing.assert_allclose(inside @ (inside.T @ rows.T), rows.T, atol=1e-6)
    left_over = projected - rows.T @ (rows @ projected)
    assert len(rows) == min(rank, inside.shape[1]) or np.sum(left_over**2) < 1e-6 * np.sum(inputs**2)


def test_rounding_is_no_direction() -> None:
    """Inputs that lie in the old space but for one direction give one row; such inputs alone give none."""
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(16, 6)))[0]
    memory = torch.from_numpy(directions[:, :5].copy())
    for columns, count in ((6, 1), (5, 0)):
        x = torch.from_numpy(generator.normal(size=(400, columns)) @ directions[:, :columns].T).float()
        rows = down_projection((x.T @ x).double(), memory, 4)
        assert rows.shape == (count, 16)
    model, strategy = new_model(), inflora()
    learn(model, strategy, 0, epochs=1)
    strategy.memory = {name: torch.eye(len(basis), dtype=torch.float64) for name, basis in strategy.memory.items()}
    strategy.memory["embed"] = strategy.memory["embed"][:, 1:]
    begin(model, strategy, 1)
    adapters = adapter_rows(model, "002")
    assert adapters["embed"].abs().sum(dim=1).tolist() == pytest.approx([1, 0, 0, 0])
    assert not any(value.any() for name, value in adapters.items() if name != "embed")


def test_no_direction_left_is_an_error_before_training() -> None:
    model, strategy = new_model(), inflora()
    learn(model, strategy, 0, epochs=1)
    strategy.memory = {name: torch.eye(len(basis), dtype=torch.float64) for name, basis in strategy.memory.items()}
    with pytest.raises(CapacityError, match=r"no layer's inputs over the new bags leave .*; lower strategy\.threshold"):
        begin(model, strategy, 1)


def test_more_stages_than_declared_are_an_error_before_training() -> None:
    model, strategy = new_model(), inflora(tasks=2)
    for index in range(2):
        learn(model, strategy, index, epochs=1)
    with pytest.raises(CapacityError, match=r"stage 3 is beyond the 2 tasks that strategy\.tasks declared"):
        begin(model, strategy, 2)
    with pytest.raises(CapacityError, match=r"the stream has 3 tasks, and strategy\.tasks declares 2; set strategy\.tasks=3"):
        strategy.stream(TASKS[:3])
    assert list(strategy.stream(TASKS[:2])) == [(TASKS[0],), (TASKS[1],)]


def test_the_loss_runs_over_the_new_tasks_columns() -> None:
    """Equation 9, whatever the model's own ``loss_over``: old logits do not enter."""
    options = CoMELOptions(dim=DIM, blocks=1, num_heads=4, attention_hidden=16, region_size=3, loss_over="seen")
    model = CoMEL(FEATURES, options, HEADS[:2]).eval()
    bag, column = bags_of(1)[1]
    output, label = model(bag), torch.tensor([column])
    own = output.head_logits[0, 2:4].double()
    expected = torch.logsumexp(own, dim=0) - own[column - 2]
    assert inflora().loss(model, bag, output, label)["ce"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.loss(output, label)["ce"].item() > expected.item() + 1e-3


def test_the_report_adds_up() -> None:
    model, strategy = new_model(), inflora()
    assert strategy.report() == {}
    for index in range(2):
        learn(model, strategy, index, epochs=1)
        capacity = strategy.report()["capacity"]
        assert set(capacity) == set(adapted_linears(model))
        for name, layer in adapted_linears(model).items():
            assert capacity[name]["in"] == layer.in_features
            assert capacity[name]["protected"] == torch.linalg.matrix_rank(strategy.memory[name])
            assert capacity[name]["free"] == layer.in_features - capacity[name]["protected"]
