"""CoMEL: continual multiple instance learning on whole-slide images.

The commands of ``comel`` as functions, with the same words: :func:`synth`, :func:`extract`, :func:`train`, :func:`add_task`,
:func:`evaluate`, :func:`predict`, :func:`serve`, :func:`inspect`, :func:`check_bags`, :func:`demo`. They are loaded when
first used; importing this package imports no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comel.api import add_task, check_bags, demo, evaluate, extract, inspect, predict, serve, synth, train

__all__ = ["add_task", "check_bags", "demo", "evaluate", "extract", "inspect", "predict", "serve", "synth", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from comel import api

        return getattr(api, name)
    raise AttributeError(f"module 'comel' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
