"""What takes the place of worker processes where a test needs no process: calls are made in the test's own."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from comel.base.killable import Fault, KillableWorker, WorkerFailure
from comel.base.workers import WorkerPool
from comel.errors import ComelError


class InThisProcess(KillableWorker):
    """Calls functions here: nothing is protected against a crash, and no time limit holds."""

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        timeout: float | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call the function here."""
        try:
            return function(*arguments, *([tell] if tell is not None else []))
        except ComelError:
            raise
        except Exception as error:  # as a child process, which hands on what any function raises
            kind = type(error).__name__
            said = f"{kind}: {' '.join(str(error).split())}"
            raise WorkerFailure(Fault.DEFECT, said, kind=kind, trace=traceback.format_exc()) from error


class PoolInThisProcess(WorkerPool):
    """Makes one call after the other here, whatever its size, so that torch is imported once."""

    def __init__(self, size: int = 1) -> None:
        super().__init__(1)

    def call(self, function: Callable[..., Any], *arguments: Any, **limits: Any) -> Any:
        """Call the function here."""
        with self._one(None):
            return InThisProcess().call(function, *arguments)
