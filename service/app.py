"""The application, assembled: settings in, FastAPI out, nothing global."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI

from comel.base.version import comel_version
from comel.errors import ConfigError
from comel.prediction.prediction import NOTICE
from service.access.audit import AuditLog
from service.access.gate import Gate
from service.access.keys import private_files, private_folder
from service.backend import Backend, hidden, open_database
from service.http.connections import Server, check_descriptors, protocol_of
from service.http.middleware import BodyLimits, Cors, Defects, RequestRecord
from service.http.openapi import TAGS, describe_once
from service.http.problems import install_problem_handlers
from service.http.routes import documentation, health, jobs, prediction_parts, predictions, rasters, slides, uploads, viewer
from service.http.routes import models as model_routes
from service.jobs.executors import Executor
from service.logs import describe_defect, make_log, route_library_logs
from service.metrics import Metrics
from service.paths import without_paths
from service.served.registry import ModelRegistry
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
`predict` and delete what it made itself, `manage` what other keys made, or `admin`; each allows what those before it allow. A
service that listens on the loopback address and has no keys asks for none. A request by HEAD is answered as one by GET, without
the body."""


def create_app(
    settings: ServiceSettings,
    *,
    models: ModelRegistry | None = None,
    executor: Callable[..., Executor] = Executor,
    log: Any = None,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: see :class:`ServiceSettings`.
        models: opened already, or None to open the runs of the settings when the application starts.
        executor: makes the worker processes, see :class:`service.backend.Backend`.
        log: a structlog logger, or None for one that writes to standard error.
    """
    log = make_log() if log is None else log
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        private_folder(settings.state_dir)
        app.state.audit = AuditLog(settings.state_dir)
        registry = models or open_models(settings)
        backend = Backend(settings, registry, audit=app.state.audit, metrics=metrics, log=log, executor=executor)
        app.state.models, app.state.backend = registry, backend
        app.state.work, app.state.fetching = anyio.CapacityLimiter(WAITING_PREDICTIONS), anyio.CapacityLimiter(1)
        for name in registry.names:
            _measure(metrics, registry, name, app)
        pictures = SlidePictures()
        app.state.pictures, app.state.decoding = pictures, anyio.CapacityLimiter(pictures.processes)
        backend.start()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_watch, app, metrics, log)
                group.start_soon(_prepare, backend)
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
        # Relative to the description: a proxy may serve it below a prefix unknown to the service.
        servers=[{"url": settings.root_path or "."}],
        root_path_in_servers=False,
        redirect_slashes=False,
    )
    app.state.gate, app.state.metrics, app.state.settings = Gate(settings), metrics, settings
    app.state.hidden, app.state.noted = tuple(hidden(settings)), slides.Noted()
    install_problem_handlers(app, hidden=app.state.hidden)
    for routes in (health, documentation, model_routes, predictions, prediction_parts, rasters, slides, jobs, uploads, viewer):
        app.include_router(routes.router)
    describe_once(app)
    # The last one added is the outermost and sees every response.
    app.add_middleware(BodyLimits, seconds=settings.request_seconds)
    app.add_middleware(Defects)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestRecord, log=log, metrics=metrics, root_path=settings.root_path)
    return app


def open_models(settings: ServiceSettings) -> ModelRegistry:
    """The models of the settings' runs, after checking the folders.

    Raises:
        ConfigError: no run is named, a folder does not exist, or the state folder cannot be made.
        RunError: no run can be opened.
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
    for name, run in settings.runs.items():
        if not run.is_dir():
            raise ConfigError(f"run {run} of model '{name}' does not exist", "check the path, or train one: comel train")
    models = ModelRegistry(settings)
    models.open()
    return models


async def _watch(app: FastAPI, metrics: Metrics, log: Any) -> None:
    """Switch to new versions while the service runs."""
    models: ModelRegistry = app.state.models
    while True:
        await anyio.sleep(WATCH_SECONDS)
        try:
            changed = await anyio.to_thread.run_sync(models.refresh)
        except Exception as error:  # one failed check must not end all later ones
            log.error("checking for new versions failed", **describe_defect(error))
            continue
        for state in changed:
            _measure(metrics, models, state.name, app)
            if state.refusal is None:
                log.info("model version", model=state.name, version=state.version)
            else:
                refused = {"refused": state.refusal.version, "reason": state.refusal.what}
                log.error("model version refused", model=state.name, version=state.version, **refused)


async def _prepare(backend: Backend) -> None:
    """Load the answering versions in the process for synchronous predictions, while the service runs."""
    while True:
        await anyio.to_thread.run_sync(backend.prepare, abandon_on_cancel=True)
        await anyio.sleep(WATCH_SECONDS)


def _measure(metrics: Metrics, models: ModelRegistry, name: str, app: FastAPI) -> None:
    """Update the metrics of a model."""
    state = models.state(name)
    why = None if state.refusal is None else without_paths(state.refusal.what, app.state.hidden)
    metrics.model(state, None if state.version is None else models.get(name, state.version).run_id, why)


def serve(settings: ServiceSettings) -> None:
    """Open the models and answer requests until interrupted. Created files are private to their owner.

    Raises:
        ConfigError: keys are required but there are none, or a limit of the system is too low; nothing listens then.
        ComelError: the runs, a folder or the database cannot be used; nothing listens then.
    """
    with private_files():
        _serve(settings)


def _serve(settings: ServiceSettings) -> None:
    import uvicorn

    private_folder(settings.state_dir)
    gate = Gate(settings)
    gate.check_exposure()
    check_descriptors(settings)
    log = make_log()
    open_database(settings).close()
    models = open_models(settings)
    app = create_app(settings, models=models, log=log)
    route_library_logs(log)
    for name in models.names:
        if (refusal := models.state(name).refusal) is not None:
            log.error("model version refused", model=name, refused=refusal.version, reason=refusal.what)
    if gate.open:
        log.warning(
            "no API keys: everyone on this machine may predict and read",
            remedy=f"comel keys add NAME --scope predict --state {settings.state_dir}",
        )
    elif gate.keys.lost():
        log.error("the API keys are lost: no request is admitted", remedy="restore keys.json, or add a key: comel keys add")
    # Bodies too large for memory go to the state folder's disk; the system's folder may be in memory.
    tempfile.tempdir = str(settings.state_dir / "incoming")
    private_folder(settings.state_dir / "incoming")

    def drain() -> None:
        """Start no further job once the service is asked to stop."""
        backend: Backend | None = getattr(app.state, "backend", None)
        if backend is not None:
            backend.pool.drain()

    # uvicorn's own access log would contain paths and queries; forwarded headers are not used, so none is trusted.
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_of(settings),
        ws="none",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
    )
    server = Server(config, stopping=drain)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)  # the log says why
