"""Joint training: all tasks at once, as if no data had ever to be given up. The ceiling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from comel.cohort.tasks import TaskData
from comel.strategies.base import Strategy

__all__ = ["Joint"]


class Joint(Strategy):
    """One stage that holds every task."""

    continual = False

    def stream(self, tasks: Sequence[TaskData]) -> Iterable[tuple[TaskData, ...]]:
        """All tasks in one group."""
        return [tuple(tasks)]
