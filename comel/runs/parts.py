"""The model and the strategy that a run's settings name: their options checked, and new ones made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.base.settings import parse_section
from comel.errors import ConfigError
from comel.runs.config import RunConfig

if TYPE_CHECKING:
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = ["new_model", "new_strategy", "resolved"]


def resolved(config: RunConfig) -> RunConfig:
    """The settings with every option of model and strategy spelt out and checked.

    Raises:
        ConfigError: there is no such model or strategy, or an option does not fit.
    """
    from comel.models import model_class
    from comel.models.base import MILModel
    from comel.strategies import strategy_class
    from comel.strategies.base import Strategy

    for where in ("model", "strategy"):
        if not isinstance(getattr(config, where).get("name"), str):
            raise ConfigError(f"{where}.name is not a name", f"write {where}.name")
    model = _spelt_out("model", config.model, model_class(config.model["name"]), MILModel)
    strategy = _spelt_out("strategy", config.strategy, strategy_class(config.strategy["name"]), Strategy)
    return config.model_copy(update={"model": model, "strategy": strategy})


def new_model(config: RunConfig, dimension: int) -> MILModel:
    """A model without a head over features of ``dimension`` numbers, its weights drawn from the seed."""
    import torch

    from comel.models import model_class

    torch.manual_seed(config.trainer.seed)
    kind = model_class(config.model["name"])
    model: MILModel = kind(dimension, kind.Options.model_validate(_options(config.model)))
    return model


def new_strategy(config: RunConfig) -> Strategy:
    """The strategy, in its first state."""
    from comel.strategies import strategy_class

    kind = strategy_class(config.strategy["name"])
    strategy: Strategy = kind(kind.Options.model_validate(_options(config.strategy)))
    return strategy


def _spelt_out(where: str, section: Mapping[str, Any], kind: Any, contract: type) -> dict[str, Any]:
    if not (isinstance(kind, type) and issubclass(kind, contract)):
        raise ConfigError(
            f"{where}: '{section['name']}' is no {where}", f"derive it from {contract.__module__}.{contract.__name__}"
        )
    chosen = parse_section(kind.Options, _options(section), where)  # type: ignore[attr-defined]
    file, separator, kind_name = section["name"].rpartition(".py:")
    name = f"{Path(file).resolve()}.py:{kind_name}" if separator else section["name"]
    return {"name": name, **chosen.model_dump(mode="json")}


def _options(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "name"}
