"""How the threads of torch wait for each other on a CPU: asleep.

Between two parts of a computation OpenMP's threads spin by default, which saves them microseconds if every thread has a core to
itself. Beside other processes the spinning takes the core of the thread that is waited for, and a small step becomes many times
slower. The variable is read when torch is loaded, so it must stand in the environment before.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["waiting_asleep"]

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def waiting_asleep(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to ``environment`` for a process that has not loaded torch; none if it says how threads wait."""
    return {} if any(name in environment for name in _VARIABLES) else {"OMP_WAIT_POLICY": "PASSIVE"}
