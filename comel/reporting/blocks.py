"""The pieces of a report as plain data. ``templates/blocks.html`` draws each and escapes every text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

__all__ = ["Block", "Cards", "Cell", "Facts", "Fold", "Group", "Heading", "Heats", "Table", "Text", "figures", "note"]


class Block(Protocol):
    """A piece of a report; ``kind`` is its name in the template."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Text:
    """A paragraph; ``look`` is note, about or warning."""

    words: str
    look: str | None = None
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Heading:
    """A small heading."""

    words: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Cards:
    """The headline numbers: (name, value)."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row is its name; the cells (row, column) in ``strong`` are emphasised."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str | None = None
    strong: Collection[tuple[int, int]] = ()
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Cell:
    """A cell of :class:`Heats`: its text, CSS classes, and the style of its ground."""

    text: str
    look: str | None = None
    ground: str | None = None


@dataclass(frozen=True)
class Heats:
    """A table whose cells darken with their value; a row has a name and its cells, ``corner`` names the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    corner: str = ""
    kind: ClassVar[str] = "heats"


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    pairs: Sequence[tuple[str, object]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Fold:
    """Blocks, or preformatted text, that a reader can unfold."""

    title: str
    blocks: Sequence[Block] = ()
    text: str | None = None
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Group:
    """Blocks beside each other; ``look`` is figures or grid-of-tables."""

    look: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "group"


def figures(charts: Iterable[Block]) -> Group:
    """Charts, and tables that belong to them, beside each other."""
    return Group("figures", list(charts))


def note(*sentences: str) -> Text:
    """A remark in small print."""
    return Text(" ".join(sentences), "note")
