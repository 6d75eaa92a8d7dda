"""The application, assembled: settings in, FastAPI out, nothing global."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

import anyio
from fastapi import FastAPI

from comel.errors import ConfigError
from comel.prediction import NOTICE
from service.predictions import PredictionService, PredictorLike
from service.problems import install_problem_handlers
from service.routes import health, model, predictions
from service.settings import ServiceSettings

__all__ = ["create_app", "open_predictor", "serve"]

CONCURRENT_PREDICTIONS = 2

_DESCRIPTION = f"""Predictions of a continual multiple instance learning model on whole-slide images, with maps of where the
evidence lies.

**{NOTICE}**

There is no sign-in: the service listens on the loopback address unless told otherwise."""


def create_app(settings: ServiceSettings, *, predictor: PredictorLike | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: see :class:`ServiceSettings`.
        predictor: the model, or None to open the run of the settings when the application starts.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = PredictionService(predictor or open_predictor(settings), settings)
        app.state.work = anyio.CapacityLimiter(CONCURRENT_PREDICTIONS)
        yield

    app = FastAPI(title="CoMEL", version=metadata.version("comel"), description=_DESCRIPTION, lifespan=lifespan)
    hidden = [settings.run, settings.state_dir, *([settings.slide_root] if settings.slide_root else [])]
    install_problem_handlers(app, hidden=hidden)
    for routes in (health, model, predictions):
        app.include_router(routes.router)
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
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state folder {settings.state_dir} cannot be made ({error.strerror})", "give another one") from None
    opened: PredictorLike = Predictor.open(settings.run, device=settings.device)
    return opened


def serve(settings: ServiceSettings) -> None:
    """Open the model and answer requests until interrupted.

    Raises:
        ComelError: the run or a folder cannot be used; nothing listens then.
    """
    import uvicorn

    uvicorn.run(create_app(settings, predictor=open_predictor(settings)), host=settings.host, port=settings.port)
