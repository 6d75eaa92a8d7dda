"""Answers that depend on what a client already has (RFC 9110, 13 and 14): 304, and parts of files."""

from __future__ import annotations

import os
import re
from email.utils import parsedate_to_datetime

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from service.http.problems import problem

__all__ = ["FileAnswer", "asked_for_head", "is_current"]

_TAGS = re.compile(r'(?:W/)?("[^"]*")')
_RANGE = re.compile(r"(\d{1,20})-(\d{0,20})|-(\d{1,20})", re.ASCII)


def is_current(headers: Headers, etag: str, modified: float | None = None) -> bool:
    """Whether the client already has the current content.

    Args:
        headers: the request's headers.
        etag: the content's tag, with quotes.
        modified: when it was changed, seconds since 1970; compared if the client does not name a tag.
    """
    tags = ",".join(headers.getlist("if-none-match"))
    if tags:
        # Weak tags count like strong ones here: nothing is assembled from parts.
        return tags.strip() == "*" or etag.removeprefix("W/") in _TAGS.findall(tags)
    since = headers.get("if-modified-since")
    if since is None or modified is None:
        return False
    try:
        return int(modified) <= parsedate_to_datetime(since).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False


def asked_for_head(scope: Scope) -> bool:
    """Whether only the headers are wanted; a request by HEAD is handled as one by GET."""
    return bool(scope.get("state", {}).get("head"))


class FileAnswer(FileResponse):
    """A file, or the requested part; 304 if the client has it, a problem if there is no such part."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        answer: Response | None = None
        try:
            about = self.stat_result = await anyio.to_thread.run_sync(os.stat, self.path)
        except OSError:
            answer = problem(404, "the file was deleted meanwhile")
        else:
            self.set_stat_headers(about)
            kept = {name: self.headers[name] for name in ("etag", "last-modified")}
            if is_current(headers, self.headers["etag"], about.st_mtime):
                answer = Response(status_code=304, headers=kept)
            # Parts are served only for GET, and only of the file version that the client started with.
            begun = headers.get("if-range", kept["etag"])
            whole = asked_for_head(scope) or begun not in kept.values()
            wanted = None if whole else _range(headers.get("range", ""), about.st_size)
            if answer is None and wanted == "":
                answer = problem(416, "there is no such part", headers={"Content-Range": f"bytes */{about.st_size}"})
        if answer is not None:
            await answer(scope, receive, send)
            return
        given = [(name, value) for name, value in scope["headers"] if name != b"range"]
        if wanted:
            given.append((b"range", f"bytes={wanted}".encode()))
        method = "HEAD" if asked_for_head(scope) else scope["method"]
        await super().__call__({**scope, "headers": given, "method": method}, receive, send)


def _range(header: str, size: int) -> str | None:
    """The part that ``Range`` names, empty if it does not exist; None if it must be ignored.

    It is ignored if invalid or if it names several parts: the whole file is then sent.
    """
    unit, _, said = header.partition("=")
    part = _RANGE.fullmatch(said.strip(" \t,"))
    if unit.strip().lower() != "bytes" or part is None or (part[2] and int(part[2]) < int(part[1])):
        return None
    there = int(part[1]) < size if part[1] is not None else int(part[3]) > 0 and size > 0
    return part[0] if there else ""
