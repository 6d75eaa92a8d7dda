"""Where the repository is, and the real data beside it that tests use if present."""

from __future__ import annotations

from pathlib import Path

__all__ = ["REAL_DATA", "ROOT"]

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"
