"""What a user trusts: a file by its path or its content, a hub's model by its name, and nothing that a file says by itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from comel.base.trust import Trust
from comel.errors import ConfigError

CODE = "class Mine:\n    pass\nclass Other:\n    pass\n"
SHA256 = hashlib.sha256(CODE.encode()).hexdigest()
KNOWN = {"path": "pathlib:Path"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def resolve(trust: Trust, name: str, sha256: str | None = None) -> str:
    return str(trust.resolve(name, KNOWN, "comel.models", sha256=sha256).__name__)


def test_without_a_word_a_name_is_what_is_installed(mine: Path) -> None:
    assert resolve(Trust(), "path") == "Path"
    with pytest.raises(
        ConfigError, match=r"mine\.py:Mine' is code in a file, and a run does not carry code; .* --trust mine\.py"
    ):
        resolve(Trust(), f"{mine}:Mine")
    with pytest.raises(ConfigError, match="models: no 'os'"):
        resolve(Trust(), "os")


def test_a_service_names_its_setting(mine: Path) -> None:
    assert Trust().how_to_say("mine.py") == "--trust mine.py"
    trust = Trust(setting="trusted_code")
    with pytest.raises(ConfigError, match=r"name your copy of it: mine\.py in the service's setting trusted_code$"):
        resolve(trust, f"{mine}:Mine")


def test_a_file_is_found_by_its_name_or_its_content(mine: Path, tmp_path: Path) -> None:
    for word in (mine, f"{mine}:Mine"):
        assert resolve(Trust([word]), f"{mine}:Mine") == "Mine"
        assert resolve(Trust([word]), "/another/machine/mine.py:Mine") == "Mine"
        assert resolve(Trust([word]), "/another/machine/mine.py:Mine", SHA256) == "Mine"
        assert resolve(Trust([word]), "/another/machine/renamed.py:Mine", SHA256) == "Mine"
    with pytest.raises(ConfigError, match="does not carry code"):
        resolve(Trust([mine]), "/another/machine/renamed.py:Mine")
    with pytest.raises(ConfigError, match="does not carry code"):
        resolve(Trust([f"{mine}:Mine"]), f"{mine}:Other")
    assert resolve(Trust([mine]), f"{mine}:Other") == "Other"


def test_a_file_that_has_changed_is_not_run(mine: Path, tmp_path: Path) -> None:
    mine.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'run')!r}).touch()\n{CODE}")
    with pytest.raises(ConfigError, match=r"mine\.py: not the code that the run was trained with \(SHA-256 [0-9a-f]{12}"):
        resolve(Trust([mine]), f"{mine}:Mine", SHA256)
    assert not (tmp_path / "run").exists()


def test_a_hash_that_is_none_is_refused(mine: Path) -> None:
    for sha256 in ("", "ab", "Z" * 64, 5, ["x"]):
        with pytest.raises(ConfigError, match="is not a SHA-256"):
            resolve(Trust([mine]), f"{mine}:Mine", sha256)  # type: ignore[arg-type]


def test_two_files_of_one_name_are_told_apart_by_path_or_content(mine: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "mine.py"
    other.parent.mkdir()
    other.write_text("class Mine:\n    other = True\n")
    trust = Trust([mine, other])
    assert trust.resolve(f"{other}:Mine", {}, "comel.models").other is True
    assert not hasattr(trust.resolve("/third/mine.py:Mine", {}, "comel.models", sha256=SHA256), "other")
    with pytest.raises(ConfigError, match=r"may be .* or .*; name one of them"):
        trust.resolve("/third/mine.py:Mine", {}, "comel.models")


def test_what_could_not_be_compared_is_noted_once(mine: Path) -> None:
    trust = Trust([mine])
    for _ in range(2):
        trust.resolve(f"{mine}:Mine", {}, "comel.models", note_unchecked=True)
    assert len(trust.notes) == 1
    assert "without knowing" in trust.notes[0]
    trust.resolve(f"{mine}:Mine", {}, "comel.models", sha256=SHA256, note_unchecked=True)
    assert len(trust.notes) == 1


def test_a_class_is_loaded_once(mine: Path) -> None:
    trust = Trust([mine])
    first = trust.resolve(f"{mine}:Mine", {}, "comel.models")
    mine.write_text("changed meanwhile")
    assert trust.resolve(f"{mine}:Mine", {}, "comel.models") is first


@pytest.mark.parametrize("word", ["mine", "mine.txt", "mine.py:", "hf:", "os:system", "uni:folder", "", "."])
def test_words_that_name_no_code(word: str, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    with pytest.raises(ConfigError, match=r"cannot be trusted: it is not a code file"):
        Trust([word])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for word in (tmp_path / "no.py", f"{tmp_path}/no.py:Mine"):
        with pytest.raises(ConfigError, match=r"no\.py: no such file"):
            Trust([word])
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ConfigError, match="no such file"):
        Trust([tmp_path / "folder.py"])


def test_a_model_of_a_hub_is_allowed_by_its_whole_name() -> None:
    trust = Trust(["hf:owner/model"])
    assert trust.allows_hub("hf:owner/model")
    assert not trust.allows_hub("hf:owner/other")
    assert not trust.allows_hub("owner/model")
    assert not Trust().allows_hub("hf:owner/model")
