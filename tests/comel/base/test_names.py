"""Names that look alike, and files whose names are in another Unicode form."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.base.names import composed, existing, look, same_text, shown_pair, similar

NFC, NFD = unicodedata.normalize("NFC", "Tumör"), unicodedata.normalize("NFD", "Tumör")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tumor", "tumor"),
        (NFC, NFD),
        ("tumor", " tumor"),
        ("tumor cell", "tumor  cell"),
        ("tumor cell", "tumor\u00a0cell"),
        ("tumor cell", "tumor\u3000cell"),
        ("tumor", "tu\u200bmor"),
        ("tumor", "tumor\ufeff"),
        ("tumor", "tu\u00admor"),
        ("tumor", "tumor\u2060"),
        ("grade 3", "grade \uff13"),
        ("1", "1.0"),
        ("1", "01"),
        ("1", "+1"),
        ("1", "\uff11"),
        ("0.50", ".5"),
        ("12345678901234567890", "12345678901234567890.00"),
        ("STRASSE", "straße"),
    ],
)
def test_what_a_reader_takes_for_the_same_looks_the_same(one: str, other: str) -> None:
    assert look(one) == look(other)
    assert similar([one, other, "else"]) == [(one, other)]
    shown = shown_pair(one, other)
    assert shown[0] != shown[1]
    assert all(text.isprintable() for text in shown)


@pytest.mark.parametrize(
    ("one", "other"), [("1", "10"), ("1", "-1"), ("0.1", "0.10001"), ("a b", "ab"), ("p1", "p01"), ("1.2.0", "1.2"), ("o", "ö")]
)
def test_what_differs_to_a_reader_looks_different(one: str, other: str) -> None:
    assert look(one) != look(other)


@given(st.text())
def test_a_look_is_stable(text: str) -> None:
    assert look(look(text)) == look(text)
    assert look(composed(text)) == look(unicodedata.normalize("NFD", text)) == look(text)
    assert same_text(text, unicodedata.normalize("NFD", text))


def test_a_file_is_found_by_its_name_in_another_unicode_form(tmp_path: Path) -> None:
    inside = tmp_path / unicodedata.normalize("NFD", "Fälle") / f"{NFD}.svs"
    inside.parent.mkdir()
    inside.touch()
    assert existing(tmp_path / unicodedata.normalize("NFC", "Fälle") / f"{NFC}.svs") == inside
    assert existing(inside) == inside
    missing = tmp_path / "Größe.svs"
    assert existing(missing) == missing
    assert existing(inside / "ä") == inside / "ä"  # a file is no folder


def test_of_two_files_the_very_name_wins_and_no_guess_is_made(tmp_path: Path) -> None:
    one, other = tmp_path / "o\u0308\u00f6.h5", tmp_path / "\u00f6o\u0308.h5"
    one.touch()
    other.touch()
    assert existing(one) == one
    assert existing(other) == other
    asked = tmp_path / "\u00f6\u00f6.h5"
    assert existing(asked) == asked
    assert not existing(asked).exists()
