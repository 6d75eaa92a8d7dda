"""The Python of docs/api.md works against the service."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from answers import bag_bytes
from fastapi.testclient import TestClient

from service.webhooks.signature import sign

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


@pytest.fixture
def guide() -> dict[str, Any]:
    """Every name that the guide's Python defines."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names


def test_the_guide_sends_a_file_in_parts_and_waits(
    guide: dict[str, Any], client: TestClient, make_bag: Any, tmp_path: Path
) -> None:
    content = bag_bytes(tmp_path, make_bag([0.1, 0.9]))
    prediction = guide["send"](client, tmp_path / "sent.h5", "slide-1.h5", len(content))
    assert prediction["prediction"]["label"] == "tumour"
    with pytest.raises(Exception, match="404"):
        guide["predict"](client, "case-7/slide-1.svs")


def test_the_guide_checks_a_webhook(guide: dict[str, Any]) -> None:
    header = sign("secret", b"{}", at=int(time.time()))
    assert guide["genuine"]("secret", b"{}", header)
    assert not guide["genuine"]("other", b"{}", header)
    assert not guide["genuine"]("secret", b"{}", sign("secret", b"{}", at=1000))


def test_the_guide_names_every_route_of_predictions_jobs_and_uploads(client: TestClient) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    for path in client.get("/openapi.json").json()["paths"]:
        last = [part for part in path.split("/") if part and not part.startswith("{")][-1]
        if path.startswith(("/v1/predictions", "/v1/jobs", "/v1/uploads")):
            assert last in text, path
