"""What a user can get wrong, said in one line: what, where, and what to do about it.

Every command turns a :class:`ComelError` into one line on standard error and exit code 2; the service turns it into a
problem+json answer with status 4xx. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import unicodedata


def _one_line(text: str) -> str:
    """On one line, with what is no printable character written out: names come from files, and go to terminals."""
    line = " ".join(str(text).split())
    if line.isprintable():
        return line
    return "".join(sign if _is_harmless(sign) else f"\\u{ord(sign):04x}" for sign in line)


def _is_harmless(sign: str) -> bool:
    # Cc are control signs, Cs halves of surrogates; the others turn the direction of writing.
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
    """A bag whose features were made otherwise than the model's feature contract says."""


class RunError(ComelError):
    """A run directory that is missing, unfinished or damaged."""

    @classmethod
    def damaged(cls, path: object, why: str) -> RunError:
        """The error for a file of a run that is not what was written."""
        return cls(f"{path}: damaged ({why})", "restore the run from a copy")


class CapacityError(ComelError):
    """No free directions are left for another orthogonal adapter."""


class SlideError(ComelError):
    """A slide that cannot be read or used. ``stage`` names where: open, mpp, tissue, tiles, annotation, stain,
    encode, write."""

    def __init__(self, what: str, remedy: str = "", *, stage: str = "open") -> None:
        super().__init__(what, remedy)
        self.stage = stage
