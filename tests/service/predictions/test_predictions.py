"""Bags in, predictions and maps out; and every bad body said so."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from comel.prediction.picture import draw_map
from service.predictions import store as prediction_store
from service.settings import ServiceSettings
from tests.service.answers import bag_bytes, place_of
from tests.service.in_process import app_with

SCORES = [0.1, 0.9, 0.6, 0.2]


def is_problem(answer: Any, status: int, said: str = "") -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert said in f"{body['detail']}; {body['remedy']}"
    assert "/tmp" not in answer.text
    assert "Traceback" not in answer.text
    return True


def test_a_bag_gets_a_prediction_with_scores_and_maps(send: Any, make_bag: Any, client: TestClient) -> None:
    answer = send(make_bag(SCORES))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["links"]["self"] == f"/v1/predictions/{body['id']}"
    assert place_of(answer).endswith(body["links"]["self"])
    assert not answer.headers["location"].startswith(("/", "http"))  # a proxy may serve it below a prefix
    prediction = body["prediction"]
    assert (prediction["slide_id"], prediction["task"], prediction["label"], prediction["positive"]) == (
        "slide-1",
        "breast",
        "tumour",
        True,
    )
    assert prediction["probabilities"]["breast/tumour"] == pytest.approx(0.9)
    assert prediction["model"] == {"run": "run-1", "version": 4}
    assert body["instances"] == {
        "count": 4,
        "positive": 2,
        "returned": 4,
        "scores": SCORES,
        "coords": [[0, 0], [128, 0], [256, 0], [384, 0]],
        "tile_size": [128.0, 128.0],
    }
    assert "Research use only" in body["notice"]
    assert client.get(body["links"]["self"]).json() == body

    picture = client.get(body["links"]["map"])
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).width == 1024
    smaller = client.get(body["links"]["map"], params={"width": 300, "alpha": 0.9, "threshold": 0.8})
    assert Image.open(io.BytesIO(smaller.content)).width == 300

    collection = client.get(body["links"]["geojson"])
    assert collection.headers["content-type"] == "application/geo+json"
    assert [feature["geometry"]["coordinates"][0][0] for feature in collection.json()["features"]] == [[64, -32], [192, -32]]
    everything = client.get(body["links"]["geojson"], params={"minimum_score": 0, "origin": "level0"}).json()
    assert [feature["geometry"]["coordinates"][0][0] for feature in everything["features"]] == [
        [0, 0],
        [128, 0],
        [256, 0],
        [384, 0],
    ]
    merged = client.get(body["links"]["geojson"], params={"merge": True}).json()
    assert len(merged["features"]) == 1


def test_the_state_folder_holds_whole_predictions_and_outlives_the_service(
    send: Any, make_bag: Any, settings: ServiceSettings, predictor: Any
) -> None:
    body = send(make_bag(SCORES)).json()
    (folder,) = (settings.state_dir / "predictions").iterdir()
    assert folder.name == body["id"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "bag.h5",
        "instances.npz",
        "origin.json",
        "prediction.json",
    ]
    names = {path.name for path in settings.state_dir.iterdir() if not path.name.startswith("comel.db")}
    assert names == {"predictions", "audit.jsonl", "pseudonym.key", "reserve", "state.id", "uploads"}
    assert not list((settings.state_dir / "uploads").iterdir())
    with TestClient(app_with(settings, predictor)) as again:
        assert again.get(body["links"]["self"]).json() == body


def test_many_tiles_are_cut_inline_and_whole_at_instances(send: Any, make_bag: Any, client: TestClient) -> None:
    scores = np.linspace(0, 1, 10_500, dtype=np.float32)
    body = send(make_bag(scores, columns=105)).json()
    assert (body["instances"]["count"], body["instances"]["returned"], len(body["instances"]["coords"])) == (
        10_500,
        10_000,
        10_000,
    )
    whole = client.get(body["links"]["instances"]).json()["instances"]
    assert (whole["returned"], len(whole["coords"])) == (10_500, 10_500)
    np.testing.assert_array_equal(np.array(whole["scores"], np.float32), scores)


def test_a_given_task_is_passed_on(send: Any, make_bag: Any) -> None:
    assert send(make_bag(SCORES), task="breast").json()["prediction"]["mode"] == "task-incremental"
    assert is_problem(send(make_bag(SCORES), task="lung"), 422, "it knows breast")


def test_an_empty_bag_predicts_nothing(send: Any, make_bag: Any, client: TestClient) -> None:
    body = send(make_bag([])).json()
    assert (body["prediction"]["label"], body["prediction"]["probabilities"]) == (None, None)
    assert body["prediction"]["notes"] == ["no tissue"]
    assert client.get(body["links"]["map"]).status_code == 200
    assert client.get(body["links"]["geojson"]).json()["features"] == []


def test_a_bag_of_another_tool_without_geometry(send: Any, client: TestClient, tmp_path: Path) -> None:
    features = np.zeros((6, 8), np.float32)
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file["features"], file["coords"] = features, np.arange(6)[:, None] * [256, 0]
    content = (tmp_path / "clam.h5").read_bytes()
    assert is_problem(send(content, name="../../etc/case 9.h5"), 422, "encoder")
    answer = send(content, name="../../etc/case 9.h5", assume_encoder="fake-encoder")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["prediction"]["slide_id"] == "case_9"
    assert body["links"]["geojson"] is None
    assert client.get(body["links"]["map"]).status_code == 200
    assert is_problem(client.get(f"{body['links']['self']}/map.geojson"), 422, "cannot be placed")


def test_a_bag_without_coordinates_is_predicted_without_a_map(send: Any, client: TestClient, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["features"] = np.zeros((6, 8), np.float32)
    body = send((tmp_path / "plain.h5").read_bytes(), assume_encoder="fake-encoder").json()
    assert body["prediction"]["label"] == "normal"
    assert (body["links"]["map"], body["links"]["geojson"], body["instances"]["coords"]) == (None, None, None)
    assert is_problem(client.get(f"{body['links']['self']}/map.png"), 422, "no usable coordinates")


@pytest.mark.parametrize(
    "name", ["症例\u30001", "case\u00a01", "scan\u202f3", "soft\u00adhyphen", "e\u0301te", "a\\b", "👩\u200d🔬"]
)
def test_a_bag_of_a_slide_of_any_printable_name(name: str, send: Any, make_bag: Any, client: TestClient) -> None:
    body = send(make_bag(SCORES, slide_id=name)).json()
    assert body["prediction"]["slide_id"] == name
    assert client.get("/v1/predictions").json()["items"][0]["slide_id"] == name
    for link in body["links"].values():
        assert client.get(link).status_code == 200


@pytest.mark.parametrize("name", ["a\nb", "a\u0000b", "a\u2028b", "turned\u202egif.svs", "a\x7fb"])
def test_a_bag_of_a_slide_whose_name_is_no_text_is_refused(name: str, send: Any, make_bag: Any, tmp_path: Path) -> None:
    send(make_bag(SCORES))
    with h5py.File(tmp_path / "sent.h5", "a") as file:
        file.attrs["slide_id"] = np.frombuffer(name.encode(), "S1") if "\0" in name else name
    assert is_problem(send((tmp_path / "sent.h5").read_bytes()), 422)


@pytest.mark.parametrize("content", [b"", b"not a bag at all", b"PK\x03\x04" + bytes(100)])
def test_what_is_not_hdf5_is_of_the_wrong_kind(send: Any, content: bytes) -> None:
    assert is_problem(send(content), 415, "not HDF5")


def test_a_truncated_bag_is_refused_without_a_trace(
    send: Any, make_bag: Any, settings: ServiceSettings, tmp_path: Path
) -> None:
    assert send(make_bag(SCORES * 100)).status_code == 201
    whole = (tmp_path / "sent.h5").read_bytes()
    before = sorted(settings.state_dir.iterdir())
    for length in (8, 100, len(whole) // 2, len(whole) - 1):
        answer = send(whole[:length], name="half.h5")
        assert is_problem(answer, 422)
        assert answer.json()["detail"].startswith("half.h5: ")
    assert sorted(settings.state_dir.iterdir()) == before


def test_nan_features_are_refused(send: Any, make_bag: Any, tmp_path: Path) -> None:
    send(make_bag(SCORES))
    with h5py.File(tmp_path / "sent.h5", "a") as file:
        file["features"][1, 2] = np.nan
    assert is_problem(send((tmp_path / "sent.h5").read_bytes()), 422, "1 of 4 instances have NaN")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dimension": 9}, "dimension 9 instead of 8"),
        ({"encoder": "other"}, "encoder other instead of fake-encoder"),
        ({"weights_hash": "b" * 64}, "other weights"),
    ],
)
def test_features_made_otherwise_are_refused(send: Any, make_bag: Any, changes: dict[str, Any], said: str) -> None:
    contract = replace(make_bag([]).contract, **changes)
    assert is_problem(send(make_bag(SCORES, contract=contract)), 422, said)


def test_too_many_bytes_or_instances(
    send: Any, make_bag: Any, settings: ServiceSettings, predictor: Any, tmp_path: Path
) -> None:
    assert is_problem(send(make_bag(np.zeros(50_001), columns=300)), 413, "50001 instances")
    limited = settings.model_copy(update={"max_upload_bytes": 40_000})
    with TestClient(app_with(limited, predictor)) as client:
        content = bytes(100_000)

        def chunks() -> Any:
            yield b'--x\r\nContent-Disposition: form-data; name="bag"; filename="a.h5"\r\n\r\n'
            for _ in range(10):
                yield content
            yield b"\r\n--x--\r\n"

        declared = client.post("/v1/predictions", files={"bag": ("a.h5", content)})
        assert is_problem(declared, 413, "larger than")
        streamed = client.post("/v1/predictions", content=chunks(), headers={"content-type": "multipart/form-data; boundary=x"})
        assert is_problem(streamed, 413, "larger than")
        with h5py.File(tmp_path / "bomb.h5", "w") as file:
            file.create_dataset("features", shape=(40_000, 8), dtype="f4", compression="gzip")
            file["coords"] = np.zeros((10, 2), int)
        bomb = client.post("/v1/predictions", files={"bag": ("bomb.h5", (tmp_path / "bomb.h5").read_bytes())})
        assert is_problem(bomb, 413, "declares")


def test_links_to_other_files_are_not_followed(send: Any, make_bag: Any, tmp_path: Path) -> None:
    send(make_bag(SCORES))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["features"] = h5py.ExternalLink(str(tmp_path / "sent.h5"), "features")
        file["coords"] = np.zeros((4, 2), int)
    assert send((tmp_path / "link.h5").read_bytes()).status_code == 422


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ({"files": {"file": ("a.h5", b"x")}}, 422, "field 'bag'"),
        ({"data": {"bag": "text"}, "files": {"x": ("x", b"")}}, 422, "field 'bag'"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ({}, 415, "not accepted"),
        ({"json": {"slide": ""}}, 422, "slide"),
        ({"json": {"slde": "a.svs"}}, 422, "slde"),
        ({"json": [1]}, 422, "body"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"json": {"slide": "a" * 70_000}}, 413, "larger"),
        ({"json": {"slide": "a.svs", "mpp": -1}}, 422, "mpp"),
    ],
)
def test_other_bodies_are_refused(client: TestClient, arguments: dict[str, Any], status: int, said: str) -> None:
    assert is_problem(client.post("/v1/predictions", **arguments), status, said)


@pytest.mark.parametrize("identifier", ["0" * 32, "nothing", "..", "%2e%2e%2fstate", "uploads", "A" * 32])
def test_unknown_ids(client: TestClient, identifier: str) -> None:
    for rest in ("", "/instances", "/map.png", "/map.geojson"):
        assert client.get(f"/v1/predictions/{identifier}{rest}").status_code == 404
    assert is_problem(client.get("/v1/predictions/" + "0" * 32), 404, "no prediction")


@pytest.mark.parametrize("query", ["width=10", "width=100000", "alpha=2", "threshold=nan", "threshold=x"])
def test_map_choices_out_of_range(send: Any, make_bag: Any, client: TestClient, query: str) -> None:
    link = send(make_bag(SCORES)).json()["links"]["map"]
    assert is_problem(client.get(f"{link}?{query}"), 422, query.partition("=")[0])


def test_concurrent_requests_take_turns_at_the_model(
    send: Any, make_bag: Any, client: TestClient, predictor: Any, tmp_path: Path
) -> None:
    assert send(make_bag([0.0])).status_code == 201
    contents = []
    for score in np.linspace(0, 1, 8):
        send(make_bag([score]))
        contents.append((tmp_path / "sent.h5").read_bytes())
    predictor.delay, predictor.overlapping = 0.05, 0
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, contents))
    assert [answer.json()["instances"]["scores"][0] for answer in answers] == pytest.approx(np.linspace(0, 1, 8).tolist())
    assert len({answer.json()["id"] for answer in answers}) == 8
    assert predictor.overlapping == 1


def test_other_requests_are_answered_while_a_prediction_runs(
    send: Any, make_bag: Any, client: TestClient, predictor: Any
) -> None:
    predictor.go_on.clear()
    predictor.started.clear()
    finished = threading.Event()

    def ask() -> None:
        send(make_bag(SCORES))
        finished.set()

    worker = threading.Thread(target=ask)
    worker.start()
    assert predictor.started.wait(600)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert not finished.is_set()
    predictor.go_on.set()
    worker.join()


@pytest.mark.parametrize("name", ["modle", "Model", "slide", "mpp", "x" * 300])
def test_a_field_that_is_not_known_is_refused(name: str, send: Any, make_bag: Any, predictor: Any) -> None:
    """A misspelt model would be answered by the default one."""
    predictor.started.clear()
    answer = send(make_bag(SCORES), **{name: "other"})
    assert is_problem(answer, 422, f"the form has a field '{name[:80]}', which is not known")
    assert answer.json()["remedy"] == "the fields are bag, task, model, assume_encoder, webhook"
    assert not predictor.started.is_set()


def test_a_field_that_comes_twice_is_refused(client: TestClient, make_bag: Any, tmp_path: Path) -> None:
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag(SCORES)))}
    answer = client.post("/v1/predictions", files=files, data={"model": ["breast", "other"]})
    assert is_problem(answer, 422, "the form has the field 'model' 2 times")


def test_a_defect_is_a_500_without_details(
    settings: ServiceSettings, predictor: Any, make_bag: Callable[..., Any], send: Any, tmp_path: Path
) -> None:
    send(make_bag(SCORES))

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret in /tmp/here")

    predictor.predict = fail
    with TestClient(app_with(settings, predictor), raise_server_exceptions=False) as client:
        answer = client.post("/v1/predictions", files={"bag": ("a.h5", (tmp_path / "sent.h5").read_bytes())})
    assert is_problem(answer, 500)
    assert "secret" not in json.dumps(answer.json())


def test_a_map_that_is_drawn_while_its_prediction_is_deleted_does_not_stay(
    client: TestClient, send: Any, make_bag: Any, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = send(make_bag([0.2, 0.8])).json()

    def draw(*arguments: Any, **choices: Any) -> Any:
        assert client.delete(made["links"]["self"]).status_code == 204
        return draw_map(*arguments, **choices)

    monkeypatch.setattr(prediction_store, "draw_map", draw)
    assert client.get(made["links"]["map"]).status_code == 200
    assert list((settings.state_dir / "predictions").iterdir()) == []
