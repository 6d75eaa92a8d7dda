"""Settings: one schema for YAML, ``--set`` and Python; every mistake is one line that says where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comel.base.files import sha256_of_json
from comel.base.registry import nearest, resolve_name
from comel.base.settings import parse_section
from comel.cohort.manifest import Manifest
from comel.errors import ConfigError
from comel.runs.config import RunConfig, load_config
from comel.runs.parts import resolved
from comel.training.plan import plan_of


def mistake(overrides: list[str], path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(load_config(path, overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_published_ones() -> None:
    config = resolved(load_config())
    assert (config.model["name"], config.strategy["name"]) == ("comel", "owlora")
    assert (config.model["dim"], config.model["blocks"], config.strategy["rank"]) == (512, 2, 16)
    assert (config.trainer.epochs, config.trainer.lr, config.trainer.seed) == (100, 1e-4, 2021)


def test_what_is_set_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("trainer: {epochs: 3, lr: 0.1}\ndata: {manifest: cohort/m.csv, bags: /bags}\nstrategy: {name: finetune}\n")
    config = load_config(
        path, ["trainer.epochs=7", "data.tasks=[a, b]", "model.dim=64", "trainer.lr = 1.0e-3", "data.root=null"]
    )
    assert (config.trainer.epochs, config.trainer.lr) == (7, 1e-3)
    assert config.data.tasks == ["a", "b"]
    assert config.data.manifest == tmp_path / "cohort" / "m.csv"
    assert config.data.bags == Path("/bags")
    assert config.model == {"name": "comel", "dim": 64}
    assert config.strategy == {"name": "finetune"}


def test_a_run_of_ones_own_settings_is_read_back(tmp_path: Path) -> None:
    config = resolved(load_config(None, ["strategy.rank=4", "data.labels={colon: [normal, tumour]}"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert resolved(load_config(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.epoch=3", "unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        ("trainr.epochs=3", "unknown key 'trainr'; did you mean 'trainer'?"),
        ("data.manifst=a.csv", "unknown key 'data.manifst'; did you mean 'manifest'?"),
        ("strategy.rnk=3", "strategy: unknown key 'rnk'; did you mean 'rank'?"),
        ("model.blocs=3", "model: unknown key 'blocs'; did you mean 'blocks'?"),
        ("strategy={name: finetune, rank: 4}", "strategy: unknown key 'rank'; leave it out: there is nothing to choose from"),
        ("strategy.name=owlra", "strategies: no 'owlra'; did you mean 'owlora'?, or give file.py:Class"),
        ("strategy.name=zzz", "choose one of "),
        ("model.name=comell", "models: no 'comell'; did you mean 'comel'?"),
        ("strategy.name=3", "strategy.name is not a name"),
        ("strategy.name=nowhere.py:A", "nowhere.py: no such file"),
        ("trainer.epochs=many", "trainer.epochs: Input should be a valid integer"),
        ("trainer.epochs=0", "trainer.epochs: Input should be greater than or equal to 1 (given: 0)"),
        ("trainer.lr=-1", "trainer.lr: Input should be greater than 0"),
        ("trainer.epochs=", "trainer.epochs"),
        ("trainer=5", "trainer"),
        ("trainer", "--set trainer: no '='; write --set trainer.epochs=20"),
        ("trainer.epochs=[1", "the value is not YAML"),
        ("trainer.epochs.x=1", "trainer.epochs"),
        ("=5", "unknown key"),
        ("model=comel", "model"),
        ("data.mode=task-incremental", "data.mode: Input should be 'class-incremental' or 'domain-incremental'"),
        ("data.mode=class_incremental", "data.mode: Input should be 'class-incremental' or 'domain-incremental'"),
    ],
)
def test_mistakes_on_the_command_line(override: str, said: str) -> None:
    assert said in mistake([override])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"trainer: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"- a\n- b\n", "holds no settings"),
        (b"just words", "holds no settings"),
        (b"trainer:\n  epcohs: 3\n", "unknown key 'trainer.epcohs'; did you mean 'epochs'?"),
        (b"trainer: 3\n", "trainer"),
        (b"data:\n", "data"),
        (b"1: 2\n", "1"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    message = mistake([], path)
    assert said in message
    assert str(path) in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file; check the path of --config" in mistake([], tmp_path / "no.yaml")


def test_from_python_the_same_mistakes() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'data\.bag'; did you mean 'bags'\?"):
        parse_section(RunConfig, {"data": {"bag": "x"}}, "settings")


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first example imports model and strategy
@given(st.dictionaries(st.sampled_from(["data", "model", "strategy", "trainer", "other"]), JSON_LIKE, max_size=3))
def test_whatever_is_given_is_taken_or_refused_in_one_line(content: dict[str, Any]) -> None:
    try:
        resolved(parse_section(RunConfig, content, "settings"))
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
def test_a_path_given_as_an_option_arrives_as_it_is(name: str) -> None:
    assert load_config(None, options={"data.manifest": Path(name), "data.negative": name}).data.negative == name


@pytest.mark.parametrize(("short", "name"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_a_precision_as_version_0_1_spelt_it_is_read_and_is_the_same_plan(short: str, name: str) -> None:
    old, new = (load_config(None, [f"trainer.precision={said}"]) for said in (short, name))
    assert old == new
    values = new.model_dump(
        mode="json", exclude={"trainer": {"device", "threads", "checkpoint_seconds"}, "data": {"cache_gib"}}
    )
    assert values["trainer"]["precision"] == name
    values["trainer"]["precision"] = short
    manifest = Manifest(Path("cohort.csv"), [], digest="0" * 64)
    assert plan_of(old, manifest) == sha256_of_json([values, manifest.digest])
    assert "trainer.precision: Input should be 'float32' or 'bfloat16'" in mistake(["trainer.precision=fp16"])


def test_nearest_names_one_or_all() -> None:
    assert nearest("epoch", ["epochs", "lr"]) == "did you mean 'epochs'?"
    assert nearest("zzz", ["lr", "epochs"]) == "choose one of epochs, lr"


def test_resolve_imports_what_it_names() -> None:
    assert resolve_name("path", {"path": "pathlib:Path"}, "comel.models") is Path
