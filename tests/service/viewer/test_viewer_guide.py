"""The guide's table of keys is the page's."""

from __future__ import annotations

import re

from tests.places import ROOT


def test_the_guide_has_the_keys_of_the_page() -> None:
    page = (ROOT / "service" / "viewer" / "app.js").read_text(encoding="utf-8")
    keys = re.search(r"#keys\(\) \{(.*?)\n  \}\n", page, re.DOTALL)
    assert keys is not None
    actions = {
        words: set(re.findall(r'"([^"]+)"', listed)) for listed, words in re.findall(r'\[\[(.*?)\], "([^"]+)"', keys[1])
    } | {"move": set("←→↑↓")}
    guide = (ROOT / "docs" / "viewer.md").read_text(encoding="utf-8").partition("## Keys")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", guide, re.MULTILINE))
    table = {words: set(re.findall(r"[^` ]+", listed)) for listed, words in rows.items() if words not in ("does", "---")}
    assert table == actions
    assert len(table) == 13
