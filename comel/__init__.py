"""CoMEL: continual multiple instance learning on whole-slide images.

The commands of ``comel`` as functions, their options as keywords: :func:`synth`, :func:`extract`, :func:`inspect`,
:func:`check_bags`, :func:`bag_statistics`, :func:`export_clam`, :func:`train`, :func:`train_folds`, :func:`train_orders`,
:func:`add_task`, :func:`evaluate`, :func:`report`, :func:`predict`, :func:`serve`, :func:`demo`, :func:`bench_continual`.
They are loaded when first used; importing this package imports no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comel.api import bench_extract, check_bags, demo, encoders, extract, extract_status, inspect, serve, synth, worker
    from comel.bag_statistics import bag_statistics
    from comel.benchmark.continual import run_continual as bench_continual
    from comel.evaluation import evaluate
    from comel.export import export_clam
    from comel.folds import train_folds, train_orders
    from comel.predict_cohort import predict_cohort as predict
    from comel.reporting.write import write_report as report
    from comel.training import add_task, train

__all__ = [
    "add_task",
    "bag_statistics",
    "bench_continual",
    "bench_extract",
    "check_bags",
    "demo",
    "encoders",
    "evaluate",
    "export_clam",
    "extract",
    "extract_status",
    "inspect",
    "predict",
    "report",
    "serve",
    "synth",
    "train",
    "train_folds",
    "train_orders",
    "worker",
]

_ELSEWHERE = {
    "add_task": "comel.training:add_task",
    "bag_statistics": "comel.bag_statistics:bag_statistics",
    "bench_continual": "comel.benchmark.continual:run_continual",
    "evaluate": "comel.evaluation:evaluate",
    "export_clam": "comel.export:export_clam",
    "predict": "comel.predict_cohort:predict_cohort",
    "report": "comel.reporting.write:write_report",
    "train": "comel.training:train",
    "train_folds": "comel.folds:train_folds",
    "train_orders": "comel.folds:train_orders",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        module, _, function = _ELSEWHERE.get(name, f"comel.api:{name}").partition(":")
        return getattr(import_module(module), function)
    raise AttributeError(f"module 'comel' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
