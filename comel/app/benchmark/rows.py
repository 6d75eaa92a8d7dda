"""The rows of a benchmark's table, as defined in ``configs/benchmark.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from comel.base.registry import nearest
from comel.base.settings import apply_overrides, load_yaml, parse_section
from comel.base.trust import Trust
from comel.errors import ConfigError

__all__ = ["Benchmark", "Row", "load_benchmark"]

_SECTIONS = ("make", "model", "strategy", "trainer", "extract")
_ROW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """One row: a strategy and a model with the options that differ from their defaults, and differing trainer settings."""

    name: str
    group: str
    strategy: dict[str, Any]
    model: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A suite and the rows to compare on it: how its stream is made, what the rows share, how real slides are extracted."""

    suite: str
    make: dict[str, Any]
    model: dict[str, Any]
    strategy: dict[str, Any]
    trainer: dict[str, Any]
    extract: dict[str, Any]
    rows: tuple[Row, ...]

    def settings(self, row: Row, data: dict[str, Any], seed: int) -> dict[str, Any]:
        """The settings of a row's run. A model or strategy takes those of the suite's options that it knows."""
        from comel.models import model_class
        from comel.strategies import strategy_class

        trust = Trust.of_settings(row.model, row.strategy)

        def own(shared: dict[str, Any], kind: Any) -> dict[str, Any]:
            return {key: value for key, value in shared.items() if key in _options(kind)}

        return {
            "data": data,
            "model": {**own(self.model, model_class(row.model["name"], trust)), **row.model},
            "strategy": {**own(self.strategy, strategy_class(row.strategy["name"], trust)), **row.strategy},
            "trainer": {**self.trainer, **row.trainer, "seed": seed},
        }

    def check(self) -> None:
        """Refuse options that no run could use, before anything is made.

        Raises:
            ConfigError: an option that no model or strategy has, or settings that do not match, with the row's name.
        """
        from comel.models import MODELS, model_class
        from comel.runs.config import RunConfig
        from comel.runs.parts import resolved
        from comel.strategies import STRATEGIES, strategy_class

        for section, known, find in (("model", MODELS, model_class), ("strategy", STRATEGIES, strategy_class)):
            named = [getattr(row, section) for row in self.rows]
            trust = Trust.of_settings(*named)
            names = dict.fromkeys([*known, *(one["name"] for one in named)])
            options = list(dict.fromkeys(option for name in names for option in _options(find(name, trust))))
            for key in getattr(self, section):
                if key not in options:
                    raise ConfigError(f"{self.suite}: no {section} has an option '{key}'", nearest(key, options))
        for row in self.rows:
            try:
                resolved(parse_section(RunConfig, self.settings(row, {}, 0), "settings"))
            except ConfigError as error:
                raise ConfigError(f"row '{row.name}': {error.what}", error.remedy) from None


def _options(kind: Any) -> list[str]:
    """The options of a class; empty if it is not a model or strategy, which is an error when a run is set up with it."""
    return list(getattr(getattr(kind, "Options", None), "model_fields", {}))


def load_benchmark(
    suite: str, rows: Sequence[str] | None = None, config: Path | None = None, overrides: Iterable[str] = ()
) -> Benchmark:
    """Read a suite's settings and the rows, all of them or those named by row or group.

    Args:
        suite: features, context, composite or crchisto.
        rows: names of rows or groups; default every row.
        config: replaces the built-in one.
        overrides: ``SECTION.KEY=VALUE`` for the suite's sections; values are read as YAML.

    Raises:
        ConfigError: no such suite, row, group or section, or the file is not as expected.
    """
    content = _read(config)
    settings = content["suites"]
    table = {name: _row(name, entry) for name, entry in content["rows"].items()}
    if suite not in settings:
        raise ConfigError(f"no suite '{suite}'", nearest(suite, list(settings)))
    groups = list(dict.fromkeys(row.group for row in table.values()))
    for name in rows or ():
        if name not in table and name not in groups:
            raise ConfigError(f"--rows: no row or group '{name}'", nearest(name, [*table, *groups]))
    chosen = [row for row in table.values() if not rows or row.name in rows or row.group in rows]
    for name, section in (settings[suite] or {}).items():
        if name not in _SECTIONS:
            raise ConfigError(f"{suite}: no section '{name}'", nearest(name, list(_SECTIONS)))
        if not isinstance(section or {}, dict):
            raise ConfigError(f"{suite}: {name} holds no settings", "write KEY: VALUE under it")
    sections = {name: dict((settings[suite] or {}).get(name) or {}) for name in _SECTIONS}
    overrides = list(overrides)
    for override in overrides:
        section, _, option = override.partition("=")[0].strip().partition(".")
        if section not in sections:
            raise ConfigError(f"--set {override}: no section '{section}'", nearest(section, list(_SECTIONS)))
        if not option:
            raise ConfigError(f"--set {override}: no setting", "write SECTION.KEY=VALUE")
    apply_overrides(sections, overrides, dict[str, dict[str, Any]], "make.difficulty=0.8")
    for section, key in (("make", "seed"), ("trainer", "seed")):
        if key in sections[section]:
            raise ConfigError(f"{suite}: {section}.{key} is set per seed", "give --seeds and --first-seed")
    return Benchmark(suite, **sections, rows=tuple(chosen))


def _read(config: Path | None) -> dict[str, Any]:
    content = load_yaml(config or Path(str(resources.files("configs") / "benchmark.yaml")), dict[str, dict[str, Any]])
    for key in ("suites", "rows"):
        if not isinstance(content.get(key), dict) or not content[key]:
            raise ConfigError(f"{config or 'configs/benchmark.yaml'}: has no '{key}'", "see configs/benchmark.yaml")
    return content


def _row(name: str, entry: Any) -> Row:
    if not _ROW_NAME.fullmatch(name):
        raise ConfigError(f"row '{name}': its name becomes a folder", "use letters, digits, dots, dashes and underscores")
    keys = [one.name for one in fields(Row) if one.name != "name"]
    if not isinstance(entry, dict):
        raise ConfigError(f"row '{name}': holds no settings", f"write {', '.join(keys)}")
    for key in entry:
        if key not in keys:
            raise ConfigError(f"row '{name}': unknown key '{key}'", nearest(str(key), keys))
    for key in ("group", "strategy", "model"):
        if key not in entry:
            raise ConfigError(f"row '{name}': no {key}", f"write {', '.join(keys)}")
    for key in ("strategy", "model"):
        if not isinstance(entry[key], dict) or not isinstance(entry[key].get("name"), str):
            raise ConfigError(f"row '{name}': {key} has no name", f"write {key}: {{name: ...}}")
    if not isinstance(entry.get("trainer", {}), dict):
        raise ConfigError(f"row '{name}': trainer holds no settings", "write trainer: {KEY: VALUE}")
    return Row(name, str(entry["group"]), dict(entry["strategy"]), dict(entry["model"]), dict(entry.get("trainer", {})))
