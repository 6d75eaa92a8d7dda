"""``python -m comel``: the command ``comel``."""

from __future__ import annotations

from comel.app.cli import main

if __name__ == "__main__":
    main()
