"""The classes that a model distinguishes: labels in heads, one head per task, or one head for all domains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from comel.errors import ConfigError

__all__ = ["ClassSpace", "Head"]


@dataclass(frozen=True)
class Head:
    """The labels of one classification head.

    Attributes:
        name: the task's name; in a domain-incremental run the name of the one head.
        labels: label names in column order.
        negative: the label that means "nothing found", or None if every label is a finding.
    """

    name: str
    labels: tuple[str, ...]
    negative: str | None

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ConfigError(f"task '{self.name}' has only the label(s) {', '.join(self.labels)}", "give at least two labels")
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ConfigError(f"task '{self.name}' has the label '{twice}' twice", "name each label once")
        if self.negative is not None and self.negative not in self.labels:
            raise ConfigError(f"task '{self.name}' has no label '{self.negative}'", "name one of its labels, or none")

    @property
    def positive(self) -> tuple[bool, ...]:
        """For each label, whether it is a finding."""
        return tuple(label != self.negative for label in self.labels)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Head:
        """The inverse of :meth:`to_dict`."""
        return cls(value["name"], tuple(value["labels"]), value["negative"])


@dataclass(frozen=True)
class ClassSpace:
    """All classes of a model, in column order: the labels of the first head, then of the second, and so on."""

    heads: tuple[Head, ...]

    @classmethod
    def of(cls, heads: Iterable[Head]) -> ClassSpace:
        """From heads in order; names must differ."""
        space = cls(tuple(heads))
        names = [head.name for head in space.heads]
        if len(set(names)) != len(names):
            raise ConfigError(f"two tasks are called '{next(n for n in names if names.count(n) > 1)}'", "rename one")
        return space

    def __len__(self) -> int:
        return sum(len(head.labels) for head in self.heads)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, ``task/label``."""
        return tuple(f"{head.name}/{label}" for head in self.heads for label in head.labels)

    def head_index(self, name: str) -> int:
        """Position of the head called ``name``."""
        for index, head in enumerate(self.heads):
            if head.name == name:
                return index
        raise ConfigError(f"the model has no task '{name}'", f"it knows {', '.join(head.name for head in self.heads)}")

    def columns(self, head: int) -> slice:
        """The columns of head number ``head``."""
        start = sum(len(other.labels) for other in self.heads[:head])
        return slice(start, start + len(self.heads[head].labels))

    def column(self, head: int, label: str) -> int:
        """The column of a label of head number ``head``.

        Raises:
            ConfigError: the head has no such label.
        """
        if label not in self.heads[head].labels:
            known: Sequence[str] = self.heads[head].labels
            raise ConfigError(f"task '{self.heads[head].name}' has no label '{label}'", f"it has {', '.join(known)}")
        column: int = self.columns(head).start + self.heads[head].labels.index(label)
        return column

    def head_of(self, column: int) -> int:
        """Number of the head that a column belongs to."""
        return next(i for i in range(len(self.heads)) if self.columns(i).start <= column < self.columns(i).stop)

    @property
    def positive(self) -> tuple[bool, ...]:
        """For each column, whether it is a finding."""
        return tuple(flag for head in self.heads for flag in head.positive)
