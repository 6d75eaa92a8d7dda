"""The application, assembled: settings in, FastAPI out, nothing global."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from comel.base.version import comel_version
from comel.errors import ConfigError
from comel.prediction.prediction import NOTICE
from service.access.audit import AuditLog
from service.access.gate import Gate
from service.access.keys import private_folder
from service.backend import Backend, hidden, open_database
from service.http.middleware import RequestRecord
from service.http.openapi import TAGS, describe_once
from service.http.problems import install_problem_handlers
from service.http.routes import documentation, health, jobs, prediction_parts, predictions, rasters, slides, uploads, viewer
from service.http.routes import models as model_routes
from service.logs import describe_defect, make_log, route_library_logs
from service.metrics import Metrics
from service.served.registry import FixedModel, ModelRegistry, PredictorLike
from service.settings import ServiceSettings
from service.slides.pictures import SlidePictures

__all__ = ["create_app", "open_models", "serve"]

WAITING_PREDICTIONS = 64
"""Requests with a bag that hold a thread of their own while they wait for their turn; others wait without."""
WATCH_SECONDS = 2.0
"""Between two looks at whether a run has a new version."""

_DESCRIPTION = f"""Predictions of a continual multiple instance learning model on whole-slide images, with maps of where the
evidence lies.

**{NOTICE}**

Send an API key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. Its scope says what it may do: `read` predictions,
`predict`, or `admin`; each allows what those before it allow. A service that listens on the loopback address and has no keys
asks for none."""


def create_app(
    settings: ServiceSettings,
    *,
    models: ModelRegistry | None = None,
    predictor: PredictorLike | None = None,
    log: Any = None,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: see :class:`ServiceSettings`.
        models: opened already, or None to open the runs of the settings when the application starts.
        predictor: in place of these, one model that was made elsewhere.
        log: a structlog logger, or None for one that writes to standard error.
    """
    log = make_log() if log is None else log
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        private_folder(settings.state_dir)
        app.state.audit = AuditLog(settings.state_dir)
        registry = FixedModel(settings, predictor) if predictor is not None else models or open_models(settings)
        backend = Backend(settings, registry, audit=app.state.audit, metrics=metrics, log=log)
        app.state.models, app.state.backend = registry, backend
        app.state.work = anyio.CapacityLimiter(WAITING_PREDICTIONS)
        for name in registry.names:
            metrics.model(registry.state(name), registry.get(name).run_id)
        pictures = SlidePictures()
        app.state.pictures, app.state.decoding = pictures, anyio.CapacityLimiter(pictures.processes)
        backend.start()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_watch, backend, metrics, log)
                yield
                group.cancel_scope.cancel()
        finally:
            await anyio.to_thread.run_sync(backend.stop)
            pictures.close()

    app = FastAPI(
        title="CoMEL",
        version=comel_version(),
        description=_DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.gate, app.state.metrics, app.state.settings = Gate(settings), metrics, settings
    app.state.hidden = tuple(hidden(settings))
    install_problem_handlers(app, hidden=app.state.hidden)
    for routes in (health, documentation, model_routes, predictions, prediction_parts, rasters, slides, jobs, uploads, viewer):
        app.include_router(routes.router)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "Content-Type", "Idempotency-Key", "Prefer"],
            expose_headers=["Location", "Retry-After", "X-Request-ID", "Upload-Offset"],
        )
    describe_once(app)
    # Added last, so it is the outermost and sees every answer.
    app.add_middleware(RequestRecord, log=log, metrics=metrics)
    return app


def open_models(settings: ServiceSettings) -> ModelRegistry:
    """The models of the settings' runs, after a look at the folders.

    Raises:
        ConfigError: no run is named, the slide folder does not exist, or the state folder cannot be made.
        RunError: a run cannot be opened.
    """
    if not settings.runs:
        raise ConfigError(
            "no model to serve",
            'name a run: comel serve --model runs/NAME, or set COMEL_RUNS=\'{"NAME": "runs/NAME"}\'; comel train makes one',
        )
    for root in settings.slide_roots:
        if not root.is_dir():
            raise ConfigError(f"slide folder {root} does not exist", "give an existing folder, or none")
    private_folder(settings.state_dir)
    models = ModelRegistry(settings)
    models.open()
    return models


async def _watch(backend: Backend, metrics: Metrics, log: Any) -> None:
    """Let new versions answer, for as long as the service runs."""
    models = backend.models
    while True:
        await _prepare(backend, log)
        await anyio.sleep(WATCH_SECONDS)
        try:
            changed = await anyio.to_thread.run_sync(models.refresh)
        except Exception as error:  # one failed look must not end all later ones
            log.error("looking for new versions failed", **describe_defect(error))
            continue
        for state in changed:
            metrics.model(state, models.get(state.name).run_id)
            if state.refusal is None:
                log.info("model version", model=state.name, version=state.version)
            else:
                refused = {"refused": state.refusal.version, "reason": state.refusal.what}
                log.error("model version refused", model=state.name, version=state.version, **refused)


async def _prepare(backend: Backend, log: Any) -> None:
    try:
        await anyio.to_thread.run_sync(backend.prepare, abandon_on_cancel=True)
    except Exception as error:  # the first request for the version tries again, and is told
        log.error("a model could not be loaded ahead", **describe_defect(error))


def serve(settings: ServiceSettings) -> None:
    """Open the model and answer requests until interrupted.

    Raises:
        ConfigError: the address is reached from other machines and there is no API key; nothing listens then.
        ComelError: the run, a folder or the database cannot be used; nothing listens then.
    """
    import uvicorn

    gate = Gate(settings)
    gate.check_exposure()
    log = make_log()
    models = open_models(settings)
    open_database(settings).close()
    app = create_app(settings, models=models, log=log)
    route_library_logs(log)
    if gate.open:
        log.warning(
            "no API keys: everyone on this machine may predict and read",
            remedy=f"comel keys add NAME --scope predict --state {settings.state_dir}",
        )
    # Bodies that are too large for memory go where there is room for them; the system's folder may be in memory.
    tempfile.tempdir = str(settings.state_dir / "incoming")
    private_folder(settings.state_dir / "incoming")

    class Server(uvicorn.Server):
        """Begins no job from the moment on that it is told to stop; requests under way still end."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            backend: Backend | None = getattr(app.state, "backend", None)
            if backend is not None:
                backend.pool.drain()
            super().handle_exit(sig, frame)

    # uvicorn's own access log would have paths and queries; forwarded headers are not used, so none is believed.
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
    )
    server = Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)  # the log says why
