"""The models by name. Each is one file under the contract of :mod:`comel.models.base`."""

from typing import Any

from comel.base.trust import Trust

__all__ = ["MODELS", "model_class"]

MODELS = {
    "comel": "comel.models.comel:CoMEL",
    "mean": "comel.models.mean:MeanPooling",
    "max": "comel.models.max:MaxPooling",
    "abmil": "comel.models.abmil:ABMIL",
    "clam-sb": "comel.models.clam_sb:CLAMSingleBranch",
    "clam-mb": "comel.models.clam_mb:CLAMMultiBranch",
    "dsmil": "comel.models.dsmil:DSMIL",
    "transmil": "comel.models.transmil:TransMIL",
    "rrt-mil": "comel.models.rrt_mil:RRTMIL",
}


def model_class(name: str, trust: Trust | None = None, *, sha256: str | None = None, note_unchecked: bool = False) -> Any:
    """The model class called ``name``: a built-in, an entry point in ``comel.models``, or a trusted ``file.py:Class``.

    See :meth:`comel.base.trust.Trust.resolve`.
    """
    return (trust or Trust()).resolve(name, MODELS, "comel.models", sha256=sha256, note_unchecked=note_unchecked)
