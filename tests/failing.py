"""What tests ask of calls to other processes that come to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from comel.base.killable import Fault, WorkerFailure


@contextmanager
def failing(fault: Fault, match: str | None = None) -> Iterator[pytest.ExceptionInfo[WorkerFailure]]:
    """The block fails in this way."""
    with pytest.raises(WorkerFailure, match=match) as caught:
        yield caught
    assert caught.value.fault is fault
