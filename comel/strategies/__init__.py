"""The continual learning strategies by name. Each is one file under the contract of :mod:`comel.strategies.base`."""

from typing import Any

from comel.base.trust import Trust

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


def strategy_class(name: str, trust: Trust | None = None, *, sha256: str | None = None, note_unchecked: bool = False) -> Any:
    """The strategy class called ``name``: a built-in, an entry point in ``comel.strategies``, or a trusted ``file.py:Class``.

    See :meth:`comel.base.trust.Trust.resolve`.
    """
    return (trust or Trust()).resolve(name, STRATEGIES, "comel.strategies", sha256=sha256, note_unchecked=note_unchecked)
