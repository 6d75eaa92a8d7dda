"""The Python and the curl of docs/api.md work against the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from comel.bags.contract import FeatureContract
from service.access.keys import KeyStore
from service.settings import ServiceSettings
from service.webhooks.signature import sign
from tests.places import ROOT
from tests.service.answers import bag_bytes, ended
from tests.service.generated import listening
from tests.service.in_process import app_with
from tests.service.slides.test_slides import FakeEncoder

GUIDE = ROOT / "docs" / "api.md"


def python_blocks(*, asks: bool) -> list[str]:
    """The guide's Python: the blocks that define functions, or those that ask a service."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if ("os.environ" in block) == asks]


def commands() -> list[str]:
    """The guide's commands, each with its further lines."""
    found: list[str] = []
    for line in re.findall(r"^    (.*)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE):
        if line.startswith(("curl ", "offset=")):
            found.append(line)
        elif found and (found[-1].endswith("\\") or ("; do" in found[-1] and not found[-1].endswith("done"))):
            found[-1] += "\n" + line
    return found


@pytest.fixture
def guide() -> dict[str, Any]:
    """Every name that the guide's Python defines."""
    names: dict[str, Any] = {}
    for block in python_blocks(asks=False):
        exec(block, names)
    return names


@pytest.fixture
def address(
    settings: ServiceSettings, predictor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_bag: Any
) -> Iterator[str]:
    """A service that listens and has a key; the folder has what the guide sends, the slide in more than one part."""
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: FakeEncoder())
    (tmp_path / "slide-1.h5").write_bytes(bag_bytes(tmp_path, make_bag([0.1, 0.9])))
    pixels = np.full((2560, 2560, 3), 245, np.uint8)
    texture = np.random.default_rng(0).integers(-25, 25, (700, 700, 3))
    pixels[200:900, 200:900] = np.clip(np.array([150, 70, 140]) + texture, 0, 255)
    resolution: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "slide-1.svs", pixels, tile=(256, 256), photometric="rgb", **resolution)
    (settings.slide_roots[0] / "case-7").mkdir()
    shutil.copy(tmp_path / "slide-1.svs", settings.slide_roots[0] / "case-7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY", KeyStore(settings.state_dir).add("lims", "predict"))
    predictor.contract = FeatureContract("fake-encoder", "a" * 64, 8, 0.5, 64)
    with listening(app_with(settings, predictor)) as place:
        monkeypatch.setenv("COMEL", place)
        yield place


def test_the_guide_sends_a_file_in_parts_and_waits(
    guide: dict[str, Any], client: TestClient, make_bag: Any, tmp_path: Path
) -> None:
    bag_bytes(tmp_path, make_bag([0.1, 0.9]))
    prediction = guide["send"](client, tmp_path / "sent.h5")
    assert prediction["prediction"]["label"] == "tumour"
    with pytest.raises(RuntimeError, match=r"404: case-7/slide-1\.svs: no such slide; name a slide"):
        guide["predict"](client, "case-7/slide-1.svs", "order-1")


def test_the_guide_goes_on_after_a_break_and_waits_when_told(
    guide: dict[str, Any],
    settings: ServiceSettings,
    predictor: Any,
    make_bag: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bag_bytes(tmp_path, make_bag([0.1, 0.9]))
    slept: list[float] = []
    troubles = iter([None, "busy", "answer lost", None])
    in_parts = settings.model_copy(update={"upload_part_bytes": (tmp_path / "sent.h5").stat().st_size // 3 + 1})
    with TestClient(app_with(in_parts, predictor)) as client:
        asked = client.request

        def request(method: str, place: str, **content: Any) -> Any:
            trouble = next(troubles, None) if method == "PUT" else None
            if trouble == "busy":
                return httpx.Response(429, headers={"Retry-After": "7"})
            answer = asked(method, place, **content)
            if trouble == "answer lost":
                raise httpx.ReadError("the connection broke")
            return answer

        monkeypatch.setattr(client, "request", request)

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            time.sleep(0.05)

        monkeypatch.setitem(guide, "time", SimpleNamespace(sleep=sleep))
        assert guide["send"](client, tmp_path / "sent.h5")["prediction"]["label"] == "tumour"
    assert slept[:2] == [7, 5]
    assert next(troubles, "none left") == "none left"


def test_the_guides_python_asks_a_service(guide: dict[str, Any], address: str, capsys: pytest.CaptureFixture[str]) -> None:
    (asking,) = python_blocks(asks=True)
    exec(asking, guide)
    label, confidence = capsys.readouterr().out.split()
    assert label == "tumour"
    assert 0.5 <= float(confidence) <= 1
    with Image.open("map.png") as picture:
        assert picture.width >= 256


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_guides_curl_asks_a_service(address: str) -> None:
    """Each ID is the one that an answer to the same kind of route gave last."""
    ids: dict[str, str] = {}
    prelude = 'set -e; curl() { [[ " $* " = *" -f "* ]] || set -- --fail-with-body "$@"; command curl -sS "$@"; }\n'
    for command in commands():
        kind = next((kind for kind in ("predictions", "jobs") if f"/v1/{kind}/ID" in command), "uploads")
        program = prelude + command.replace("ID", ids.get(kind, "none yet"))
        ran = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=600, check=False)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        answer = json.JSONDecoder().raw_decode(ran.stdout)[0] if ran.stdout else {}
        if "id" in answer:
            ids["jobs" if "state" in answer else "uploads" if "offset" in answer else "predictions"] = answer["id"]
    assert set(ids) == {"jobs", "uploads", "predictions"}
    assert len(commands()) == 12
    with Image.open("map.png") as picture:
        assert picture.width == 2048
    headers = {"Authorization": f"Bearer {os.environ['KEY']}"}
    with httpx.Client(base_url=address, headers=headers) as client:
        asked = httpx.Request("POST", f"{address}/v1/predictions")
        job = ended(client, httpx.Response(202, headers={"Location": f"jobs/{ids['jobs']}"}, request=asked))
    assert (job["state"], job["slide_id"]) == ("done", "slide-1")


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
