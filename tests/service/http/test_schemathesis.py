"""Every answer is as the OpenAPI document says, whatever is asked, with a key and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from service.access.keys import KeyStore
from service.settings import ServiceSettings
from tests.service.generated import ask_everything, listening
from tests.service.in_process import app_with


@pytest.fixture
def unlimited(settings: ServiceSettings) -> ServiceSettings:
    return settings.model_copy(update={"requests_per_minute": 10**9})


def asked_with_and_without_a_key(settings: ServiceSettings, predictor: Any, bag: bytes, examples: int) -> int:
    key = KeyStore(settings.state_dir).add("tester", "admin")
    headers = {"Authorization": f"Bearer {key}"}
    with listening(app_with(settings, predictor)) as address:
        made = requests.post(f"{address}/v1/predictions", files={"bag": ("a.h5", bag)}, headers=headers, timeout=600)
        assert made.status_code == 201
        known = {"identifier": made.json()["id"], "name": "breast"}
        with_key = ask_everything(address, examples=examples, headers=headers, known=known)
        return with_key + ask_everything(address, examples=max(1, examples // 4), headers={}, known=known)


def a_sent_bag(folder: Path, make_bag: Any) -> bytes:
    from comel.bags.bag import write_bag

    write_bag(folder / "sent.h5", make_bag([0.2, 0.8, 0.6]))
    return (folder / "sent.h5").read_bytes()


def test_every_answer_fits_the_document(unlimited: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path) -> None:
    assert asked_with_and_without_a_key(unlimited, predictor, a_sent_bag(tmp_path, make_bag), 2) > 50


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_five_thousand_answers_fit_the_document(
    unlimited: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    operations = sum(len(methods) for methods in app_with(unlimited, predictor).openapi()["paths"].values())
    # Few operations without parameters have so many different cases, hence the surplus.
    examples = 3 * 5000 // (2 * operations)
    assert asked_with_and_without_a_key(unlimited, predictor, a_sent_bag(tmp_path, make_bag), examples) >= 5000
