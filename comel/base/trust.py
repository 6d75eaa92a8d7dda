"""What a user trusts besides built-ins and installed packages: files of Python code, and models from a hub.

A run directory, a configuration in it and a feature file are data: a name in them runs no code and fetches nothing. It can
refer to a user's own file only if the user names that file, on the command line (``--trust FILE.py``) or in the
service's settings (``trusted_code``), and only if its content is what the run was trained with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from comel.base.registry import is_user_code, read_user_code, resolve_name, resolve_user_code, split_user_code
from comel.errors import ConfigError

__all__ = ["Trust"]

_HUB = "hf:"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Trust:
    """What the user declared as trusted.

    Args:
        words: ``FILE.py``, ``FILE.py:Class`` or ``hf:NAME``, each as the user gave it.
        setting: of the service, where the words stand in its settings; default the command line's options.

    Attributes:
        notes: what the user should know of code that was run: where it could not be compared.
        setting: see above.

    Raises:
        ConfigError: a word has none of these forms, or there is no such file.
    """

    def __init__(self, words: Iterable[str | Path] = (), *, setting: str | None = None) -> None:
        self.notes: list[str] = []
        self.setting = setting
        self._hub: set[str] = set()
        self._files: list[tuple[Path, str | None]] = []
        self._loaded: dict[tuple[str, str | None], Any] = {}
        for word in map(str, words):
            self._take(word)

    @classmethod
    def of_settings(cls, *sections: Mapping[str, Any], words: Iterable[str | Path] = ()) -> Trust:
        """Trust in the files that the user's settings name, and in ``words``."""
        named = [str(section.get("name")) for section in sections]
        return cls([*words, *dict.fromkeys(name for name in named if is_user_code(name))])

    @property
    def encoders(self) -> list[str]:
        """The words that may be patch encoders: ``FILE.py:Class``."""
        return [f"{path}:{attribute}" for path, attribute in self._files if attribute is not None]

    def how_to_say(self, word: str, option: str = "--trust") -> str:
        """How a user gives a word: as this option of the command line, or in the service's setting."""
        return f"{option} {word}" if self.setting is None else f"{word} in the service's setting {self.setting}"

    def allows_hub(self, name: str) -> bool:
        """Whether the user named this model from a hub, ``hf:NAME``."""
        return name in self._hub

    def resolve(
        self, name: str, known: Mapping[str, str], group: str, *, sha256: str | None = None, note_unchecked: bool = False
    ) -> Any:
        """The class that a name refers to, possibly in a file.

        Args:
            name: a built-in, an installed package's class, or ``FILE.py:Class`` if the user trusts that file. The file is
                found by its content if ``sha256`` is known, wherever it lies now; otherwise by its name.
            known, group: see :func:`comel.base.registry.resolve_name`.
            sha256: of the file's content when it was first used, as a run stores it; None if unknown.
            note_unchecked: leave a note if it is unknown.

        Raises:
            ConfigError: the name is unknown, the user did not name the file, or its content differs.
        """
        if not is_user_code(name):
            return resolve_name(name, known, group)
        if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            raise ConfigError(f"'{name}': {sha256!r} is not a SHA-256", "leave code_sha256 out, or restore the run from a copy")
        if (name, sha256) not in self._loaded:
            path, attribute = self._trusted_file(name, sha256), split_user_code(name)[1]
            found, content = resolve_user_code(f"{path}:{attribute}")
            if sha256 is not None and content != sha256:
                raise _changed(path, content, sha256)
            if sha256 is None and note_unchecked:
                self.notes.append(f"{path}: run without knowing whether it is the code that the run was trained with")
            self._loaded[name, sha256] = found
        return self._loaded[name, sha256]

    def sha256(self, name: str) -> str | None:
        """SHA-256 (hex) of the file that ``FILE.py:Class`` names; None for other names."""
        if not is_user_code(name):
            return None
        return hashlib.sha256(read_user_code(self._trusted_file(name, None))).hexdigest()

    def _take(self, word: str) -> None:
        if word.startswith(_HUB) and len(word) > len(_HUB):
            self._hub.add(word)
            return
        path, attribute = split_user_code(word) if is_user_code(word) else (Path(word), None)
        if path.suffix != ".py" or attribute == "":
            raise ConfigError(f"'{word}' cannot be trusted: it is not a code file", "name FILE.py, FILE.py:Class or hf:NAME")
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", "check the path")
        if (path, attribute) not in self._files:
            self._files.append((path, attribute))

    def _trusted_file(self, name: str, sha256: str | None) -> Path:
        """The user's copy of a named file; its content is compared again when it is run."""
        recorded, wanted = split_user_code(name)
        own = list(dict.fromkeys(path for path, attribute in self._files if attribute in (None, wanted)))
        contents = {} if sha256 is None else {path: hashlib.sha256(read_user_code(path)).hexdigest() for path in own}
        same = [path for path in own if contents.get(path) == sha256]
        if sha256 is not None and same:
            return same[0]
        namesakes = [path for path in own if path.name == recorded.name]
        if not namesakes:
            raise ConfigError(
                f"'{name}' is code in a file, and a run does not carry code",
                f"if you know that file and trust it, name your copy of it: {self.how_to_say(recorded.name)}",
            )
        if sha256 is not None:
            raise _changed(namesakes[0], contents[namesakes[0]], sha256)
        exact = [path for path in namesakes if path.absolute() == recorded.absolute()]
        if not exact and len(namesakes) > 1:
            raise ConfigError(f"'{name}' may be {' or '.join(map(str, namesakes))}", "name one of them")
        return (exact or namesakes)[0]


def _changed(path: Path, content: str, sha256: str) -> ConfigError:
    return ConfigError(
        f"{path}: not the code that the run was trained with (SHA-256 {content[:12]}... instead of {sha256[:12]}...)",
        "give the file in its state then, or train a new run",
    )
