"""The continual learning strategies by name. Each is one file under the contract of :mod:`comel.strategies.base`."""

from typing import Any

from comel.base.registry import resolve

__all__ = ["STRATEGIES", "strategy_class"]

STRATEGIES = {
    "finetune": "comel.strategies.finetune:Finetune",
    "joint": "comel.strategies.joint:Joint",
    "ewc": "comel.strategies.ewc:EWC",
    "lwf": "comel.strategies.lwf:LwF",
    "agem": "comel.strategies.agem:AGEM",
    "er": "comel.strategies.er:ER",
    "er-ace": "comel.strategies.er_ace:ERACE",
    "derpp": "comel.strategies.derpp:DERpp",
    "conslide": "comel.strategies.conslide:ConSlide",
    "lora": "comel.strategies.lora:Lora",
    "inflora": "comel.strategies.inflora:InfLora",
    "owlora": "comel.strategies.owlora:OWLora",
}


def strategy_class(name: str) -> Any:
    """The strategy class called ``name``: ours, an entry point in ``comel.strategies``, or ``file.py:Class``."""
    return resolve(name, STRATEGIES, "comel.strategies")
