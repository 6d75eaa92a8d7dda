"""The page of settings is that of the schemas."""

from __future__ import annotations

from comel.app.settings_page import settings_page
from tests.places import ROOT


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page(), "make settings"


def test_it_says_option_value_default_and_what() -> None:
    rows = settings_page().splitlines()
    assert "| `target_mpp` | `--target-mpp` | number, `0.05<=x<=20` | `0.5` | micrometres per pixel of the tiles |" in rows
    assert any(row.startswith("| `wait` | `--no-wait` | yes or no | yes |") for row in rows)
    assert any(row.startswith("| `manifest` | `--manifest` | path | required |") for row in rows)
    assert any(row.startswith("| `data.labels` |  | lists by name | none |") for row in rows)
