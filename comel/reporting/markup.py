"""HTML that cannot be broken from outside: whatever is not markup of our own is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Markup", "join", "tag"]

_VOID = {"meta", "img", "br"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are no :class:`Markup` are escaped, and so are the attributes' values.

    Args:
        name: the element's name.
        children: markup, or anything else as text; None is left out.
        attributes: ``class_`` stands for ``class``, an underscore for a hyphen; None is left out.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{words}>" if name in _VOID else f"<{name}{words}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Children one after another, escaped where they are no markup."""
    return Markup(
        "".join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children if child is not None)
    )
