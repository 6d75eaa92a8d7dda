"""Which version of each model was pinned, and which answered last: ``<state_dir>/models.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from comel.base.files import read_json, write_json
from comel.errors import ConfigError

__all__ = ["Choice", "ModelChoices"]


class Choice(BaseModel):
    """One model's pinned version, and the version that answered last; None if there is none."""

    model_config = ConfigDict(extra="forbid")

    pinned: PositiveInt | None = None
    serving: PositiveInt | None = None


class ModelChoices:
    """The choices of one state folder; read each time, since several processes share them."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "models.json"

    def read(self, name: str) -> Choice:
        """A model's choice.

        Raises:
            ConfigError: the file is damaged. Guessing might serve a version that was rolled back.
        """
        return self._all().get(name, Choice())

    def pin(self, name: str, version: int | None, *, serving: int) -> None:
        """Record the pinned version, or None."""
        self._write(name, Choice(pinned=version, serving=serving))

    def serve(self, name: str, version: int) -> None:
        """Record which version answers."""
        if (before := self.read(name)).serving != version:
            self._write(name, before.model_copy(update={"serving": version}))

    def _write(self, name: str, choice: Choice) -> None:
        choices = self._all() | {name: choice}
        write_json(self._path, {key: value.model_dump() for key, value in choices.items()})

    def _all(self) -> dict[str, Choice]:
        try:
            content = read_json(self._path)
            return {name: Choice.model_validate(value) for name, value in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, ValidationError, AttributeError, RecursionError):
            raise ConfigError(f"{self._path}: cannot be read", "restore a copy, or delete it to follow every run") from None
