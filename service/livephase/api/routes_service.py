"""Routes about the service itself: health and metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from livephase import __version__
from livephase.api.schemas import HealthOut
from livephase.api.services import Services


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the application was made without services")
    return services


Wired = Annotated[Services, Depends(services_of)]

router = APIRouter(tags=["service"])
root = APIRouter(include_in_schema=False)


@router.get("/health", responses={503: {"description": "No acquisition is possible."}})
@root.get("/health")
def health(services: Wired, response: Response) -> HealthOut:
    """Say whether the service does its work, at once; 503 when no acquisition is possible."""
    inference = services.engine.status()
    live = services.thread.live
    run = services.thread.run
    fault = services.thread.device_fault
    problems = [
        *([f"microscope: {fault}"] if fault else []),
        *([f"inference: {inference.state}: {inference.error}"] if inference.error else []),
        *services.store_problems,
        *services.illumination.problems,
    ]
    status = "degraded" if problems or inference.state == "stopped" else "ok"
    if not services.thread.alive:
        status = "failed"
        problems.insert(0, "the acquisition thread has ended; restart the service")
        response.status_code = 503
    return HealthOut(
        status=status,
        version=__version__,
        microscope="fault" if fault else "ok",
        inference=inference.state,
        live=live.running,
        run=None if run is None else run.run_id,
        disk_free_bytes=services.runs.disk_free_bytes,
        problems=problems,
    )


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}, "description": "Metrics."}}
)
@root.get("/metrics", response_class=Response)
def metrics(services: Wired) -> Response:
    """Return counters and measurements in Prometheus' text format."""
    known = services.metrics
    inference = services.engine.status()
    known.inference_ready.set(inference.state == "ready")
    known.inference_restarts.set(inference.restarts)
    counts = services.hub.counts()
    known.preview_frames.set(counts.frames_published)
    known.preview_sent.set(counts.frames_sent)
    known.preview_dropped.set(counts.frames_dropped)
    known.viewers.set(counts.viewers)
    known.disk_free.set(services.runs.disk_free_bytes)
    return Response(known.text(), media_type=CONTENT_TYPE_LATEST)
