"""Finding a model, a strategy or an encoder: a built-in, one from an installed package, or one in a user's own file.

A name may come from anywhere, even from a file that somebody sent; :func:`resolve_name` runs only installed code.
Code in a file is run only by :func:`resolve_user_code`, which is called for names that the user gave
(:mod:`comel.base.trust`).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comel.base.files import read_bytes
from comel.errors import ConfigError

__all__ = ["is_user_code", "nearest", "read_user_code", "resolve_name", "resolve_user_code", "split_user_code"]

_MAX_CODE_BYTES = 16 << 20


def resolve_name(name: str, known: Mapping[str, str], group: str, *, files: bool = True) -> Any:
    """The class that ``name`` stands for: a built-in, or one that an installed package offers.

    Args:
        name: a name in ``known``, or the name of an entry point in ``group``.
        known: the built-ins, name to ``module:Class``; a module is imported only when requested.
        group: the entry-point group for other packages, such as ``comel.strategies``.
        files: whether the user may also name ``file.py:Class``, which the message then says.

    Raises:
        ConfigError: the name is unknown; the message gives the nearest one.
    """
    if name in known:
        module, _, attribute = known[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    from importlib.metadata import entry_points

    installed = {point.name: point for point in entry_points(group=group)}
    if name in installed:
        return installed[name].load()
    remedy = nearest(name, [*known, *installed]) + (", or give file.py:Class" if files else "")
    raise ConfigError(f"{group.rpartition('.')[2]}: no '{name}'", remedy)


def is_user_code(name: str) -> bool:
    """Whether a name has the form ``path/to/file.py:Class``."""
    return ".py:" in name


def split_user_code(name: str) -> tuple[Path, str]:
    """The file and the class of ``path/to/file.py:Class``."""
    file, _, attribute = name.rpartition(":")
    return Path(file), attribute


def resolve_user_code(name: str) -> tuple[Any, str]:
    """Run a file that the user named, and return the class and the SHA-256 (hex) of the file's content.

    The file is read once, so the hashed content is the content that runs.

    Args:
        name: ``path/to/file.py:Class``, as the user wrote it; never a name that was read from a file.

    Raises:
        ConfigError: the file or the class cannot be loaded.
    """
    path, attribute = split_user_code(name)
    content = read_user_code(path)
    spec = importlib.util.spec_from_loader(f"comel_user_{path.stem}", loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[spec.name] = module  # dataclasses look up their own module
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path}: cannot be loaded ({type(error).__name__}: {error})", "correct the file") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{path}: defines no '{attribute}'", "check the class name")
    return getattr(module, attribute), hashlib.sha256(content).hexdigest()


def read_user_code(path: Path) -> bytes:
    """The content of a code file, without running it.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        return read_bytes(path, _MAX_CODE_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})", "check the path") from None


def nearest(name: str, names: list[str]) -> str:
    """A remedy that suggests the nearest of ``names``, or lists all if none is near."""
    if not names:
        return "leave it out: there is nothing to choose from"
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(sorted(names))}"
