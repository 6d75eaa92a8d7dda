"""Types of settings, as a user may write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = ["Written", "kind_at", "kinds_of", "kinds_of_elements"]


@dataclass(frozen=True)
class Written:
    """Forms that a user may write besides a field's type, such as text with commas for a tuple, or an image for its stains."""

    kind: Any


def kinds_of(kind: Any) -> list[Any]:
    """The types that a value of an annotation may have: those in :class:`Written` first, then a union's members."""
    if get_origin(kind) is Annotated:
        bare, *notes = get_args(kind)
        return [*(note.kind for note in notes if isinstance(note, Written)), *kinds_of(bare)]
    if get_origin(kind) in (Union, UnionType):
        return [one for arm in get_args(kind) for one in kinds_of(arm)]
    return [kind]


def kinds_of_elements(kind: Any) -> list[Any]:
    """The types of a list's elements: one for all, or one for each in a tuple; empty if the annotation has no list."""
    for one in kinds_of(kind):
        if get_origin(one) in (list, tuple):
            return [inner for inner in get_args(one) if inner is not Ellipsis]
    return []


def kind_at(kind: Any, keys: Sequence[Any]) -> Any:
    """The type of the value that ``keys`` lead to, through sections and mappings; ``Any`` if the schema does not say."""
    for key in keys:
        kind = _kind_of_value(kind, key)
    return kind


def _kind_of_value(kind: Any, key: Any) -> Any:
    for one in kinds_of(kind):
        if isinstance(one, type) and issubclass(one, BaseModel) and key in one.model_fields:
            return one.model_fields[key].rebuild_annotation()
        if get_origin(one) is dict:
            return get_args(one)[1]
    return Any
