"""The reservoir and what strategies with stored bags share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from comel.base.files import read_json, write_json
from comel.errors import RunError
from comel.models.base import BagBatch
from comel.strategies.rehearsal import Rehearsal, RehearsalOptions, Reservoir, StoredBag, compact
from tests.comel.strategies.tiny import CONFIG, HEADS, bags_of, begin, epochs_of, finish, learn, new_model, stage_of


def bag_number(number: int, size: int = 2) -> BagBatch:
    """A bag that says which it is."""
    return BagBatch(torch.full((1, size, 3), float(number)))


def numbers(reservoir: Reservoir) -> list[int]:
    return [int(bag.features[0, 0]) for bag in reservoir.bags]


@given(capacity=st.integers(1, 8), offered=st.integers(0, 30), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_it_holds_different_bags_and_never_too_many(capacity: int, offered: int, seed: int) -> None:
    reservoir = Reservoir(capacity, seed)
    for number in range(offered):
        assert reservoir.offer(bag_number(number), number) == (number in numbers(reservoir))
    held = numbers(reservoir)
    assert len(held) == len(set(held)) == min(capacity, offered)
    assert reservoir.seen == offered
    assert [bag.column for bag in reservoir.bags] == held
    if offered <= capacity:
        assert held == list(range(offered))


def test_every_bag_has_the_same_chance() -> None:
    counts = np.zeros(10)
    for seed in range(2000):
        reservoir = Reservoir(3, seed)
        for number in range(10):
            reservoir.offer(bag_number(number), 0)
        counts[numbers(reservoir)] += 1
    assert counts.sum() == 6000
    assert np.abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_what_is_kept_depends_on_seed_and_order_alone() -> None:
    def held(seed: int) -> list[int]:
        torch.manual_seed(np.random.default_rng().integers(1000))
        reservoir = Reservoir(4, seed)
        for number in range(40):
            reservoir.offer(bag_number(number), 0)
            if number % 3 == 0:
                reservoir.draw()
        return numbers(reservoir)

    assert held(1) == held(1)
    assert len({tuple(held(seed)) for seed in range(5)}) == 5


def test_draws_are_different_bags_and_in_the_end_all() -> None:
    reservoir = Reservoir(4)
    assert reservoir.draw() == []
    assert reservoir.drawn == 0
    for number in range(4):
        reservoir.offer(bag_number(number), number)
    counts = np.zeros(4)
    for _ in range(400):
        columns = [bag.column for bag in reservoir.draw(2)]
        assert len(set(columns)) == 2
        counts[columns] += 1
    assert np.abs(counts - 200).max() < 5 * np.sqrt(400 * 0.25)
    assert sorted(bag.column for bag in reservoir.draw(9)) == [0, 1, 2, 3]


def test_a_stored_bag_is_a_copy_of_its_real_rows() -> None:
    features = torch.arange(24.0).reshape(1, 4, 6) / 3
    coords = torch.arange(8).reshape(1, 4, 2)
    bag = BagBatch(features, coords, torch.tensor([[True, False, True, True]]))
    stored = StoredBag.of(bag, 5, torch.tensor([1.0, 2.0]))
    wanted, place = features[0, [0, 2, 3]].clone(), coords[0, [0, 2, 3]].clone()
    features.zero_()
    coords.zero_()
    assert stored.coords is not None
    assert torch.equal(stored.features, wanted)
    assert torch.equal(stored.coords, place)
    batch = stored.batch(torch.device("cpu"))
    assert batch.features.shape == (1, 3, 6)
    assert batch.mask is None
    assert stored.column == 5


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0.5, -3.25], torch.float16), ([0.1, 1.0], torch.float32), ([1e6, 1.0], torch.float32), ([np.nan, 1.0], torch.float32)],
    ids=["half", "fine", "large", "nan"],
)
def test_features_are_kept_in_half_only_where_nothing_is_lost(values: list[float], kind: torch.dtype) -> None:
    features = torch.tensor([values])
    kept = compact(features)
    assert kept.dtype == kind
    assert torch.equal(kept.float().nan_to_num(7.0), features.nan_to_num(7.0))
    assert kept.data_ptr() != features.data_ptr()


def test_thinning_keeps_rows_in_order_with_their_places() -> None:
    features, coords = torch.arange(20.0).reshape(20, 1), torch.arange(40).reshape(20, 2)
    stored = StoredBag(features, coords, 0)
    assert stored.thinned(None, np.random.default_rng(0)) is stored
    assert stored.thinned(20, np.random.default_rng(0)) is stored
    seen = set()
    for seed in range(3):
        some = stored.thinned(7, np.random.default_rng(seed))
        rows = some.features[:, 0].long()
        assert len(rows) == 7
        assert (rows.diff() > 0).all()
        assert some.coords is not None
        assert torch.equal(some.coords, coords[rows])
        seen.add(tuple(rows.tolist()))
    assert len(seen) == 3


def test_a_folder_brings_the_reservoir_back_and_it_goes_on_alike(tmp_path: Path) -> None:
    def go_on(one: Reservoir) -> list[tuple[int, int]]:
        for number in range(100, 140):
            one.offer(bag_number(number), number)
        return [(bag.column, len(bag.features)) for _ in range(10) for bag in one.draw(2, instances=2)]

    reservoir = Reservoir(5, seed=3)
    generator = torch.Generator().manual_seed(0)
    for number in range(9):
        features = torch.randn(1, 4, 3, generator=generator) if number % 2 else torch.full((1, 4, 3), 1.0 + number)
        coords = torch.randint(0, 9, (1, 4, 2), generator=generator) if number % 3 else None
        reservoir.offer(BagBatch(features, coords), number, torch.randn(2 + number, generator=generator))
    reservoir.draw()
    reservoir.save(tmp_path)
    again = Reservoir(5)
    again.load(tmp_path)
    assert again.bytes == reservoir.bytes > 0
    for kept, loaded in zip(reservoir.bags, again.bags, strict=True):
        assert kept.column == loaded.column
        assert kept.tensors.keys() == loaded.tensors.keys()
        for name, tensor in kept.tensors.items():
            assert tensor.dtype == loaded.tensors[name].dtype
            assert torch.equal(tensor, loaded.tensors[name])
    assert go_on(reservoir) == go_on(again)


def test_an_empty_reservoir_writes_no_tensors(tmp_path: Path) -> None:
    Reservoir(5, seed=8).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["strategy.json"]
    again = Reservoir(5)
    again.load(tmp_path)
    assert (again.seed, again.bags, again.bytes) == (8, [], 0)


def test_bytes_by_hand() -> None:
    reservoir = Reservoir(5)
    reservoir.offer(BagBatch(torch.full((1, 7, 3), 0.1), torch.zeros(1, 7, 2, dtype=torch.int64)), 0, torch.zeros(4))
    reservoir.offer(BagBatch(torch.ones(1, 2, 3)), 0)
    assert reservoir.bytes == (7 * 3 * 4 + 7 * 2 * 8 + 4 * 4) + 2 * 3 * 2


def test_a_damaged_reservoir_is_said_in_one_line(tmp_path: Path) -> None:
    reservoir = Reservoir(5)
    with pytest.raises(RunError, match=r"strategy\.json: cannot be read.*; restore the run from a copy"):
        reservoir.load(tmp_path)
    write_json(tmp_path / "strategy.json", [1])
    with pytest.raises(RunError, match="not the state of a strategy"):
        reservoir.load(tmp_path)
    for number in range(3):
        reservoir.offer(bag_number(number), number)
    reservoir.save(tmp_path)
    state = read_json(tmp_path / "strategy.json")
    for change in ({"bags": 4}, {"bags": "many"}, {"drawn": None}):
        write_json(tmp_path / "strategy.json", {**state, **change})
        with pytest.raises(RunError, match="the stored bags are not complete"):
            Reservoir(5).load(tmp_path)
    write_json(tmp_path / "strategy.json", state)
    whole = (tmp_path / "reservoir.safetensors").read_bytes()
    (tmp_path / "reservoir.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"reservoir\.safetensors: cannot be read"):
        Reservoir(5).load(tmp_path)


def test_a_bag_enters_once_however_often_it_was_trained_on() -> None:
    model, strategy = new_model(), Rehearsal(RehearsalOptions())
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 3)
    assert strategy.old_data_bytes() == 0
    assert list(strategy.replay(model)) == []
    finish(model, strategy, 0)
    kept = strategy.memory.bags
    assert strategy.memory.seen == len(bags_of(0))
    for stored, (bag, column) in zip(kept, bags_of(0), strict=True):
        assert torch.equal(stored.features, bag.features[0])
        assert stored.column == column
    sizes = [bag.features.shape[1] for bag, _ in bags_of(0)]
    assert strategy.old_data_bytes() == sum(size * (12 * 4 + 2 * 8) for size in sizes)


def test_a_reservoir_of_bags_trains_trunk_and_every_head() -> None:
    model, strategy = new_model(), Rehearsal(RehearsalOptions())
    for index in range(2):
        optimizer = begin(model, strategy, index)
        chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert chosen == {id(p) for p in model.parameters()}
        assert optimizer.param_groups[1]["lr_scale"] == model.head_lr_scale
        finish(model, strategy, index)


def test_replay_says_what_the_model_says_of_a_thinned_bag() -> None:
    model, strategy = new_model(), Rehearsal(RehearsalOptions(bags=1, max_instances=4))
    learn(model, strategy, 0, epochs=1)
    (stored,) = strategy.memory.bags
    rows: set[tuple[float, ...]] = set()
    for _ in range(3):
        ((bag, output, label),) = strategy.replay(model.eval())
        assert bag.features.shape == (4, 12)
        assert label.tolist() == [stored.column]
        assert torch.equal(output.logits, model(bag.batch(torch.device("cpu"))).logits)
        rows.add(tuple(bag.features[:, 0].tolist()))
    assert len(rows) == 3


def test_the_seed_is_the_runs_and_stays() -> None:
    def seed(run: int) -> int:
        strategy, config = Rehearsal(RehearsalOptions()), CONFIG.model_copy(update={"seed": run})
        model = new_model()
        begin(model, strategy, 0, config)
        first: int = strategy.memory.seed
        model.add_head(HEADS[1])
        strategy.before_task(model, stage_of(1), bags_of(1))
        assert strategy.memory.seed == first
        return first

    assert seed(1) == seed(1) != seed(2)


def test_options_are_checked() -> None:
    assert RehearsalOptions().bags == 30
    for wrong in ({"bags": 0}, {"max_instances": 0}, {"bag": 3}):
        with pytest.raises(ValidationError):
            RehearsalOptions(**wrong)
