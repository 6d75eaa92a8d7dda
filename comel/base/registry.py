"""Finding a model or a strategy by name: our own, an installed package's, or one in a user's file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comel.errors import ConfigError

__all__ = ["nearest", "resolve"]


def resolve(name: str, known: Mapping[str, str], group: str) -> Any:
    """The class that ``name`` stands for.

    Args:
        name: a name in ``known``, the name of an entry point in ``group``, or ``path/to/file.py:ClassName``.
        known: our own, name to ``module:Class``; a module is imported only when asked for.
        group: the entry-point group for other packages, such as ``comel.strategies``.

    Raises:
        ConfigError: there is no such thing, with the nearest name; or the file or class cannot be loaded.
    """
    if name in known:
        module, _, attribute = known[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    from importlib.metadata import entry_points

    installed = {point.name: point for point in entry_points(group=group)}
    if name in installed:
        return installed[name].load()
    if ".py:" in name:
        return _from_file(name)
    raise ConfigError(
        f"{group.rpartition('.')[2]}: no '{name}'", nearest(name, [*known, *installed]) + ", or give file.py:Class"
    )


def nearest(name: str, names: list[str]) -> str:
    """A remedy that names the nearest of ``names``, or all of them where none is near."""
    if not names:
        return "leave it out: there is none here"
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(sorted(names))}"


def _from_file(name: str) -> Any:
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", "check the path")
    spec = importlib.util.spec_from_file_location(f"comel_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be loaded ({type(error).__name__}: {error})", "correct the file") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{path}: defines no '{attribute}'", "check the class name")
    return getattr(module, attribute)
