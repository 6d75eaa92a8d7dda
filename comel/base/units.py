"""Words that mean the same in every room."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Mode"]


class Mode(StrEnum):
    """What a model is asked, as settings, versions, predictions and tables of scores spell it.

    A run is trained class-incrementally or domain-incrementally. A class-incremental one also answers with the task given.
    """

    CLASS = "class-incremental"
    """Which of the classes of all tasks; the task is not known."""
    TASK = "task-incremental"
    """Which of the given task's classes."""
    DOMAIN = "domain-incremental"
    """Which of the classes that all tasks share; the task plays no part."""

    def __repr__(self) -> str:
        """As a user writes it: this is what pydantic's messages show."""
        return repr(self.value)

    @property
    def key(self) -> str:
        """The mode as a key of JSON answers, ``class_incremental``."""
        return self.value.replace("-", "_")
