"""The continual learning strategies by name. Each is one file under the contract of :mod:`comel.strategies.base`."""

from typing import Any

from comel.registry import resolve

__all__ = ["STRATEGIES", "strategy_class"]

STRATEGIES = {
    "finetune": "comel.strategies.finetune:Finetune",
    "joint": "comel.strategies.joint:Joint",
    "owlora": "comel.strategies.owlora:OWLora",
}


def strategy_class(name: str) -> Any:
    """The strategy class called ``name``: ours, an entry point in ``comel.strategies``, or ``file.py:Class``."""
    return resolve(name, STRATEGIES, "comel.strategies")
