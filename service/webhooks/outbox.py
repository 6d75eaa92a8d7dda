"""The calls that are due: rows of the table ``deliveries``, written with the end of their jobs, so a restart loses none.

A receiver may be called twice with the same ``Comel-Delivery``, if it accepted the call but the connection broke.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError

from comel.errors import ComelError
from service.db.database import Database
from service.db.tables import Delivery, Job
from service.logs import describe_defect
from service.settings import JobSettings
from service.webhooks.addresses import connect, resolve
from service.webhooks.signature import HEADER, sign

__all__ = ["Outbox", "body_of"]

MAX_ATTEMPTS = 10
FIRST_WAIT_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 3600.0
_TIMEOUT_SECONDS = 10.0
_CLAIM_SECONDS = 60.0
_POLL_SECONDS = 2.0


class Outbox(threading.Thread):
    """Sends due calls, one after another, until stopped. Several processes may have one."""

    def __init__(self, database: Database, settings: JobSettings, *, log: Any) -> None:
        super().__init__(name="comel-webhooks", daemon=True)
        self._database, self._settings, self._log = database, settings, log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop sending."""
        self._stopping.set()
        if self.is_alive():
            self.join(2 * _TIMEOUT_SECONDS)

    def run(self) -> None:
        """See the class."""
        while not self._stopping.is_set():
            try:
                sent = self.send_one()
            except SQLAlchemyError as error:
                self._log.error("the database does not answer", **describe_defect(error))
                sent = False
            except Exception as error:  # one unforeseen failure must not end all later calls
                self._log.error("a webhook failed", **describe_defect(error))
                sent = False
            if not sent:
                self._stopping.wait(_POLL_SECONDS)

    def send_one(self) -> bool:
        """Send the call that has been due longest; False if none is due."""
        with self._database.writing() as session:
            now = self._database.now(session)
            # One that is due later than any possible wait was written before the clock was set back.
            soon = or_(Delivery.due <= now, Delivery.due > now + LONGEST_WAIT_SECONDS + _CLAIM_SECONDS)
            due = select(Delivery).where(Delivery.state == "due", soon).order_by(Delivery.due).limit(1)
            delivery = session.execute(due.with_for_update(skip_locked=True)).scalar_one_or_none()
            if delivery is None:
                return False
            # If this process ends in the middle, the call is due again a minute later.
            delivery.due, delivery.attempts = now + _CLAIM_SECONDS, delivery.attempts + 1
            job = session.get_one(Job, delivery.job)
        taken, answer = self._call(job)
        with self._database.writing() as session:
            row = session.get(Delivery, job.id)
            if row is not None:
                row.answer = answer[:200]
                row.state = "taken" if taken else "given up" if row.attempts >= MAX_ATTEMPTS else "due"
                row.due = self._database.now(session) + wait_before(row.attempts + 1)
        self._log.info("webhook", job=job.id, taken=taken, answer=answer[:80])
        return True

    def _call(self, job: Job) -> tuple[bool, str]:
        """Whether the receiver accepted the call, and its answer. Redirects are not followed."""
        body = body_of(job)
        at = int(time.time())
        secret = self._settings.webhook_secret.get_secret_value() if self._settings.webhook_secret else ""
        headers = {"Content-Type": "application/json", "User-Agent": "comel", "Comel-Delivery": job.id}
        try:
            target = resolve(job.webhook or "", self._settings)
            connection = connect(target, timeout=_TIMEOUT_SECONDS)
            # The timeout applies to each step; a receiver that sends single bytes must not delay the others either.
            over = threading.Timer(_TIMEOUT_SECONDS, _cut, [connection])
            over.start()
            try:
                connection.request("POST", target.path, body, headers | {HEADER: sign(secret, body, at=at)})
                status = connection.getresponse().status
            finally:
                over.cancel()
                connection.close()
        except ComelError as error:
            return False, error.what
        except (OSError, HTTPException) as error:
            return False, type(error).__name__
        return 200 <= status < 300, f"status {status}"


def _cut(connection: HTTPConnection) -> None:
    with suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)


def wait_before(attempt: int) -> float:
    """Seconds before an attempt: doubled each time, at most an hour."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (attempt - 2))


def body_of(job: Job) -> bytes:
    """The call's body: which job ended and how, without the result; the receiver reads the prediction with its key."""
    done = job.state == "done"
    finished = datetime.fromtimestamp(job.finished or 0, UTC).isoformat(timespec="milliseconds")
    said = {
        "job": job.id,
        "state": job.state,
        "finished": finished,
        "prediction": f"/v1/predictions/{job.id}" if done else None,
        "error": job.error,
    }
    return json.dumps(said).encode()
