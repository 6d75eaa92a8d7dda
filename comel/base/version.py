"""The version of the running comel."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

__all__ = ["comel_version"]

_DISTRIBUTION = "comel-mil"


@functools.cache
def comel_version() -> str:
    """The version of the installed distribution, else that of the checkout's ``pyproject.toml``, else ``unknown``.

    The distribution is not looked up by the package's name, which belongs to an unrelated package on PyPI.
    """
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        pass
    import tomllib

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    try:
        stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return str(stated["version"]) if stated["name"] in (_DISTRIBUTION, "comel") else "unknown"
    except (OSError, ValueError, KeyError):
        return "unknown"
