"""``docs/settings.md``, generated from the schemas by ``make settings``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from comel.app.cli import app
from comel.app.fields import choices_of, default_of, range_of
from comel.app.schemas import EvaluateOptions, ExtractOptions, PredictOptions
from comel.base.kinds import kinds_of, kinds_of_elements
from comel.runs.config import RunConfig
from pipelines.synth.settings import SynthSettings

__all__ = ["settings_page"]

_INTRODUCTION = """# Settings

A setting of a command can be given in three ways. An option overrides `--set KEY=VALUE`, which overrides a YAML file given by
`--config`, which overrides the default.

    comel extract cohort.csv --out bags --config extract.yaml --set target_mpp=1.0 --tile-size 224

Here `extract.yaml` may hold

    encoder: uni
    target_mpp: 0.5
    regions: [Tumor, Stroma]
    tissue_folder: drawn

In Python the same keys are keywords: `comel.extract("cohort.csv", "bags", encoder="uni", target_mpp=1.0, tile_size=224)`.

- An unknown key is an error that names the nearest one. So is a key that appears twice.
- A relative path in a file starts from the file's folder. In an option and in `--set` it starts from the working directory.
- Values are YAML. A text setting is read literally, so the labels `007`, `no`, `null`, `1:30` and
  `2024-01-01` need no quotes. If a setting may be none, `null` means none, and the text null needs quotes.
- `comel inspect` and `comel bench extract` take the file of `comel extract`; keys that do not concern them have no effect.

The settings of the service are in [operations.md](operations.md#settings). The options of models and strategies are in the
sections `model` and `strategy` of a training: [strategies-and-models.md](strategies-and-models.md).
"""


def settings_page() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION]
    for title, command, schema in (
        ("comel extract", "extract", ExtractOptions),
        ("comel predict", "predict", PredictOptions),
        ("comel evaluate", "evaluate", EvaluateOptions),
        ("comel synth", "synth", SynthSettings),
    ):
        parts.append(f"## `{title}`\n\n{_table(schema, _options(command))}")
    parts.append("## `comel train`, `comel add-task`\n")
    for section in ("data", "trainer"):
        schema = kinds_of(RunConfig.model_fields[section].annotation)[0]
        parts.append(f"### `{section}`\n\n{_table(schema, _options('train'), f'{section}.')}")
    return "\n".join(parts)


def _options(command: str) -> dict[str, str]:
    """A command's options by the name of their parameter."""
    group: Any = typer.main.get_command(app)
    return {parameter.name: parameter.opts[0] for parameter in group.commands[command].made().params}


def _table(schema: type[BaseModel], options: dict[str, str], section: str = "") -> str:
    rows = ["| setting | option | value | default | what |", "|---|---|---|---|---|"]
    for name, field in schema.model_fields.items():
        option = options.get(f"{section}{name}".replace(".", "_"))
        default = _code(default_of(field)) or _without_text(field)
        what = (field.description or "").replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{section}{name}` | {_code(option or '')} | {_value(field)} | {default} | {what} |")
    return "\n".join(rows) + "\n"


def _value(field: FieldInfo) -> str:
    """The values that a user may give."""
    kind = next(one for one in kinds_of(field.rebuild_annotation()) if one is not type(None))
    if choices := choices_of(field):
        said = ", ".join(map(_code, choices))
    elif get_origin(kind) is dict:
        said = "lists by name"
    elif kinds_of_elements(kind):
        inner = kinds_of(kinds_of_elements(kind)[0])[0]
        said = f"list of {_KINDS[inner]}s"
    else:
        said = _KINDS[kind]
    return ", ".join([said, *map(_code, filter(None, [range_of(field)]))])


_KINDS = {str: "text", Path: "path", bool: "yes or no", int: "whole number", float: "number"}


def _without_text(field: FieldInfo) -> str:
    """The description of a default that is not text: whether there is one, or a switch is on."""
    if field.is_required():
        return "required"
    return ("no", "yes")[field.default] if isinstance(field.default, bool) else "none"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    sys.stdout.write(settings_page())
