"""Jobs: their progress, and cancelling them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from service.access.audit import AuditLog
from service.access.gate import allow
from service.db.cursors import Limit, TimeCursor
from service.http.job_schemas import JobAnswer, JobPage, State, job_answer
from service.http.request_state import audited, backend_of, check_maker
from service.http.responses import guarded, problems
from service.ids import EXAMPLE_ID, is_id

__all__ = ["router"]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=guarded(422))

StateFilter = Annotated[State | None, Query(description="only jobs in this state", examples=["running"])]
ModelFilter = Annotated[
    str | None, Query(max_length=128, pattern="^[!-~]+$", description="only jobs of this model", examples=["breast"])
]
JobId = Annotated[str, Path(description="a job's id", examples=[EXAMPLE_ID])]


@router.get("", summary="List jobs", operation_id="list_jobs", dependencies=[allow("read")])
def list_jobs(
    request: Request, state: StateFilter = None, model: ModelFilter = None, limit: Limit = 50, cursor: TimeCursor = None
) -> JobPage:
    """Newest first. Jobs added meanwhile do not shift the pages."""
    page = backend_of(request).queue.list(state=state, model=model, limit=limit, cursor=cursor)
    return JobPage(items=[job_answer(accepted) for accepted in page.items], next=page.next)


@router.get(
    "/{identifier}",
    summary="A job's progress",
    operation_id="read_job",
    responses=problems(404),
    dependencies=[allow("read")],
)
def read_job(request: Request, identifier: JobId) -> JobAnswer:
    """State, progress, and its place in the queue. Poll every second or two, or give the job a webhook."""
    return job_answer(backend_of(request).queue.get(identifier))


@router.post(
    "/{identifier}/cancel",
    summary="Cancel a job",
    operation_id="cancel_job",
    responses=problems(404),
    dependencies=[allow("predict")],
)
def cancel_job(request: Request, identifier: JobId) -> JobAnswer:
    """A waiting job is never started; a running one has its worker process killed. One that has ended is unchanged. A key
    cancels its own jobs; those of others need scope manage."""
    backend, known = backend_of(request), identifier if is_id(identifier) else None
    audit: AuditLog = request.app.state.audit
    with audited(request, "cancel", job=known) as record:
        check_maker(request, backend.queue.get(identifier).job.key, "job")
        with audit.reserve.lent():
            return job_answer(backend.cancel(identifier, record=record))
