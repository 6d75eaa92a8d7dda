"""CoMEL: continual multiple instance learning on whole-slide images.

The commands of ``comel`` as functions, their options as keywords: :func:`synth`, :func:`extract`, :func:`inspect`,
:func:`check_bags`, :func:`bag_statistics`, :func:`export_clam`, :func:`train`, :func:`train_folds`, :func:`train_orders`,
:func:`add_task`, :func:`evaluate`, :func:`report`, :func:`predict`, :func:`serve`, :func:`demo`, :func:`bench_continual`,
:func:`bench_mixers`, :func:`mixers`, :func:`analyse`.
They are loaded on first use; importing this package does not import torch. ``comel.__version__`` is its version.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comel.app.analyse import analyse
    from comel.app.api import (
        bench_extract,
        check_bags,
        demo,
        encoders,
        extract,
        extract_status,
        inspect,
        mixers,
        serve,
        synth,
        worker,
    )
    from comel.app.benchmark.continual import run_continual as bench_continual
    from comel.app.benchmark.mixers.run import run_mixers as bench_mixers
    from comel.app.predict.slides import predict_cohort as predict
    from comel.bags.summary import bag_statistics
    from comel.cohort.clam import export_clam
    from comel.reporting.write import write_report as report
    from comel.scoring.evaluate import evaluate
    from comel.training.cross_validation import train_folds, train_orders
    from comel.training.train import add_task, train

    __version__: str

__all__ = [
    "add_task",
    "analyse",
    "bag_statistics",
    "bench_continual",
    "bench_extract",
    "bench_mixers",
    "check_bags",
    "demo",
    "encoders",
    "evaluate",
    "export_clam",
    "extract",
    "extract_status",
    "inspect",
    "mixers",
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
    "add_task": "comel.training.train:add_task",
    "analyse": "comel.app.analyse:analyse",
    "bag_statistics": "comel.bags.summary:bag_statistics",
    "bench_continual": "comel.app.benchmark.continual:run_continual",
    "bench_mixers": "comel.app.benchmark.mixers.run:run_mixers",
    "evaluate": "comel.scoring.evaluate:evaluate",
    "export_clam": "comel.cohort.clam:export_clam",
    "predict": "comel.app.predict.slides:predict_cohort",
    "report": "comel.reporting.write:write_report",
    "train": "comel.training.train:train",
    "train_folds": "comel.training.cross_validation:train_folds",
    "train_orders": "comel.training.cross_validation:train_orders",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from comel.base.version import comel_version

        return comel_version()
    if name in __all__:
        from importlib import import_module

        module, _, function = _ELSEWHERE.get(name, f"comel.app.api:{name}").partition(":")
        return getattr(import_module(module), function)
    raise AttributeError(f"module 'comel' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), "__version__", *__all__])
