"""User errors, each reported in one line: what is wrong, where, and what to do about it.

Every command turns a :class:`ComelError` into one line on standard error and exit code 2; the service turns it into a
problem+json answer with status 4xx. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import unicodedata


def _one_line(text: str) -> str:
    """``text`` on one line, with unprintable characters escaped: names come from files and go to terminals."""
    line = " ".join(str(text).split())
    if line.isprintable():
        return line
    return "".join(sign if _is_harmless(sign) else f"\\u{ord(sign):04x}" for sign in line)


def _is_harmless(sign: str) -> bool:
    # Cc: control characters; Cs: lone surrogates; the others change the direction of writing.
    turns = "\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069"
    return not turns and unicodedata.category(sign) not in ("Cc", "Cs")


class ComelError(Exception):
    """A mistake in the input, with its remedy.

    Args:
        what: what is wrong, with the place (file, slide, row, key).
        remedy: what the user can do about it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = _one_line(what), _one_line(remedy)
        super().__init__(f"{self.what}; {self.remedy}" if self.remedy else self.what)


class ConfigError(ComelError):
    """A setting that does not exist or does not fit."""


class ManifestError(ComelError):
    """A manifest row or column that cannot be used."""


class BagError(ComelError):
    """A feature file that cannot be used: damaged, hostile, or empty where it must not be."""


class MissingBag(BagError):
    """A slide has no feature file."""


class FeatureMismatch(BagError):
    """A bag whose features were not made as the model's feature contract requires."""


class RunError(ComelError):
    """A run directory that is missing, unfinished or damaged."""

    @classmethod
    def damaged(cls, path: object, why: str) -> RunError:
        """The error for a run's file whose content is not what was written."""
        return cls(f"{path}: damaged ({why})", "restore the run from a copy")


class CapacityError(ComelError):
    """No free directions are left for another orthogonal adapter."""


class SlideError(ComelError):
    """A slide that cannot be read or used. ``stage`` is the step that failed: open, mpp, tissue, tiles, annotation, stain,
    encode, write."""

    def __init__(self, what: str, remedy: str = "", *, stage: str = "open") -> None:
        super().__init__(what, remedy)
        self.stage = stage
