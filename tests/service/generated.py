"""Cases that schemathesis makes of an OpenAPI document, sent to a service that listens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
HANGS_AFTER = 600.0


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application behind a real server of its own thread; gives its address."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.05)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(600)


def ask_everything(address: str, *, examples: int, headers: Mapping[str, str], known: Mapping[str, str]) -> int:
    """Ask every operation that the document describes, as it wants to be asked and otherwise; returns how many cases.

    Args:
        address: of the service.
        examples: cases of an operation in each of the two ways.
        headers: of every request, such as a key.
        known: path parameters that lead to something, given to the cases that are as the document wants them.

    Raises:
        schemathesis.checks.FailureGroup: an answer is a 5xx, or is not as its schema says.
        requests.Timeout: an answer did not come.
    """
    document = requests.get(f"{address}/openapi.json", timeout=HANGS_AFTER).json()
    schema = schemathesis.openapi.from_dict(document)
    asked = 0
    with requests.Session() as session:
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            names = {parameter.name for parameter in operation.path_parameters}
            takes_something = any(True for _ in operation.iter_parameters()) or len(operation.body) > 0
            for mode in MODES if takes_something else MODES[:1]:
                path = {name: known[name] for name in names & set(known)} if mode is MODES[0] else None

                @settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate],
                )
                @given(case=operation.as_strategy(generation_mode=mode, path_parameters=path or None))
                def ask(case: Any) -> None:
                    nonlocal asked
                    asked += 1
                    case.call_and_validate(
                        base_url=address, session=session, headers=dict(headers), checks=CHECKS, timeout=HANGS_AFTER
                    )

                ask()
    return asked
