"""The web application: gate, problem documents, routes, live stream and page, over one set of services."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles

from livephase import __version__
from livephase.api import (
    problems,
    routes_acquisitions,
    routes_calibrations,
    routes_devices,
    routes_illumination,
    routes_microscope,
    routes_models,
    routes_service,
)
from livephase.api.schemas import Problem
from livephase.api.security import LOOPBACK_NAMES, Gate
from livephase.api.static import client_directory
from livephase.api.stream import stream_router

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Scope

    from livephase.api.services import Services

log = logging.getLogger(__name__)

PREFIX = "/api/v1"
WATCH_S = 0.5
"""How often the state of the inference worker is looked at for viewers."""


def create_app(services: Services) -> FastAPI:
    """Return the application over services that are open; it does not close them."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        services.hub.attach()
        watch = asyncio.create_task(_watch_inference(services))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    app = FastAPI(
        title="livephase",
        version=__version__,
        summary="Live quantitative phase microscopy: runs, live mode, microscope and models.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        default_response_class=problems.FiniteJSONResponse,
        redirect_slashes=False,
    )
    app.state.services = services
    app.add_middleware(Gate)
    problems.install(app)
    for routes in (
        routes_service,
        routes_models,
        routes_microscope,
        routes_devices,
        routes_calibrations,
        routes_illumination,
        routes_acquisitions,
    ):
        app.include_router(routes.router, prefix=PREFIX)
    app.include_router(routes_service.root)
    app.include_router(stream_router(services.hub, allowed_hosts=LOOPBACK_NAMES), prefix=PREFIX)
    app.router.routes.append(_Page("/", StaticFiles(directory=client_directory(), html=True)))
    app.openapi = lambda: _openapi(app)  # pyright: ignore[reportAttributeAccessIssue] - FastAPI's documented hook
    return app


class _Page(Mount):
    """The page at the root; below ``/api`` it matches nothing, so that a wrong method there is 405, not 404."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["path"].startswith("/api/"):
            return Match.NONE, {}
        return super().matches(scope)


async def _watch_inference(services: Services) -> None:
    """Tell viewers when the inference worker changes its state."""
    told: tuple[str, int] | None = None
    while True:
        inference = services.inference()
        now = (inference.state, inference.restarts)
        if now != told:
            if inference.error is not None:
                log.warning("inference worker %s: %s", inference.state, inference.error)
            services.publisher.event("inference", inference.model_dump(mode="json"))
            told = now
        await asyncio.sleep(WATCH_S)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """OpenAPI in which every error is a problem document, as it is on the wire."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path in schema["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if status >= "400":
                        response["content"] = content
        parts = schema.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            parts.pop(unused, None)
        parts["Problem"] = Problem.model_json_schema()
        app.openapi_schema = schema
    return app.openapi_schema
