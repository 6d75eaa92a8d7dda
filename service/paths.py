"""Paths of the server, which no client may see."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["UPLOADS", "without_paths"]


UPLOADS = "uploads"


def without_paths(text: str, roots: Iterable[Path]) -> str:
    """``text`` with the server's folders cut off, so that a file is called as the client called it.

    A relative root is cut only from the front of a longer path: by itself it may be an ordinary word.
    """
    forms = {form for path in roots for form in (path, path.absolute(), path.resolve()) if form.name}
    for root in sorted(forms, key=lambda form: len(str(form)), reverse=True):
        alone = r"|(?![\w.-])" if root.is_absolute() else ""
        text = re.sub(rf"(?<![\w./-]){re.escape(str(root))}(?:/(?:{UPLOADS}/[^/\s]+/)?{alone})", "", text)
    return text
