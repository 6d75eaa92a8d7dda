"""ConSlide's rehearsal: breaking bags up, keeping regions, putting them together again."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
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
from comel.strategies.conslide import ConSlide, ConSlideOptions, Region, RegionStore, break_up, reorganise
from tests.comel.strategies.tiny import (
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    finish,
    learn,
    new_model,
    stage_of,
    terms_of,
)


def slide(number: int, across: int = 8, down: int = 6, distance: float = 256.0, holes: float = 0.0) -> BagBatch:
    """A slide whose features say which slide and which tile they are of; tiles at rounded places, some missing."""
    y, x = np.divmod(np.arange(across * down), across)
    present = np.random.default_rng(number).random(across * down) >= holes
    present[0] = True
    features = torch.tensor(np.stack([np.full(across * down, number), x, y], axis=1)[present], dtype=torch.float32)
    coords = torch.tensor(np.round(np.stack([x, y], axis=1) * distance + 1000)[present].astype(np.int64))
    return BagBatch(features.unsqueeze(0), coords.unsqueeze(0))


def slides_of(bag: BagBatch) -> Counter[int]:
    return Counter(bag.features[0, :, 0].int().tolist())


@given(
    across=st.integers(1, 12),
    down=st.integers(1, 12),
    side=st.integers(1, 5),
    distance=st.sampled_from([1.0, 254.6, 512.0]),
    holes=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=40, deadline=None)
def test_regions_are_squares_that_share_out_a_slide(across: int, down: int, side: int, distance: float, holes: float) -> None:
    bag = slide(3, across, down, distance, holes)
    parts = break_up(bag, side)
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(bag.features.shape[1]))
    for rows, place in parts:
        assert (rows.diff() > 0).all()
        assert place is not None
        tiles = bag.features[0, rows, 1:].double()
        cells = {(int(x) // side, int(y) // side) for x, y in tiles.tolist()}
        if holes == 0 and across * down > 1:
            assert len(cells) == 1
            # places are in tile distances, whatever the pixels were
            torch.testing.assert_close(place, tiles - tiles.min(dim=0).values, rtol=0, atol=0.05)
        assert (place >= 0).all()


def test_without_places_a_region_is_a_run_of_rows() -> None:
    bag = BagBatch(torch.randn(1, 21, 3))
    assert [rows.tolist() for rows, _ in break_up(bag, 3)] == [[*range(9)], [*range(9, 18)], [18, 19, 20]]
    assert all(place is None for _, place in break_up(bag, 3))
    masked = BagBatch(torch.randn(1, 4, 3), None, torch.tensor([[True, False, True, True]]))
    assert [rows.tolist() for rows, _ in break_up(masked, 16)] == [[0, 2, 3]]


def regions_of(bag: BagBatch, side: int, number: int = 0) -> list[Region]:
    return [Region(bag.features[0, rows], place, 0, number, 0.0) for rows, place in break_up(bag, side)]


@given(side=st.integers(1, 4), chosen=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_mosaic_holds_every_tile_once_in_row_major_order(side: int, chosen: int, seed: int) -> None:
    pool = regions_of(slide(1), side) + regions_of(slide(2, distance=511.3), side, 1)
    picked = [pool[i] for i in np.random.default_rng(seed).choice(len(pool), min(chosen, len(pool)), replace=False)]
    bag = reorganise(picked, side)
    assert bag.coords is not None
    wanted = sorted(map(tuple, torch.cat([region.features for region in picked]).tolist()))
    assert sorted(map(tuple, bag.features[0].tolist())) == wanted
    coords = bag.coords[0]
    assert coords.dtype == torch.int64
    yx = [(y, x) for x, y in coords.tolist()]
    assert all(one < other for one, other in pairwise(yx))
    # tiles of one region keep their places to each other, and have no other region's tile beside them
    for region in picked:
        rows = [wanted_row(bag, tile) for tile in region.features]
        others = [row for row in range(len(coords)) if row not in rows]
        apart = (coords[rows].unsqueeze(1) - coords[others]).abs().amax(dim=2)
        assert (apart >= 512).all()
        moved = coords[rows] - region.features[:, 1:].long() * 256
        assert torch.equal(moved, moved[:1].expand_as(moved))


def wanted_row(bag: BagBatch, tile: torch.Tensor) -> int:
    return int((bag.features[0] == tile).all(dim=1).nonzero()[0, 0])


def test_regions_without_places_follow_each_other() -> None:
    placed, bare = regions_of(slide(1, 2, 1), 2), regions_of(BagBatch(torch.full((1, 3, 3), 7.0)), 2)
    bag = reorganise([*placed, *bare], 2)
    assert bag.coords is None
    assert bag.features[0, :, 0].tolist() == [1, 1, 7, 7, 7]


def store_of(slides: int, columns: int = 2, bags: int = 3, side: int = 2, seed: int = 0) -> RegionStore:
    store = RegionStore(bags, side, seed)
    for number in range(slides):
        store.offer(slide(number), number % columns)
    return store


def test_it_keeps_to_its_room_shared_by_the_classes() -> None:
    store = RegionStore(3, 2)
    for number in range(40):
        store.offer(slide(number), 0 if number < 20 else number % 3)
        held = Counter({column: sum(len(r) for r in store.regions if r.column == column) for column in range(3)})
        classes = len([column for column in held if held[column]])
        assert store.average == 48
        assert sum(held.values()) <= 3 * 48
        for column in range(3):
            assert held[column] <= 3 * 48 / classes
    assert set(held.values()) == {48}
    assert max(Counter(r.slide for r in store.regions).values()) < 12  # no slide is kept whole: it had twelve regions
    for region in store.regions:
        assert region.column == (0 if region.slide < 20 else region.slide % 3)
        assert region.features[:, 0].unique().tolist() == [region.slide]


def test_each_region_has_the_same_chance() -> None:
    counts = np.zeros((6, 12))
    for seed in range(60):
        store = store_of(6, columns=1, bags=1, seed=seed)
        assert len(store.regions) == 12
        for region in store.regions:
            x, y = region.features[0, 1:].int().tolist()
            counts[region.slide, y // 2 * 4 + x // 2] += 1
    assert counts.sum() == 60 * 12
    per_slide = counts.sum(axis=1)
    assert np.abs(per_slide - 120).max() < 5 * np.sqrt(60 * 12 / 6 * 5 / 6)


def test_a_class_keeps_one_region_however_small_its_share() -> None:
    store = RegionStore(1, 16)
    for number in range(8):
        store.offer(slide(number), number)
    assert [region.column for region in store.regions] == list(range(8))


def test_a_reorganised_bag_mixes_slides_of_one_class() -> None:
    store = store_of(12)
    columns = set()
    for _ in range(20):
        drawn = store.draw()
        assert drawn is not None
        bag, column = drawn
        slides = slides_of(bag)
        assert all(number % 2 == column for number in slides)
        held = Counter(region.slide for region in store.regions if region.column == column)
        # no slide gives a second region before each has given one
        assert len(slides) == min(len(held), 12)
        assert 48 <= bag.features.shape[1] <= 48 + 3 or bag.features.shape[1] == sum(
            len(r) for r in store.regions if r.column == column
        )
        columns.add(column)
    assert columns == {0, 1}
    small = [store.draw(instances=10) for _ in range(5)]
    assert all(drawn is not None and 10 <= drawn[0].features.shape[1] < 14 for drawn in small)
    assert all(drawn is not None and len(slides_of(drawn[0])) == 3 for drawn in small)


def test_an_empty_store_gives_no_bag() -> None:
    store = RegionStore(3, 2)
    assert store.draw() is None
    assert (store.drawn, store.bytes) == (0, 0)


def test_bytes_by_hand() -> None:
    store = RegionStore(30, 16)
    store.offer(slide(0, 3, 2), 0)
    store.offer(BagBatch(torch.full((1, 5, 3), 0.1)), 0)
    assert store.bytes == (6 * 3 * 2 + 6 * 2 * 8) + 5 * 3 * 4


def test_a_folder_brings_the_store_back_and_it_goes_on_alike(tmp_path: Path) -> None:
    store = store_of(9, seed=4)
    store.draw()
    store.save(tmp_path)
    again = RegionStore(3, 2)
    again.load(tmp_path)
    for one in (store, again):
        one.offer(slide(9), 1)
    for kept, loaded in zip(store.regions, again.regions, strict=True):
        assert (kept.column, kept.slide, kept.rank) == (loaded.column, loaded.slide, loaded.rank)
        assert torch.equal(kept.features, loaded.features)
    for _ in range(5):
        mine, its = store.draw(), again.draw()
        assert mine is not None
        assert its is not None
        assert mine[1] == its[1]
        assert torch.equal(mine[0].features, its[0].features)
        assert mine[0].coords is not None
        assert its[0].coords is not None
        assert torch.equal(mine[0].coords, its[0].coords)


def test_a_damaged_store_is_said_in_one_line(tmp_path: Path) -> None:
    store_of(4).save(tmp_path)
    state = read_json(tmp_path / "strategy.json")
    write_json(tmp_path / "strategy.json", {**state, "regions": state["regions"] + 1})
    with pytest.raises(RunError, match="the stored regions are not complete; restore the run from a copy"):
        RegionStore(3, 2).load(tmp_path)
    (tmp_path / "regions.safetensors").unlink()
    with pytest.raises(RunError, match=r"regions\.safetensors: cannot be read"):
        RegionStore(3, 2).load(tmp_path)


def test_a_reorganised_bags_loss_is_added_from_the_second_task_on() -> None:
    model, strategy = new_model(), ConSlide(ConSlideOptions(region_side=2, alpha=0.2))
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 1)
    assert set(terms_of(model, strategy, *bags_of(0)[0])) == {"ce", "bppl", "instance"}
    assert strategy.old_data_bytes() == 0
    finish(model, strategy, 0)
    assert strategy.memory.seen_bags == 6
    optimizer = begin(model, strategy, 1)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    model.eval()
    twin = RegionStore(30, 2, strategy.memory.seed)
    for bag, column in bags_of(0):
        twin.offer(bag, column)
    drawn = twin.draw()
    assert drawn is not None
    wanted = model.loss(model(drawn[0]), torch.tensor([drawn[1]]))
    terms = terms_of(model, strategy, *bags_of(1)[0])
    assert len(terms) == 6
    for name, value in wanted.items():
        torch.testing.assert_close(terms[f"stored_{name}"], 0.2 * value)
    assert strategy.old_data_bytes() == twin.bytes


def test_the_seed_is_the_runs() -> None:
    model, strategy = new_model(), ConSlide()
    torch.manual_seed(5)
    strategy.before_task(model, stage_of(0), [])
    torch.manual_seed(5)
    assert strategy.memory.seed == int(torch.randint(2**31 - 1, ()))
    first = strategy.memory.seed
    strategy.before_task(model, stage_of(1), [])
    assert strategy.memory.seed == first


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(lambda: ConSlide(ConSlideOptions(bags=4, region_side=2)), tmp_path)


def test_slides_stay_mixed_over_tasks() -> None:
    model, strategy = new_model(), ConSlide(ConSlideOptions(bags=4, region_side=2))
    for index in range(2):
        learn(model, strategy, index, epochs=1)
    assert {region.column for region in strategy.memory.regions} == {0, 1, 2, 3}


def test_options_are_checked() -> None:
    assert (ConSlideOptions().bags, ConSlideOptions().region_side) == (30, 16)
    for wrong in ({"bags": 0}, {"region_side": 0}, {"alpha": -1}, {"regions": 3}):
        with pytest.raises(ValidationError):
            ConSlideOptions(**wrong)
