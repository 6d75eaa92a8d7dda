"""HTTP as RFC 9110 has it: HEAD, ranges, conditions, methods; errors as problems; pages of other origins; a proxy's prefix."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from service.http.conditional import is_current
from service.settings import ServiceSettings
from service.slides.pictures import version_of
from tests.service.answers import bag_bytes, place_of
from tests.service.in_process import app_with
from tests.service.slides.test_pictures import write_ramp

PROBLEM = "application/problem+json"
MOMENTARY = {"x-request-id", "date"}


@pytest.fixture
def made(send: Any, make_bag: Any) -> dict[str, Any]:
    found: dict[str, Any] = send(make_bag([0.2, 0.8, 0.6])).json()
    return found


@pytest.fixture
def places(client: TestClient, made: dict[str, Any], settings: ServiceSettings) -> dict[str, str]:
    """A path that leads to something for every route by GET, by the route's pattern."""
    write_ramp(settings.slide_roots[0] / "ramp.tif")
    slide = client.get("/v1/slides").json()["items"][0]["id"]
    job = client.post("/v1/predictions", json={"slide": "ramp.tif"}).json()["id"]
    upload = client.post("/v1/uploads", json={"filename": "a", "size": 9}).json()["id"]
    known = {"{name}": "breast", "{slide}": slide, "{level}": "11", "{column}": "0", "{row}": "0", "{rank}": "1"}
    found = {path: path for path in ("/", "/docs", "/openapi.json", "/viewer/app.js", "/viewer/colour-maps.json")}
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if "get" in methods:
            identifier = job if "/jobs/" in path else upload if "/uploads/" in path else made["id"]
            filled = path.replace("{identifier}", identifier)
            for name, value in known.items():
                filled = filled.replace(name, value)
            found[path] = filled
    return found


def test_head_is_answered_as_get_without_the_body(client: TestClient, places: dict[str, str]) -> None:
    assert len(places) > 25
    for path, place in places.items():
        get, head = client.get(place), client.head(place)
        assert head.status_code == get.status_code, path
        assert head.content == b"", path
        assert {"content-type"} <= set(head.headers), path
        if path not in ("/metrics", "/v1/jobs", "/v1/jobs/{identifier}"):  # whose content changes from one to the next
            assert {name: value for name, value in head.headers.items() if name not in MOMENTARY} == {
                name: value for name, value in get.headers.items() if name not in MOMENTARY
            }, path


def test_head_of_what_is_not_there_and_of_what_has_no_get(client: TestClient) -> None:
    for place, status in (("/v1/nothing", 404), ("/v1/predictions/" + "0" * 32, 404), ("/v1/jobs/x/cancel", 405)):
        head = client.head(place)
        assert (head.status_code, head.content, head.headers["content-type"]) == (status, b"", PROBLEM)


def test_a_head_is_counted_as_one(client: TestClient) -> None:
    client.head("/healthz")
    assert 'comel_http_requests_total{method="HEAD",route="/healthz",status="200"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=3-999999999", 3, None), ("BYTES = 1-2 ", 1, 2),
     ("bytes=0-0,", 0, 0)],
)  # fmt: skip
def test_a_part_of_a_file(asked: str, first: int, last: int | None, client: TestClient, made: dict[str, Any]) -> None:
    whole = client.get(made["links"]["bag"])
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(made["links"]["bag"], headers={"Range": asked})
    assert part.status_code == 206
    assert part.content == whole.content[first : None if last is None else last + 1]
    assert part.headers["content-length"] == str(len(part.content))
    assert part.headers["content-range"].endswith(f"/{len(whole.content)}")
    assert part.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize(
    "asked",
    ["bytes=100-50", "bytes=", "bytes", "bytes=a-b", "bytes=--5", "bytes=1", "lines=1-2", "bytes=1-2;3-4", "", "bytes=0x1-5",
     "bytes=" + "9" * 5000 + "-", "bytes=1-2,5-4", "bytes=0-1,3-4", "bytes=" + "0-1," * 300 + "0-1", "bytes=\u00b9-5"],
)  # fmt: skip
def test_a_range_that_is_not_valid_or_of_several_parts_is_ignored(asked: str, client: TestClient, made: dict[str, Any]) -> None:
    answer = client.get(made["links"]["bag"], headers=[(b"Range", asked.encode("latin-1"))])
    assert (answer.status_code, answer.content) == (200, client.get(made["links"]["bag"]).content)


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_part_that_is_not_there_is_a_problem(asked: str, client: TestClient, made: dict[str, Any]) -> None:
    answer = client.get(made["links"]["bag"], headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-type"]) == (416, PROBLEM)
    assert re.fullmatch(r"bytes \*/\d+", answer.headers["content-range"])
    assert client.head(made["links"]["bag"], headers={"Range": asked}).status_code == 200  # ranges are of GET


def test_a_part_is_given_of_the_file_that_was_begun(client: TestClient, made: dict[str, Any]) -> None:
    place = made["links"]["bag"]
    first = client.get(place)
    for sent, status in (
        (first.headers["etag"], 206),
        (first.headers["last-modified"], 206),
        ("W/" + first.headers["etag"], 200),
        ('"other"', 200),
        (formatdate(0, usegmt=True), 200),
    ):
        assert client.get(place, headers={"Range": "bytes=0-1", "If-Range": sent}).status_code == status, sent
    assert client.get(place, headers={"Range": "bytes=99999999-", "If-Range": '"other"'}).status_code == 200


TAG = '"a,b"'


@pytest.mark.parametrize(
    ("sent", "current"),
    [(TAG, True), ("W/" + TAG, True), (f'"x", {TAG}', True), (f'W/"x",W/{TAG} ,"y"', True), ("*", True), (" * ", True),
     ('"x"', False), ("a,b", False), ('"a", "b"', False), ("", False), ('W/"a,b', False), ('"', False)],
)  # fmt: skip
def test_tags_are_compared_as_a_list_of_weak_ones(sent: str, current: bool) -> None:
    assert is_current(Headers({"if-none-match": sent}), TAG) == current


def test_several_lines_of_tags_are_one_list_and_a_date_counts_only_without_them() -> None:
    several = Headers(raw=[(b"if-none-match", b'"x"'), (b"if-none-match", TAG.encode())])
    assert is_current(several, TAG)
    later = formatdate(2000, usegmt=True)
    assert is_current(Headers({"if-modified-since": later}), TAG, 1999.5)
    assert not is_current(Headers({"if-modified-since": later}), TAG, 2001)
    assert not is_current(Headers({"if-modified-since": later, "if-none-match": '"x"'}), TAG, 1999.5)
    for wrong in ("", "yesterday", "9" * 400, "Mon, 99 Foo 2026 99:99:99 GMT"):
        assert not is_current(Headers({"if-modified-since": wrong}), TAG, 1.0)


def test_what_a_client_has_is_not_sent_again(client: TestClient, places: dict[str, str]) -> None:
    tagged = 0
    for path, place in places.items():
        first = client.get(place)
        if "etag" not in first.headers:
            continue
        tagged += 1
        for sent in (first.headers["etag"], "W/" + first.headers["etag"], f'"x", {first.headers["etag"]}', "*"):
            for ask in (client.get, client.head):
                again = ask(place, headers={"If-None-Match": sent})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"]), path
        assert client.get(place, headers={"If-None-Match": '"x"'}).status_code == 200
    assert tagged >= 6
    bag = next(place for place in places.values() if place.endswith("bag.h5"))
    assert client.get(bag, headers={"If-Modified-Since": client.get(bag).headers["last-modified"]}).status_code == 304


def test_a_tiles_address_changes_with_the_slide(client: TestClient, settings: ServiceSettings) -> None:
    """A browser keeps for long what names its version, and asks again for what does not."""
    path = write_ramp(settings.slide_roots[0] / "ramp.tif")
    slide = client.get("/v1/slides").json()["items"][0]["id"]
    facts = client.get(f"/v1/slides/{slide}").json()
    for place in (f"/v1/slides/{slide}/tiles/11/0_0.jpg", f"/v1/slides/{slide}/thumbnail.jpg"):
        kept = client.get(place, params={"version": facts["version"]})
        assert (kept.status_code, "immutable" in kept.headers["cache-control"]) == (200, True)
        for other in ({}, {"version": "0" * 24}):
            assert client.get(place, params=other).headers["cache-control"] == "private, no-cache"
    # Replaced by a copy that has the old one's size and time of change.
    about, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert client.get(f"/v1/slides/{slide}").json()["version"] != facts["version"]
    stale = client.get(f"/v1/slides/{slide}/tiles/11/0_0.jpg", params={"version": facts["version"]})
    assert stale.headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("companion", ["Data0001.dat", "Slidedat.ini"])
def test_the_version_of_a_slide_is_that_of_all_its_files(companion: str, client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s.mrxs").write_bytes(b"x")
    (tmp_path / "s" / companion).write_bytes(b"x")
    before = version_of(tmp_path / "s.mrxs")
    (tmp_path / "s" / companion).write_bytes(b"yy")
    assert version_of(tmp_path / "s.mrxs") != before


def test_every_error_is_a_problem(client: TestClient, made: dict[str, Any]) -> None:
    bag = made["links"]["bag"]
    asked = [
        client.get("/v1/nothing"), client.get("/v1/models/"), client.delete("/v1/jobs"), client.patch(bag), client.put("/"),
        client.request("TRACE", "/healthz"), client.request("NONSENSE", "/v1/models"), client.options("/v1/models"),
        client.get(bag, headers={"Range": "bytes=99999999-"}), client.get("/viewer/nothing.js"), client.get("/v1/slides/x"),
        client.post("/v1/uploads", content=b"[" * 70_000, headers={"Content-Type": "application/json"}),
        client.post("/v1/uploads", content=b"\xff", headers={"Content-Type": "application/json"}),
        client.post("/v1/models/breast/version", content=bytes(70_000), headers={"Content-Type": "multipart/form-data"}),
    ]  # fmt: skip
    for answer in asked:
        assert 400 <= answer.status_code < 500, answer.request.url
        assert answer.headers["content-type"] == PROBLEM, answer.request.url
        assert answer.json()["status"] == answer.status_code


def test_a_method_that_is_not_taken_is_answered_with_those_that_are(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        known = {method.upper() for method in methods}
        allowed = known | ({"HEAD"} if "GET" in known else set())
        answer = client.request("PATCH", path)
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, allowed), path


def test_json_is_read_to_its_limit_only(client: TestClient) -> None:
    """Also where the framework reads it, before anybody has looked at a key."""
    for place in ("/v1/uploads", "/v1/models/breast/version", "/v1/jobs/x/cancel", "/v1/predictions"):
        answer = client.post(place, content=b" " * 70_000, headers={"Content-Type": "application/json"})
        assert answer.status_code in (413, 404), place
        assert answer.headers["content-type"] == PROBLEM


ORIGIN = "https://viewer.example"


@pytest.fixture
def shared(settings: ServiceSettings, predictor: Any) -> Iterator[TestClient]:
    opened = settings.model_copy(update={"cors_origins": (ORIGIN,)})
    with TestClient(app_with(opened, predictor), raise_server_exceptions=False) as client:
        yield client


def test_a_page_may_ask_with_every_header_that_the_api_has(shared: TestClient) -> None:
    document = shared.get("/openapi.json").json()
    described = {
        one["name"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for one in operation.get("parameters", [])
        if one["in"] == "header"
    }
    schemes = {scheme["name"] for scheme in document["components"]["securitySchemes"].values() if "name" in scheme}
    own = described | schemes | {"Authorization", "Content-Type", "X-Request-ID", "Range", "If-None-Match", "If-Range"}
    assert {"Idempotency-Key", "Prefer", "X-API-Key"} <= {name.title().replace("Api", "API") for name in own}
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
        for headers in (", ".join(sorted(own)).lower(), ",".join(sorted(own))):
            answer = shared.options("/v1/predictions", headers=asked | {"Access-Control-Request-Headers": headers})
            assert answer.status_code == 200, answer.text
            assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    "wrong",
    [
        {"Origin": "https://evil.example"},
        {"Access-Control-Request-Method": "PATCH"},
        {"Access-Control-Request-Headers": "X-Evil"},
    ],
)
def test_a_preflight_that_is_refused_is_a_problem(wrong: dict[str, str], shared: TestClient) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"} | wrong
    answer = shared.options("/v1/predictions", headers=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
    assert answer.headers.get("access-control-allow-origin") in (None, ORIGIN)


def test_a_page_can_read_every_answer_a_defects_too(shared: TestClient, predictor: Any, make_bag: Any, send: Any) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    own = {"Origin": ORIGIN}
    answers = [shared.get(path, headers=own) for path in ("/v1/models", "/v1/nothing", "/v1/jobs/x", "/v1/jobs?limit=0")]
    answers += [shared.head("/v1/models", headers=own), shared.delete("/v1/models", headers=own)]
    shared.app.state.backend.predictions.list = fail  # type: ignore[attr-defined]
    answers.append(shared.get("/v1/predictions", headers=own))
    assert {answer.status_code for answer in answers} == {200, 404, 405, 422, 500}
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"location", "retry-after", "etag", "upload-offset", "content-range", "x-request-id", "allow"} <= exposed
    for answer in answers[:2]:
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("cut", [True, False], ids=["the proxy cuts the prefix off", "the proxy leaves the prefix"])
def test_a_service_below_a_prefix(cut: bool, settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path) -> None:
    below = settings.model_copy(update={"root_path": "/comel/one"})
    content = bag_bytes(tmp_path, make_bag([0.5]))
    bag: dict[str, Any] = {"files": {"bag": ("a.h5", content)}}
    later: dict[str, Any] = {"headers": {"Prefer": "respond-async"}}
    with TestClient(app_with(below, predictor)) as client:

        def ask(method: str, place: str, **more: Any) -> Any:
            """As the proxy passes a request of its own address on."""
            assert place.startswith("/comel/one/")
            return client.request(method, place.removeprefix("/comel/one") if cut else place, **more)

        for path in ("/comel/one/", "/comel/one/docs"):
            page = ask("GET", path)
            assert page.status_code == 200
            for reference in re.findall(r"""(?:src|href|url)(?:=|: )['"]([^'"#]+)['"]""", page.text):
                if not reference.startswith("data:"):
                    assert ask("GET", urljoin(path, reference)).status_code == 200, reference
        (server,) = ask("GET", "/comel/one/openapi.json").json()["servers"]
        assert urljoin("/comel/one/openapi.json", server["url"]) == "/comel/one"
        for place, more in (
            ("/comel/one/v1/uploads", {"json": {"filename": "a", "size": 9}}),
            ("/comel/one/v1/predictions", bag),
            ("/comel/one/v1/predictions", bag | later),
        ):
            answer = ask("POST", place, **more)
            assert answer.status_code in (201, 202)
            assert ask("GET", urljoin(place, answer.headers["location"])).status_code == 200
        assert 'route="/healthz"' not in client.get("/metrics").text
        ask("GET", "/comel/one/healthz")
        assert 'route="/healthz"' in client.get("/metrics").text


def test_a_service_whose_prefix_nobody_told_it_leads_nowhere_else(client: TestClient) -> None:
    """Every reference is relative to where it stands."""
    (server,) = client.get("/openapi.json").json()["servers"]
    assert urljoin("https://h.example/comel/openapi.json", server["url"]) == "https://h.example/comel/"
    begun = client.post("/v1/uploads", json={"filename": "a", "size": 9})
    assert urljoin("https://h.example/comel/v1/uploads", begun.headers["location"]).startswith("https://h.example/comel/v1/up")
    assert client.get(place_of(begun)).status_code == 200
    for path in ("/", "/docs"):
        for reference in re.findall(r"""(?:src|href|url)(?:=|: )['"]([^'"#]+)['"]""", client.get(path).text):
            assert reference.startswith("data:") or not reference.startswith(("/", "http")), reference


@pytest.mark.parametrize("wrong", ["comel", "/comel/", "//evil.example", "/a b", "/a?b", "https://h.example/a"])
def test_a_prefix_is_a_path(wrong: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        ServiceSettings(root_path=wrong)


NAMES = [
    "plain.tif", "症例\u30001.tif", "case\u00a01.tif", "scan\u202f3.12.tif", "Präparat 日本 (1).tif", "a+b&c=d#e%20f.tif",
    "soft\u00adhyphen.tif", "back\\slash.tif", "quote\"'`$;|.tif", "\u05d0\u200f-1.tif", "zero\u200bwidth.tif",
    "emoji 👩\u200d🔬.tif", "private\uf022.tif", "a..b.tif", "%2e%2e%2f.tif", "e\u0301te.tif",
]  # fmt: skip


def test_slides_of_any_printable_name_are_listed_and_found(client: TestClient, settings: ServiceSettings) -> None:
    root = settings.slide_roots[0]
    for name in NAMES:
        (root / name).write_bytes(b"x")
    listed = client.get("/v1/slides", params={"limit": 100}).json()
    assert {one["name"] for one in listed["items"]} == set(NAMES)
    assert (listed["total"], listed["unlisted"]) == (len(NAMES), 0)
    for name in NAMES:
        asked = client.post("/v1/predictions", json={"slide": name})
        assert asked.status_code == 202, (name, asked.text)
    # As another keyboard or file system writes the same letters.
    assert client.post("/v1/predictions", json={"slide": "\u00e9te.tif"}).status_code == 202
    assert client.post("/v1/predictions", json={"slide": "\u00e8te.tif"}).status_code == 404


def test_what_is_not_listed_is_counted_and_said(
    client: TestClient, settings: ServiceSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    root, backend = settings.slide_roots[0], client.app.state.backend  # type: ignore[attr-defined]
    make: list[Callable[[], Any]] = [
        lambda: (root / "a\nb.tif").write_bytes(b"x"),
        lambda: (root / "turned\u202etif.svs").write_bytes(b"x"),
        lambda: Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.tif")).write_bytes(b"x"),
        lambda: (root / "link.svs").symlink_to(root / "plain.tif"),
        lambda: os.mkfifo(root / "pipe.svs"),
        lambda: (root / "folder.svs").mkdir(),
    ]
    (root / "plain.tif").write_bytes(b"x")
    for count, one in enumerate(make, start=1):
        one()
        backend.slides.folders._looked = -100.0
        listed = client.get("/v1/slides").json()
        said = count - (1 if one is make[-1] else 0)  # a folder is no file that looks like a slide
        assert (listed["total"], listed["unlisted"]) == (1, said)
    assert any("are not listed" in warning for warning in client.get("/readyz").json()["warnings"])


def test_slides_in_folders_whose_names_are_no_text_keep_apart(client: TestClient, settings: ServiceSettings) -> None:
    for byte in (b"\xe8", b"\xe9"):
        folder = os.fsencode(settings.slide_roots[0]) + b"/caf" + byte
        os.mkdir(folder)  # noqa: PTH102
        Path(os.fsdecode(folder + b"/a.tif")).write_bytes(b"x")
    assert len({one["id"] for one in client.get("/v1/slides").json()["items"]}) == 2
