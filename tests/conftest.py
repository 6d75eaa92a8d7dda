"""The order of the tests."""

from __future__ import annotations

import pytest

LONGEST = ("test_demo.py", "test_train.py", "test_jobs_survive.py", "test_batch_faults.py", "test_extract_command.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest first: what begins last keeps one process busy while the others have nothing left to do."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
