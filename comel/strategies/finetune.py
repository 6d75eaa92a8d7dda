"""Fine-tuning: train everything on each task as it comes. The floor that every continual method is measured against."""

from comel.strategies.base import Strategy

__all__ = ["Finetune"]


class Finetune(Strategy):
    """The base strategy unchanged: the trunk and the newest head train, older heads are frozen."""
