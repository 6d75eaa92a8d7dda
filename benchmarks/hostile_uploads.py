"""How long each hostile upload of the tests takes to be refused, by a service that listens.

    python benchmarks/hostile_uploads.py

The corpus is that of tests/service/hostile.py: HDF5 bombs, links and filters, TIFFs of absurd sizes, bodies without end, JSON
that nests, and files damaged at random. Prints the slowest, and what was not refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import requests

from service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 2.0


def main() -> None:
    """Send every upload once and print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.path[:0] = [str(ROOT)]
    from tests.service.conftest import FakePredictor
    from tests.service.generated import listening
    from tests.service.hostile import SLIDES, UPLOADS
    from tests.service.in_process import app_with

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        settings = ServiceSettings(runs={"breast": place / "run"}, state_dir=place / "state", max_upload_bytes=4 << 20)
        rows = []
        with listening(app_with(settings, FakePredictor())) as address:
            for name, build in UPLOADS.items():
                own = place / name
                own.mkdir()
                arguments = build(own)
                if "content" in arguments:
                    arguments["data"] = arguments.pop("content")
                headers = {key: _text(value) for key, value in arguments.pop("headers", {}).items()}
                started = time.perf_counter()
                try:
                    status = requests.post(f"{address}/v1/predictions", timeout=60, headers=headers, **arguments).status_code
                except requests.ConnectionError:
                    status = 0  # refused while the body was still being sent
                rows.append((time.perf_counter() - started, status, name))
            for name, build in SLIDES.items():
                content = build(place)
                asked = {"filename": "slide.tif", "size": len(content)}
                upload = requests.post(f"{address}/v1/uploads", json=asked, timeout=60).json()["id"]
                started = time.perf_counter()
                answer = requests.put(f"{address}/v1/uploads/{upload}?offset=0", data=content, timeout=60)
                rows.append((time.perf_counter() - started, answer.status_code, name))
    rows.sort(reverse=True)
    print(f"{len(rows)} uploads; slowest:")
    for seconds, status, name in rows[:8]:
        print(f"| {name} | {status or 'cut'} | {seconds * 1e3:.0f} ms |")
    taken = [name for _, status, name in rows if status < 400 and status]
    print(f"taken, since random damage left them whole: {', '.join(taken) or 'none'}")
    print(f"failed inside: {sum(status >= 500 for _, status, _ in rows)}; ", end="")
    print(f"slower than {LIMIT_SECONDS:g} s: {sum(seconds > LIMIT_SECONDS for seconds, _, _ in rows)}")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


if __name__ == "__main__":
    main()
