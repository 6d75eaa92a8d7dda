"""The API's documentation page: Swagger UI from npm (:mod:`service.vendor`); nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.vendor import vendored

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_SCRIPT, _STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
_ICON = "data:,"
_WITHOUT = """<!doctype html><html lang="en"><title>CoMEL</title>
<p>This installation has no Swagger UI, which shows the API as a page. In a checkout, <code>make viewer</code> fetches it
(it needs npm); an installed wheel carries it. The description itself, for every tool that reads OpenAPI, is at
<a href="openapi.json">openapi.json</a>.</p></html>"""


@router.get("/docs")
def documentation(request: Request) -> HTMLResponse:
    """Swagger UI, allowed to run its own scripts and no others."""
    if vendored(_SCRIPT) is None or vendored(_STYLE) is None:
        return HTMLResponse(_WITHOUT)
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="CoMEL",
        swagger_js_url=f"viewer/{_SCRIPT}",
        swagger_css_url=f"viewer/{_STYLE}",
        swagger_favicon_url=_ICON,
    )
    scripts = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page
