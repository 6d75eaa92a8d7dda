"""The API's description of the service's webhook calls."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.http.job_schemas import JobError
from service.ids import EXAMPLE_ID, EXAMPLE_TIME
from service.webhooks.signature import HEADER

__all__ = ["WEBHOOKS", "JobEnded"]


class JobEnded(BaseModel):
    """Which job ended and how, without the result: read the prediction with a key."""

    job: str = Field(description="the job's id", examples=[EXAMPLE_ID])
    state: Literal["done", "failed", "cancelled"] = Field(examples=["done"])
    finished: datetime = Field(examples=[EXAMPLE_TIME])
    prediction: str | None = Field(
        description="where the prediction is; null unless the job is done", examples=[f"/v1/predictions/{EXAMPLE_ID}"]
    )
    error: JobError | None = Field(description="why it failed; null otherwise")


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    schema = {"type": "string", "examples": [example]}
    return {"name": name, "in": "header", "required": True, "description": description, "schema": schema}


_DONE = {
    "job": EXAMPLE_ID,
    "state": "done",
    "finished": EXAMPLE_TIME,
    "prediction": f"/v1/predictions/{EXAMPLE_ID}",
    "error": None,
}
_FAILED = _DONE | {
    "state": "failed",
    "prediction": None,
    "error": {"what": "slide-1.svs: the slide states no micrometres per pixel", "remedy": "send it again with mpp"},
}

WEBHOOKS: dict[str, Any] = {
    "job_ended": {
        "post": {
            "tags": ["jobs"],
            "summary": "A job has ended",
            "description": "Sent to the `webhook` of the request that led to the job; repeated until answered with 2xx.",
            "operationId": "job_ended",
            "parameters": [
                _header("Comel-Delivery", "the job's id: the same in a repeated call", EXAMPLE_ID),
                _header(HEADER, "time and HMAC-SHA256 of the body, for verification", f"t=1772357400,v1={'0' * 64}"),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/JobEnded"},
                        "examples": {"done": {"value": _DONE}, "failed": {"value": _FAILED}},
                    }
                },
            },
            "responses": {"2XX": {"description": "The call is accepted. After any other answer it is repeated."}},
        }
    }
}
"""The document's entry; :mod:`service.http.openapi` adds the schema that it refers to."""
