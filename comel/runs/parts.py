"""The model and the strategy that a run's settings name: their options checked, and new instances made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comel.base.registry import is_user_code, split_user_code
from comel.base.settings import parse_section
from comel.base.trust import Trust
from comel.errors import ConfigError
from comel.runs.config import CODE_SHA256, RunConfig, without_name

if TYPE_CHECKING:
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = ["new_model", "new_strategy", "resolved", "strategy_of"]


def resolved(config: RunConfig, trust: Trust | None = None, *, from_run: bool = False) -> RunConfig:
    """The settings with every option of model and strategy filled in and checked, and the hash of a user's own code file.

    Args:
        config: the settings.
        trust: the user's own code that may be loaded; by default what the settings name, which must then be the user's.
        from_run: whether the settings were read from a run; names and hashes then stay unchanged.

    Raises:
        ConfigError: a name or an option does not exist, or a name refers to code that is not trusted.
    """
    from comel.models import model_class
    from comel.models.base import MILModel
    from comel.strategies import strategy_class
    from comel.strategies.base import Strategy

    trust = trust or Trust.of_settings(config.model, config.strategy)

    def spelt_out(where: str, section: Mapping[str, Any], find: Any, contract: type) -> dict[str, Any]:
        name = section.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"{where}.name is not a name", f"write {where}.name")
        kind = _class_of(section, find, trust, note_unchecked=from_run)
        if not (isinstance(kind, type) and issubclass(kind, contract)):
            raise ConfigError(
                f"{where}: '{name}' is not a {where}", f"derive it from {contract.__module__}.{contract.__name__}"
            )
        earlier = getattr(kind.Options, "earlier", {}) if from_run else {}  # type: ignore[attr-defined]
        chosen = parse_section(kind.Options, {**earlier, **without_name(section)}, where)  # type: ignore[attr-defined]
        named: dict[str, Any] = {"name": name}
        if is_user_code(name) and not from_run:
            file, attribute = split_user_code(name)
            named = {"name": f"{file.resolve()}:{attribute}", CODE_SHA256: trust.sha256(name)}
        elif CODE_SHA256 in section:
            named[CODE_SHA256] = section[CODE_SHA256]
        return {**named, **chosen.model_dump(mode="json")}

    model = spelt_out("model", config.model, model_class, MILModel)
    strategy = spelt_out("strategy", config.strategy, strategy_class, Strategy)
    return config.model_copy(update={"model": model, "strategy": strategy})


def new_model(config: RunConfig, dimension: int, trust: Trust | None = None) -> MILModel:
    """A model without heads for features of length ``dimension``, its weights drawn from the seed."""
    import torch

    from comel.models import model_class

    torch.manual_seed(config.trainer.seed)
    kind = _class_of(config.model, model_class, trust)
    model: MILModel = kind(dimension, kind.Options.model_validate(without_name(config.model)))
    return model


def new_strategy(config: RunConfig, trust: Trust | None = None) -> Strategy:
    """The strategy, in its initial state."""
    kind = strategy_of(config, trust)
    strategy: Strategy = kind(kind.Options.model_validate(without_name(config.strategy)))
    return strategy


def strategy_of(config: RunConfig, trust: Trust | None = None) -> Any:
    """The strategy's class."""
    from comel.strategies import strategy_class

    return _class_of(config.strategy, strategy_class, trust)


def _class_of(section: Mapping[str, Any], find: Any, trust: Trust | None, *, note_unchecked: bool = False) -> Any:
    """The class that a section of the settings names; from a file only if that file is unchanged."""
    return find(section["name"], trust, sha256=section.get(CODE_SHA256), note_unchecked=note_unchecked)
