"""The page that shows the API. Its script comes from a content delivery network, so it is empty without the internet; the
description itself, /openapi.json, is not."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_NETWORK = "https://cdn.jsdelivr.net"
_ICON = "data:,"


@router.get("/docs")
def documentation(request: Request) -> HTMLResponse:
    """Swagger UI, allowed to run its own scripts and no others."""
    page = get_swagger_ui_html(openapi_url="/openapi.json", title="CoMEL", swagger_favicon_url=_ICON)
    scripts = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src {_NETWORK} {hashes}; style-src {_NETWORK} 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page
