"""Fine-tuning: train everything on each task as it comes. The lower bound that every continual method is compared with."""

from comel.strategies.base import Strategy

__all__ = ["Finetune"]


class Finetune(Strategy):
    """The base strategy unchanged: the trunk and the newest head train, older heads are frozen."""
