"""The rows of a benchmark's table: what ``configs/benchmark.yaml`` says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from comel.errors import ConfigError
from comel.registry import nearest

__all__ = ["Benchmark", "Row", "load_benchmark"]


@dataclass(frozen=True)
class Row:
    """One row: a strategy and a model with the options that differ from their defaults."""

    name: str
    group: str
    strategy: dict[str, Any]
    model: dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A suite's settings and the rows to compare on it."""

    suite: str
    make: dict[str, Any]
    model: dict[str, Any]
    strategy: dict[str, Any]
    trainer: dict[str, Any]
    rows: tuple[Row, ...]

    def settings(self, row: Row, data: dict[str, Any], seed: int) -> dict[str, Any]:
        """The settings of a row's run. Of the suite's options a model or strategy takes those that it has."""
        from comel.models import model_class
        from comel.strategies import strategy_class

        def own(shared: dict[str, Any], kind: Any) -> dict[str, Any]:
            return {key: value for key, value in shared.items() if key in kind.Options.model_fields}

        return {
            "data": data,
            "model": {**own(self.model, model_class(row.model["name"])), **row.model},
            "strategy": {**own(self.strategy, strategy_class(row.strategy["name"])), **row.strategy},
            "trainer": {**self.trainer, "seed": seed},
        }


def load_benchmark(suite: str, rows: Sequence[str] | None = None, config: Path | None = None) -> Benchmark:
    """Read a suite's settings and the rows, all of them or those named by row or group.

    Args:
        suite: features, composite or crchisto.
        rows: names of rows or groups; default every row.
        config: in place of the one shipped.

    Raises:
        ConfigError: no such suite, row or group, or the file is not as expected.
    """
    import yaml

    try:
        text = config.read_text(encoding="utf-8") if config else (resources.files("configs") / "benchmark.yaml").read_text()
        content = yaml.safe_load(text)
        settings = content["suites"]
        table = {name: Row(name, **entry) for name, entry in content["rows"].items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{config}: not a benchmark's configuration ({error})", "see configs/benchmark.yaml") from None
    if suite not in settings:
        raise ConfigError(f"no suite '{suite}'", nearest(suite, list(settings)))
    groups = list(dict.fromkeys(row.group for row in table.values()))
    for name in rows or ():
        if name not in table and name not in groups:
            raise ConfigError(f"--rows: no row or group '{name}'", nearest(name, [*table, *groups]))
    chosen = [row for row in table.values() if not rows or row.name in rows or row.group in rows]
    return Benchmark(suite, **settings[suite], rows=tuple(chosen))
