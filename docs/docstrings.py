"""How mkdocs.yml reads docstrings; used by nothing else.

The cross-references of Sphinx (``:class:`comel.bags.bag.Bag```) become links, or plain code where the target has no page.
A pydantic field is described by its ``description``.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

__all__ = ["Docstrings", "as_markdown", "field_description"]

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(?:[^`<]*<)?(?P<target>~?[\w.]+)(?:\(\))?>?`")


def as_markdown(text: str, scope: str = "") -> str:
    """The text with each role as an optional link.

    Args:
        text: a docstring.
        scope: path of the module that it stands in; a name without a dot is looked for there.
    """

    def link(match: re.Match[str]) -> str:
        path = match["target"].lstrip("~")
        shown = path.rpartition(".")[2] if match["target"].startswith("~") else path
        full = path if "." in path and path.split(".")[0] in ("comel", "pipelines", "service") else f"{scope}.{path}"
        return f'<autoref optional identifier="{full}"><code>{shown}</code></autoref>'

    return _ROLE.sub(link, text)


def field_description(value: Any) -> str | None:
    """The ``description`` of a pydantic ``Field(...)``; None for any other value."""
    if not isinstance(value, griffe.ExprCall) or str(value.function) != "Field":
        return None
    for argument in value.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "description":
            described = ast.literal_eval(str(argument.value))
            return described if isinstance(described, str) else None
    return None


class Docstrings(griffe.Extension):
    """Rewrites the docstrings that mkdocstrings collects."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute once it is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, obj.module.path)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called for each attribute once it is loaded."""
        if attr.docstring is None and (described := field_description(attr.value)) is not None:
            attr.docstring = griffe.Docstring(described[:1].upper() + described[1:] + ".", parent=attr)
