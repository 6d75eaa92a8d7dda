"""Files in parts: begin, send, ask for the offset, delete."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from service.access.audit import AuditLog
from service.access.gate import allow
from service.http.job_schemas import UploadAnswer, UploadRequest, upload_answer
from service.http.request_state import audited, backend_of, check_maker, key_of
from service.http.responses import BINARY, created, guarded, problems
from service.ids import EXAMPLE_UPLOAD, is_id
from service.intake.bodies import limited

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/uploads",
    tags=["uploads"],
    responses=guarded(422),
)

_MAY_UPLOAD = [allow("predict")]
# A part is much smaller than the largest request.
_MAY_SEND_A_PART = [allow("predict", cost=0.1)]

Offset = Annotated[int, Query(ge=0, le=2**53, description="where the part begins: the upload's offset", examples=[16777216])]
UploadId = Annotated[str, Path(description="an upload's id", examples=[EXAMPLE_UPLOAD])]
_PART: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the bytes of the part, at most part_size of them",
        "content": {"application/octet-stream": {"schema": BINARY}},
    }
}


@router.post(
    "",
    status_code=201,
    summary="Begin an upload",
    operation_id="create_upload",
    responses={201: created(f"uploads/{EXAMPLE_UPLOAD}", "The upload, to be sent in parts."), **problems(400, 408, 413)},
    dependencies=_MAY_UPLOAD,
)
def create_upload(request: Request, response: Response, asked: UploadRequest) -> UploadAnswer:
    """Starts an upload of a bag or a slide in parts, which can be resumed after a break."""
    with audited(request, "upload", size=asked.size) as record:
        store = backend_of(request).uploads
        upload = store.create(asked.filename, asked.size, asked.sha256, key_of(request), record=record)
    response.headers["Location"] = f"uploads/{upload.id}"
    return _answer(request, upload)


@router.put(
    "/{identifier}",
    summary="Send a part",
    operation_id="send_part",
    responses=problems(404, 408, 409, 413, 415),
    openapi_extra=_PART,
    dependencies=_MAY_SEND_A_PART,
)
async def send_part(request: Request, identifier: UploadId, offset: Offset) -> UploadAnswer:
    """Adds bytes at the upload's offset. After a break, ask for the upload and resume at its offset; a part with another offset
    is refused with 409, and `Upload-Offset` gives the right one. After the last part the file is checked: one that is neither a
    bag nor a slide, or differs from the announcement, is deleted."""
    backend = backend_of(request)
    begun = await anyio.to_thread.run_sync(backend.uploads.get, identifier)
    check_maker(request, begun.key, "upload")
    body = limited(request, backend.settings.upload_part_bytes).stream()
    return _answer(request, await backend.uploads.append(identifier, offset, body))


@router.get(
    "/{identifier}",
    summary="An upload's progress",
    operation_id="read_upload",
    responses=problems(404),
    dependencies=_MAY_UPLOAD,
)
def read_upload(request: Request, identifier: UploadId) -> UploadAnswer:
    """The offset is where the next part begins."""
    return _answer(request, backend_of(request).uploads.get(identifier))


@router.delete(
    "/{identifier}",
    status_code=204,
    summary="Delete an upload",
    operation_id="delete_upload",
    responses=problems(404),
    dependencies=_MAY_UPLOAD,
)
def delete_upload(request: Request, identifier: UploadId) -> None:
    """Its file too. Predictions made from it stay, without its slide. A key deletes its own uploads; those of others
    need scope manage."""
    store = backend_of(request).uploads
    audit: AuditLog = request.app.state.audit
    with audited(request, "delete", upload=identifier if is_id(identifier) else None) as record:
        check_maker(request, store.get(identifier).key, "upload")
        with audit.reserve.lent():
            store.delete(identifier, record=record)


def _answer(request: Request, upload: Any) -> UploadAnswer:
    return upload_answer(upload, part_size=backend_of(request).settings.upload_part_bytes)
