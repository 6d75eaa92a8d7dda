"""The tables. Times are seconds since 1970 (UTC), as floats; ids are 32 hexadecimal digits.

Only names and places are stored here; a prediction's content lies in its folder (:mod:`service.predictions.store`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["ENDED", "Base", "Delivery", "IdempotencyKey", "Installation", "Job", "PredictionRow", "Upload"]

ENDED = ("done", "failed", "cancelled")
"""Final states of a job."""

Id = String(32)


class Base(DeclarativeBase):
    """Names for every constraint, so that a migration can name what it changes."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        }
    )


class Installation(Base):
    """Which state folder this database belongs to; one row. The folder holds the same id (:mod:`service.db.pairing`)."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    created: Mapped[float] = mapped_column(Float(53))


class Job(Base):
    """One prediction to be made, and its progress. The prediction has the job's id, so a job done twice gives one result.

    Attributes:
        kind: what it predicts from, a ``bag`` or a ``slide``.
        source: its location: ``{"path": ...}`` absolute, ``{"bag": name}`` in the state folder's inbox, or
            ``{"upload": id}``.
        options: ``task``, ``mpp`` and ``assume_encoder`` as the client gave them.
        model, version: the model; chosen when the job is accepted, so that a second attempt gives the same result.
        slide_id: the slide's name.
        key: the name of the requesting API key.
        request: the id of the request.
        stage, done, total: progress; of the stage ``encode`` in tiles.
        lease_owner, lease_until: the worker that has it, and the time by which it must renew the lease.
        lease_seconds: the lease's length; one that ends later than this from now was made before the clock was set back.
        error: what went wrong and what to do about it.
        webhook: the URL to notify when it has ended.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "state", "created"), Index(None, "created", "id"))

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(16))
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    model: Mapped[str] = mapped_column(String(128))
    version: Mapped[int] = mapped_column(Integer)
    slide_id: Mapped[str] = mapped_column(String(300))
    key: Mapped[str | None] = mapped_column(String(64))
    request: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Float(53))
    started: Mapped[float | None] = mapped_column(Float(53))
    finished: Mapped[float | None] = mapped_column(Float(53))
    stage: Mapped[str | None] = mapped_column(String(32))
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[float | None] = mapped_column(Float(53))
    lease_seconds: Mapped[float | None] = mapped_column(Float(53))
    error: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    webhook: Mapped[str | None] = mapped_column(Text)


class PredictionRow(Base):
    """A prediction's entry in a list; ``size`` is its folder's size in bytes, ``key`` names the API key that made it."""

    __tablename__ = "predictions"
    __table_args__ = (Index(None, "created", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    slide_id: Mapped[str] = mapped_column(String(300))
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    label: Mapped[str | None] = mapped_column(Text)
    confidence: Mapped[float | None] = mapped_column(Float(53))
    model: Mapped[str] = mapped_column(String(128))
    version: Mapped[int] = mapped_column(Integer)
    key: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Float(53))
    size: Mapped[int] = mapped_column(BigInteger)


class Upload(Base):
    """A file that arrives in parts. ``kind`` is set when it is complete and was checked."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "expires"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(300))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    offset: Mapped[int] = mapped_column(BigInteger, default=0)
    kind: Mapped[str | None] = mapped_column(String(16))
    key: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[float] = mapped_column(Float(53))
    expires: Mapped[float] = mapped_column(Float(53))


class IdempotencyKey(Base):
    """A repeatable request: its body's hash, and the job or prediction that it made."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    made: Mapped[str] = mapped_column(Id)
    created: Mapped[float] = mapped_column(Float(53))


class Delivery(Base):
    """A webhook call that is due, was made, or was given up; written together with the end of its job."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "state", "due"),)

    job: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    due: Mapped[float] = mapped_column(Float(53))
    answer: Mapped[str | None] = mapped_column(String(200))
