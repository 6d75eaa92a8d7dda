"""Joint training: all tasks at once, as if all data were kept. The upper bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from comel.cohort.tasks import TaskData
from comel.strategies.base import Strategy

__all__ = ["Joint"]


class Joint(Strategy):
    """One stage with every task."""

    continual = False

    def stream(self, tasks: Sequence[TaskData]) -> Iterable[tuple[TaskData, ...]]:
        """All tasks in one group."""
        return [tuple(tasks)]
