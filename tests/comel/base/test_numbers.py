"""Numbers that no machine can hold are refused in one line wherever settings are read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from comel.app.benchmark.composite import CompositeSettings
from comel.app.benchmark.context import ContextSettings
from comel.app.benchmark.crchisto import CrchistoSettings
from comel.app.benchmark.features import FeatureSettings
from comel.base.numbers import MOST_SEED, beyond_range
from comel.base.settings import parse_section
from comel.errors import ConfigError
from comel.models import MODELS, model_class
from comel.runs.config import RunConfig, load_config
from comel.strategies import STRATEGIES, strategy_class
from pipelines.extraction.settings import ExtractSettings
from pipelines.synth.settings import SynthSettings
from service.settings import ServiceSettings

OPTIONS = [*(model_class(name).Options for name in MODELS), *(strategy_class(name).Options for name in STRATEGIES)]
SCHEMAS = [
    RunConfig.model_fields["trainer"].annotation,
    RunConfig.model_fields["data"].annotation,
    ExtractSettings,
    SynthSettings,
    ServiceSettings,
    CompositeSettings,
    ContextSettings,
    CrchistoSettings,
    FeatureSettings,
    *dict.fromkeys(OPTIONS),
]
ABSURD = {
    "float": [float("inf"), float("-inf"), float("nan"), "1e999", "nan", 10**400],
    "int": [float("inf"), float("nan"), "1e999", 2**63, -(2**63) - 1, 10**400],
}


def refused(schema: Any, key: str, value: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_section(schema, {key: value}, "here")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_number_of_every_schema(schema: type[BaseModel]) -> None:
    for name, field in schema.model_fields.items():
        for kind in {"int", "float"} & set(_words(field.annotation)):
            for value in ABSURD[kind]:
                assert refused(schema, name, value).startswith(f"here: {name}"), (name, value)


def _words(annotation: Any) -> list[str]:
    return str(annotation).replace("<class '", "").replace("'>", "").replace("|", " ").split()


@pytest.mark.parametrize("seed", [MOST_SEED + 1, 2**63, 2**64, 10**30, -1, "1e999", ".nan"])
def test_seeds_beyond_what_libraries_take(seed: object) -> None:
    with pytest.raises(ConfigError, match=r"settings: trainer\.seed: ") as caught:
        load_config(None, [f"trainer.seed={seed}"])
    assert "\n" not in str(caught.value)
    assert load_config(None, [f"trainer.seed={MOST_SEED}"]).trainer.seed == MOST_SEED


def test_a_number_is_found_wherever_it_stands() -> None:
    config = load_config(None, ["model.dim=32"])
    assert beyond_range(config) is None
    with pytest.raises(ConfigError, match=r"settings: model\.deep\.1: .*an integer of 67 bits"):
        load_config(None, ["model.deep=[1, 99999999999999999999]"])
    with pytest.raises(ConfigError, match=r"settings: strategy\.x: .*nan"):
        load_config(None, ["strategy.x=.nan"])
    assert beyond_range({"a": [True, 1, 2.5, "x", None, {"b": float("inf")}]}) == (["a", "5", "b"], float("inf"))
