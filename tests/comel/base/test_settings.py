"""Settings from files and ``--set``: labels stay the manifest's text, numbers are numbers, the nearer source wins."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, Field

from comel.base.kinds import Written
from comel.base.settings import Name, Section, apply_overrides, comma_separated, gather, load_yaml, parse_section
from comel.base.yaml_text import read_yaml
from comel.errors import ConfigError

TAKEN_FOR_SOMETHING_ELSE = [
    "007", "010", "0", "1", "0x10", "0b1", "0o7", "1e3", "1.5e+3", "1_000", "1_0", ".5", "1.50", "+1", "-0", "1:30",
    "no", "yes", "No", "YES", "on", "off", "true", "False", "y", "n", "null", "NULL", "Null", "~", ".inf", "-.INF", ".nan",
    "2024-01-01", "2024-13-45", "2024-01-01 10:00:00", "2001-12-14t21:59:43.10-05:00", "=", "<<", "1.2.3", "19:20:30.15",
]  # fmt: skip


class Inner(Section):
    label: Name = "normal"
    count: int = 1
    rate: float = 0.5
    on: bool = False
    maybe: str | None = None
    folder: Path | None = None
    folders: tuple[Path, ...] = ()
    names: list[Name] | None = None
    of_task: dict[Name, list[Name]] | None = None
    either: Literal["yes", "no"] = "yes"
    pair: tuple[Name, int] = ("a", 1)
    words: Annotated[tuple[str, ...], BeforeValidator(comma_separated), Written(str)] = ()


class Outer(Section):
    inner: Inner = Field(default_factory=lambda: Inner())
    open: dict[str, Any] = Field(default_factory=dict)


def of_file(folder: Path, text: str) -> Inner:
    (folder / "settings.yaml").write_text(text, encoding="utf-8")
    found: Outer = parse_section(Outer, *gather(Outer, "settings", files=[folder / "settings.yaml"]))
    return found.inner


def of_set(*overrides: str) -> Inner:
    found: Outer = parse_section(Outer, *gather(Outer, "settings", overrides=overrides))
    return found.inner


def mistake(*overrides: str, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_section(Outer, *gather(Outer, "settings", overrides=overrides, **more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("label", TAKEN_FOR_SOMETHING_ELSE, ids=lambda label: label[:24])
def test_a_label_is_what_stands_there(label: str, tmp_path: Path) -> None:
    file = f"inner:\n  label: {label}\n  names: [{label}, a]\n  of_task: {{{label}: [{label}, b]}}\n  pair: [{label}, 2]\n"
    overrides: tuple[str, ...] = (
        f"inner.label={label}",
        f"inner.names=[{label}, a]",
        f"inner.of_task.{label}=[{label}, b]",
        f"inner.pair=[{label}, 2]",
    )
    if "." in label or "=" in label:  # these divide keys, and a key from its value
        overrides = (*overrides[:2], f"inner.of_task={{{label}: [{label}, b]}}", overrides[3])
    if label == "<<":  # as a key it merges
        file, overrides = file.replace("{<<:", "{'<<':"), tuple(text.replace("{<<:", "{'<<':") for text in overrides)
    for found in (of_file(tmp_path, file), of_set(*overrides)):
        assert found.label == label
        assert found.names == [label, "a"]
        assert found.of_task == {label: [label, "b"]}
        assert found.pair == (label, 2)


@settings(deadline=None, max_examples=300)
@given(st.text("0123456789._:-+eExXoObBnNuUlLyYsStTrRfFaA~", min_size=1, max_size=12))
def test_whatever_yaml_would_make_of_it(label: str) -> None:
    """Of every text that YAML takes for one plain value, whatever it means by it."""
    try:
        node = yaml.compose(label, yaml.SafeLoader)
    except yaml.YAMLError:
        assume(False)
    assume(isinstance(node, yaml.ScalarNode) and node.value == label)
    assert of_set(f"inner.label={label}").label == label


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
def test_what_yaml_writes_is_read_back(label: str) -> None:
    content = {"label": label, "names": [label], "of_task": {label: [label]}, "maybe": label, "words": [label]}
    assert read_yaml(yaml.safe_dump(content, allow_unicode=True), Inner, "text") == content


def test_what_is_no_text_is_read_as_yaml() -> None:
    found = of_set("inner.count=0x10", "inner.rate=1e-4", "inner.on=yes", "inner.maybe=~", "inner.names=null")
    assert (found.count, found.rate, found.on, found.maybe, found.names) == (16, 1e-4, True, None, None)
    assert of_set("inner.maybe='null'").maybe == "null"
    assert of_set("inner.maybe=no").maybe == "no"
    assert of_set("inner.either=no").either == "no"
    assert of_set("inner.words=no,yes").words == ("no", "yes")
    assert of_set("inner.words=[no, 1]").words == ("no", "1")
    assert of_set("inner.words=none").words == ()


def test_a_label_of_more_digits_than_python_reads() -> None:
    assert of_set(f"inner.label={'1' * 5000}").label == "1" * 5000
    assert "the value is not YAML" in mistake(f"inner.count={'1' * 5000}")


def test_a_value_that_was_forgotten_is_no_label() -> None:
    for override in ("inner.label=", "inner={label: }"):
        assert "inner.label: Input should be a valid string (given: None)" in mistake(override)


def test_numbers_to_the_base_of_sixty_are_none() -> None:
    assert "given: '1:30'" in mistake("inner.count=1:30")
    content: dict[str, Any] = {}
    apply_overrides(content, ["open={a: 1:30, b: 2024-01-01, c: 12, d: 1.5, e: [no]}"], Outer)
    assert content["open"] == {"a": "1:30", "b": "2024-01-01", "c": 12, "d": 1.5, "e": [False]}


def test_relative_paths_start_from_their_file(tmp_path: Path) -> None:
    found = of_file(tmp_path, "inner: {folder: 2024-01-01, folders: [a/b, /c]}")
    assert found.folder == tmp_path / "2024-01-01"
    assert found.folders == (tmp_path / "a/b", Path("/c"))
    assert of_set("inner.folder=a/b").folder == Path("a/b")
    assert load_yaml(tmp_path / "settings.yaml", Outer, relative=False)["inner"]["folder"] == "2024-01-01"


def test_an_option_wins_over_set_over_a_file_over_another(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("inner: {count: 1, rate: 0.1, label: a, maybe: first}")
    second.write_text("inner: {count: 2, rate: 0.2, label: b}")
    content, _ = gather(
        Outer, "x", files=[first, second], overrides=["inner.count=3", "inner.rate=0.3"], options={"inner.count": 4}
    )
    assert content == {"inner": {"count": 4, "rate": 0.3, "label": "b", "maybe": "first"}}


def test_a_mistake_says_where_the_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("inner: {count: many, rate: 0.1, names: [a, {}]}")
    assert mistake(files=[file]).startswith(f"{file}: inner.count: Input should be a valid integer")
    assert mistake("inner.count=1", files=[file]).startswith(f"{file}: inner.names.1: ")
    assert mistake("inner.count=1", "inner.names=[{}]", files=[file]).startswith("settings: inner.names.0: ")
    assert mistake(files=[file], options={"inner.cuont": 1, "inner.count": 1, "inner.names": None}) == (
        "settings: unknown key 'inner.cuont'; did you mean 'count'?"
    )
    file.write_text("inner: {cuont: 1}")
    assert mistake(files=[file]) == f"{file}: unknown key 'inner.cuont'; did you mean 'count'?"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("inner: {count: 1}\nopen: {}\ninner: {count: 2}\n", "the key 'inner' appears twice, in lines 1 and 3; remove one"),
        ("open: {a: {b: 1, b: 2}}", "the key 'b' appears twice, in lines 1 and 1"),
        ("open: !!python/object/apply:os.system ['true']", "not YAML"),
        ("inner: {label: !!python/name:os.system ''}", "not YAML"),
        ("inner: !!python/object:os.x {}", "not YAML"),
        ("[" * 3000, "nested too deeply"),
        ("a: \x00", "not YAML"),
        ("--- 1\n--- 2\n", "not YAML"),
        ("- a", "holds no settings"),
    ],
)
def test_files_that_are_no_settings(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    message = mistake(files=[file])
    assert message.startswith(f"{file}: ")
    assert said in message


def test_aliases_and_merges_are_read_and_no_bomb_goes_off(tmp_path: Path) -> None:
    found = of_file(tmp_path, "open: {base: &base {count: 3, label: 007}}\ninner: {<<: *base, label: 010}\n")
    assert (found.count, found.label) == (3, "010")
    bomb = "open:\n  a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in pairwise("abcdefghijklm"):
        bomb += f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    (tmp_path / "bomb.yaml").write_text(bomb)
    assert len(load_yaml(tmp_path / "bomb.yaml", Outer)["open"]) == 13
    loop = "open: {a: &a [*a]}\n"
    (tmp_path / "loop.yaml").write_text(loop)
    assert "not YAML (found unconstructable recursive node)" in mistake(files=[tmp_path / "loop.yaml"])


def test_a_setting_that_must_be_given() -> None:
    class Wanted(BaseModel):
        manifest: Path

    with pytest.raises(ConfigError, match="evaluate: 'manifest' is missing; give it"):
        parse_section(Wanted, {}, "evaluate")
