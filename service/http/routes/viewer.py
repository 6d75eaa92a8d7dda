"""The viewer page. It needs no key to be loaded, and asks for one when the API answers 401.

OpenSeadragon, which shows the slide, comes from npm (:mod:`service.vendor`). Without it the page says so, and everything but
the picture of the slide works.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

import service
from comel.prediction.picture import COLOUR_MAPS, colour_table
from service.errors import NotFoundError
from service.http.conditional import is_current
from service.vendor import vendored

__all__ = ["router", "viewer_file"]

_EMPTY = base64.b64encode(hashlib.sha256(b"").digest()).decode()
PAGE_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' 'sha256-{_EMPTY}'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads only its own files; blob: is for tiles fetched with a key. Of styles within the page only
an empty one is allowed."""

_PAGE = Path(service.__file__).parent / "viewer"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@router.get("/")
def page(request: Request) -> Response:
    """The viewer."""
    answer = _answer(request, (_PAGE / "index.html").read_bytes(), "text/html")
    answer.headers["Content-Security-Policy"] = PAGE_POLICY
    return answer


@router.get("/viewer/colour-maps.json")
def colour_maps(request: Request) -> Response:
    """The viewer's colours, as in the map pictures."""
    return _answer(request, _colour_maps(), "application/json")


@router.get("/viewer/{name}")
def part(request: Request, name: str) -> Response:
    """A module, the style or the icon of the page."""
    path = viewer_file(name)
    if path is None:
        raise NotFoundError("the page has no such part")
    return _answer(request, path.read_bytes(), _KINDS[path.suffix])


def viewer_file(name: str) -> Path | None:
    """The path of a part of the page, None if there is no such part."""
    own = next((path for path in _PAGE.iterdir() if path.name == name and path.suffix in _KINDS), None)
    return own or (vendored(name) if Path(name).suffix in _KINDS else None)


def _answer(request: Request, content: bytes, kind: str) -> Response:
    # Revalidated each time, so that page and modules always have the same version.
    headers = {"ETag": f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"', "Cache-Control": "no-cache"}
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@lru_cache(maxsize=1)
def _colour_maps() -> bytes:
    tables = {name: ["#" + bytes(row).hex() for row in colour_table(name).astype("uint8")] for name in COLOUR_MAPS}
    return json.dumps(tables).encode()
