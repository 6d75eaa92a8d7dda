"""What ``configs/benchmark.yaml`` and a user's own file say, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from comel.app.benchmark.rows import load_benchmark
from comel.errors import ConfigError
from tests.comel.app.benchmark.tiny_benchmark import write_config


def test_every_row_of_the_shipped_configuration_can_be_set_up() -> None:
    for suite in ("features", "composite", "crchisto"):
        benchmark = load_benchmark(suite)
        benchmark.check()
        names = {row.name for row in benchmark.rows}
        assert {"finetune", "ewc", "lwf", "lora", "inflora", "agem", "er", "er-ace", "derpp", "conslide", "comel"} <= names


def test_rows_are_chosen_by_name_and_by_group_in_the_files_order(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert [row.name for row in load_benchmark("features", ["refused", "mean"], config).rows] == [
        "mean",
        "no-targets",
        "no-room",
    ]
    assert len(load_benchmark("features", None, config).rows) == 7


def test_a_row_takes_its_options_over_those_of_the_suite_that_it_has(tmp_path: Path) -> None:
    benchmark = load_benchmark("features", ["no-room", "mean"], write_config(tmp_path), ["trainer.epochs=7", "model.dim=24"])
    mean, room = (benchmark.settings(row, {"mode": "class-incremental"}, 3) for row in benchmark.rows)
    assert mean["model"] == {"name": "mean", "dim": 24}
    assert mean["strategy"] == {"name": "finetune"}
    assert room["strategy"] == {"name": "owlora", "rank": 64, "tasks": 2}
    assert mean["trainer"] == {"epochs": 7, "lr": 3e-3, "device": "cpu", "threads": 1, "seed": 3}
    assert mean["data"] == {"mode": "class-incremental"}


@pytest.mark.parametrize(
    ("suite", "rows", "overrides", "said"),
    [
        ("featurs", None, [], "no suite 'featurs'; did you mean 'features'?"),
        ("features", ["meen"], [], "--rows: no row or group 'meen'; did you mean 'mean'?"),
        ("features", None, ["modl.dim=3"], "--set modl.dim=3: no section 'modl'; did you mean 'model'?"),
        ("features", None, ["model.dim"], "--set model.dim: no '='; write --set make.difficulty=0.8"),
        ("features", None, ["model=3"], "--set model=3: no setting; write SECTION.KEY=VALUE"),
        ("features", None, ["model.dim=[1"], "--set model.dim=[1: the value is not YAML"),
        ("features", None, ["make.seed=4"], "features: make.seed is set per seed; give --seeds and --first-seed"),
        ("features", None, ["trainer.seed=4"], "features: trainer.seed is set per seed"),
    ],
)
def test_what_a_command_can_get_wrong(tmp_path: Path, suite: str, rows: Any, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_benchmark(suite, rows, write_config(tmp_path), overrides)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.dimm=16", "features: no model has an option 'dimm'; did you mean 'dim'?"),
        ("strategy.rnak=2", "features: no strategy has an option 'rnak'; did you mean 'rank'?"),
        ("trainer.epoch=2", "row 'mean': settings: unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        ("trainer.epochs=none", "row 'mean': settings: trainer.epochs"),
    ],
)
def test_options_are_checked_before_anything_is_made(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_benchmark("features", ["mean", "comel"], write_config(tmp_path), [override]).check()
    assert said in str(error.value)


def test_an_option_that_only_rows_left_out_have_is_none(tmp_path: Path) -> None:
    load_benchmark("features", ["mean"], write_config(tmp_path), ["strategy.rank=4", "model.region_size=8"]).check()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {}}, "has no 'rows'; see configs/benchmark.yaml"),
        ({"suites": None}, "has no 'suites'"),
        ({"rows": {"a": None}}, "row 'a': holds no settings"),
        ({"rows": {"a": {"group": "g", "strategy": {"name": "er"}}}}, "row 'a': no model"),
        ({"rows": {"a": {"group": "g", "stratgy": {}}}}, "row 'a': unknown key 'stratgy'; did you mean 'strategy'?"),
        (
            {"rows": {"a": {"group": "g", "strategy": {}, "model": {}}}},
            "row 'a': strategy has no name; write strategy: {",
        ),
        ({"rows": {"../a": {}}}, "row '../a': its name becomes a folder"),
        ({"suites": {"features": {"trainr": {}}}}, "features: no section 'trainr'; did you mean 'trainer'?"),
        ({"suites": {"features": {"model": [1]}}}, "features: model holds no settings"),
        ({"suites": {"crchisto": {}}}, "no suite 'features'"),
    ],
)
def test_a_file_that_says_something_else(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write_config(tmp_path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ConfigError) as error:
        load_benchmark("features", None, path)
    assert said in str(error.value)


@pytest.mark.parametrize("content", [b"rows: [", b"\xff\xfe", b"just text", b""])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml: (not YAML|holds no|has no)"):
        load_benchmark("features", None, tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_benchmark("features", None, tmp_path / "none.yaml")


def test_rows_keep_the_names_that_stand_in_the_file(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    row = "{group: 1e3, strategy: {name: finetune}, model: {name: mean}}"
    path.write_text(path.read_text().replace("rows:", f"rows:\n  007: {row}\n  no: {row}", 1))
    assert [row.name for row in load_benchmark("features", ["007", "no"], path).rows] == ["007", "no"]


def test_a_row_that_names_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    content = yaml.safe_load(path.read_text())
    for name, said in ((f"{tmp_path}/own.py:Missing", "defines no 'Missing'"), ("meen", "did you mean 'mean'?")):
        content["rows"]["mean"]["model"] = {"name": name}
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigError) as error:
            load_benchmark("features", ["mean"], path).check()
        assert said in str(error.value)
