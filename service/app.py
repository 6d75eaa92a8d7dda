"""The application, assembled: settings in, FastAPI out, nothing global."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from comel.errors import ConfigError
from comel.prediction import NOTICE
from service.access import Gate
from service.audit import AuditLog
from service.keys import private_folder
from service.logs import make_log, route_library_logs
from service.metrics import Metrics
from service.middleware import RequestRecord
from service.predictions import PredictionService, PredictorLike
from service.problems import install_problem_handlers
from service.routes import documentation, health, model, predictions
from service.settings import ServiceSettings

__all__ = ["create_app", "open_predictor", "serve"]

CONCURRENT_PREDICTIONS = 2

_DESCRIPTION = f"""Predictions of a continual multiple instance learning model on whole-slide images, with maps of where the
evidence lies.

**{NOTICE}**

Send an API key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. Its scope says what it may do: `read` predictions,
`predict`, or `admin`; each allows what those before it allow. A service that listens on the loopback address and has no keys
asks for none."""


def create_app(settings: ServiceSettings, *, predictor: PredictorLike | None = None, log: Any = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: see :class:`ServiceSettings`.
        predictor: the model, or None to open the run of the settings when the application starts.
        log: a structlog logger, or None for one that writes to standard error.
    """
    log = make_log() if log is None else log
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        private_folder(settings.state_dir)
        app.state.audit = AuditLog(settings.state_dir)
        service = PredictionService(predictor or open_predictor(settings), settings)
        metrics.model(service.predictor.run_id, service.predictor.version)
        app.state.work = anyio.CapacityLimiter(CONCURRENT_PREDICTIONS)
        app.state.service = service
        yield

    app = FastAPI(
        title="CoMEL",
        version=metadata.version("comel"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.gate, app.state.metrics = Gate(settings), metrics
    hidden = [settings.run, settings.state_dir, *([settings.slide_root] if settings.slide_root else [])]
    install_problem_handlers(app, hidden=hidden)
    for routes in (health, documentation, model, predictions):
        app.include_router(routes.router)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "Content-Type"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    # Added last, so it is the outermost and sees every answer.
    app.add_middleware(RequestRecord, log=log, metrics=metrics)
    return app


def open_predictor(settings: ServiceSettings) -> PredictorLike:
    """The model of the settings' run, after a look at the folders.

    Raises:
        ConfigError: the slide folder does not exist, or the state folder cannot be made.
        RunError: the run cannot be opened.
    """
    from comel.predictor import Predictor

    if settings.slide_root is not None and not settings.slide_root.is_dir():
        raise ConfigError(f"slide folder {settings.slide_root} does not exist", "give an existing folder, or none")
    private_folder(settings.state_dir)
    opened: PredictorLike = Predictor.open(settings.run, device=settings.device)
    return opened


def serve(settings: ServiceSettings) -> None:
    """Open the model and answer requests until interrupted.

    Raises:
        ConfigError: the address is reached from other machines and there is no API key; nothing listens then.
        ComelError: the run or a folder cannot be used; nothing listens then.
    """
    import uvicorn

    gate = Gate(settings)
    gate.check_exposure()
    log = make_log()
    app = create_app(settings, predictor=open_predictor(settings), log=log)
    route_library_logs(log)
    if gate.open:
        log.warning(
            "no API keys: everyone on this machine may predict and read",
            remedy=f"comel keys add NAME --scope predict --state {settings.state_dir}",
        )
    # uvicorn's own access log would have paths and queries; forwarded headers are not used, so none is believed.
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
    )
