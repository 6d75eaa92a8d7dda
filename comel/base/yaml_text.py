"""YAML read with its schema: a value that the schema declares as text is read literally.

Plain YAML reads the label ``007`` as 7, ``no`` as false, ``null`` as nothing, ``1:30`` as 90 and ``2024-01-01`` as a date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_origin

import yaml
from pydantic import BaseModel, SecretStr

from comel.base.kinds import kind_at, kinds_of, kinds_of_elements
from comel.base.text import first_line
from comel.errors import ConfigError

__all__ = ["read_yaml"]

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}


_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
"""Safe YAML without dates and without base-60 numbers, such as 1:30: no setting uses them."""


def _number(loader: Any, node: yaml.ScalarNode) -> Any:
    if ":" in node.value:
        return node.value
    return loader.construct_yaml_int(node) if node.tag == _TAG + "int" else loader.construct_yaml_float(node)


for _name in ("timestamp", "value", "merge"):
    _Loader.add_constructor(_TAG + _name, lambda loader, node: node.value)
_Loader.add_constructor(_TAG + "int", _number)
_Loader.add_constructor(_TAG + "float", _number)


def read_yaml(text: str, kind: Any, where: str, folder: Path | None = None) -> Any:
    """The value of a YAML text; None if it is empty.

    Args:
        text: one document.
        kind: the expected type, a pydantic schema or an annotation in one. It is not checked here.
        where: the text's origin, for messages.
        folder: what relative paths start from.

    Raises:
        ConfigError: not YAML, or a key appears twice.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node, where)
        return _value(loader, node, kind, folder)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not YAML ({first_line(error)})", "correct it, or put the value in quotes") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply", "correct it") from None


def _value(loader: Any, node: yaml.Node, kind: Any, folder: Path | None) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map" and _names_values(kind):
        loader.flatten_mapping(node)
        pairs = [(_key(loader, key), value) for key, value in node.value]
        return {key: _value(loader, value, kind_at(kind, [key]), folder) for key, value in pairs}
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq" and (inner := kinds_of_elements(kind)):
        kinds = inner if len(inner) == len(node.value) else [inner[0]] * len(node.value)
        return [_value(loader, value, one, folder) for value, one in zip(node.value, kinds, strict=True)]
    if isinstance(node, yaml.ScalarNode) and (text := _text(node, kind)) is not None:
        return folder / text if folder is not None and text and Path in kinds_of(kind) else text
    return loader.construct_object(node, deep=True)


def _text(node: yaml.ScalarNode, kind: Any) -> str | None:
    """The literal text, if ``kind`` declares text. It is null only if the schema allows null or the value is empty."""
    kinds = kinds_of(kind)
    types = tuple(one for one in kinds if isinstance(one, type))
    if node.tag not in _SCALARS or any(issubclass(one, (int, float)) for one in types):
        return None
    if node.tag == _TAG + "null" and (NoneType in types or not node.value):
        return None
    textual = any(issubclass(one, (str, Path, SecretStr)) for one in types) or any(get_origin(one) is Literal for one in kinds)
    return node.value if textual else None


def _key(loader: Any, node: yaml.Node) -> Any:
    """A key as text: the name of a setting, or a label."""
    plain = isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS
    return node.value if plain else loader.construct_object(node, deep=True)


def _names_values(kind: Any) -> bool:
    return any(get_origin(one) is dict or (isinstance(one, type) and issubclass(one, BaseModel)) for one in kinds_of(kind))


def _check_keys(node: yaml.Node, where: str) -> None:
    for mapping in _mappings(node, set()):
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            line, name = key.start_mark.line + 1, key.value
            if not isinstance(name, str) or key.tag == _TAG + "merge":
                continue
            if name in lines:
                raise ConfigError(f"{where}: the key '{name}' appears twice, in lines {lines[name]} and {line}", "remove one")
            lines[name] = line


def _mappings(node: yaml.Node, seen: set[int]) -> Iterator[yaml.MappingNode]:
    """Every mapping once; an alias refers to a node already seen."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
    for part in node.value:
        for inner in part if isinstance(part, tuple) else (part,):
            yield from _mappings(inner, seen)
