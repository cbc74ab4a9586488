"""Routes of the microscope: state and settings, live mode, single frames, exact pixels of the newest frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Query, Response

from livephase.api.routes_service import Wired  # noqa: TC001 - FastAPI reads the annotation at run time
from livephase.api.runs import TURN_S
from livephase.api.schemas import (
    ExposureOut,
    LiveOut,
    MicroscopeOut,
    MicroscopePatch,
    ModelName,
    PhaseStatistics,
    RawStatistics,
    RunOut,
    SnapOut,
)
from livephase.clock import iso_utc
from livephase.errors import ConflictError, InferenceError, PlanError
from livephase.phase.exposure import advise, saturated_fraction
from livephase_devices.errors import DeviceTimeoutError

if TYPE_CHECKING:
    from livephase.api.services import Services
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame

router = APIRouter(tags=["microscope"])

PHASE_S: Final = 30.0
"""Longest wait for the phase of a single frame."""

CONFLICT: Final[dict[int | str, dict[str, Any]]] = {409: {"description": "A run has the microscope."}}
DEVICE: Final[dict[int | str, dict[str, Any]]] = {
    502: {"description": "A device failed."},
    504: {"description": "A device did not answer."},
}


@router.get("/microscope")
def read_microscope(services: Wired) -> MicroscopeOut:
    """Return the microscope's state, and what of it lies outside the model's valid range."""
    return _described(services)


@router.patch("/microscope", responses={**CONFLICT, **DEVICE})
def change_microscope(change: MicroscopePatch, services: Wired) -> MicroscopeOut:
    """Set exposure or defocus; done when the devices have confirmed it."""
    future = services.thread.apply(exposure_ms=change.exposure_ms, defocus_um=change.defocus_um)
    try:
        future.result(TURN_S)
    except TimeoutError:
        future.cancel()
        raise no_turn(services) from None
    services.look_at_changed(exposure=change.exposure_ms is not None, defocus=change.defocus_um is not None)
    return _described(services)


@router.post("/live/start", responses=CONFLICT)
def start_live(services: Wired) -> LiveOut:
    """Take frames continuously and show their phase."""
    services.thread.start_live()
    return LiveOut.of_status(services.thread.live)


@router.post("/live/stop")
def stop_live(services: Wired) -> LiveOut:
    """Stop live mode; during a run, keep it off after the run too."""
    services.thread.stop_live()
    return LiveOut.of_status(services.thread.live)


@router.post("/snap", responses={**CONFLICT, **DEVICE})
def snap(services: Wired) -> SnapOut:
    """Take one frame, show it to all viewers, and return its statistics; nothing is stored."""
    waiting = services.thread.snap()
    try:
        frame = waiting.result(TURN_S)
    except TimeoutError:
        waiting.cancel()
        raise no_turn(services) from None
    defocus_um = services.thread.stated_defocus_um if frame.defocus_um is None else frame.defocus_um
    result, phase_error = _phase_of(services, frame, defocus_um)
    services.publisher.frame_ready(frame, result, defocus_um=defocus_um, run_id=None, time_point=None)
    height, width = frame.pixels.shape
    exposure = ExposureOut.of(
        advise(
            frame.pixels,
            bit_depth=frame.bit_depth,
            exposure_ms=frame.exposure_ms,
            offset_counts=services.illumination.offset_counts,
        )
    )
    return SnapOut(
        index=frame.index,
        time_utc=iso_utc(frame.time_utc_ns),
        width=width,
        height=height,
        bit_depth=frame.bit_depth,
        exposure_ms=frame.exposure_ms,
        defocus_um=defocus_um,
        raw=RawStatistics(
            min=int(frame.pixels.min()),
            max=int(frame.pixels.max()),
            mean=float(frame.pixels.mean()),
            saturated_fraction=saturated_fraction(frame.pixels, frame.bit_depth),
        ),
        exposure=exposure,
        phase=None if result is None else _statistics(result),
        phase_error=phase_error,
        warnings=[*services.publisher.range_problems(defocus_um), *_doubts(result)],
    )


@router.get(
    "/preview/region",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "float32, little-endian, row by row."},
        409: {"description": "There is no such frame yet."},
    },
)
def region(
    services: Wired,
    x: Annotated[int, Query(ge=0)],
    y: Annotated[int, Query(ge=0)],
    width: Annotated[int, Query(ge=1)],
    height: Annotated[int, Query(ge=1)],
    kind: Literal["phase", "raw"] = "phase",
) -> Response:
    """Return exact values of a region of the newest frame: phase in rad, or camera counts, as float32.

    The response headers name the frame (``X-Livephase-Seq``, as in the stream) and the region's shape
    (``X-Livephase-Width``, ``X-Livephase-Height``).
    """
    frame = services.hub.latest(kind)
    image = None if frame is None else frame.image(kind)
    if frame is None or image is None:
        raise ConflictError(f"there is no {kind} frame yet; start live mode, take a frame or start a run")
    full_height, full_width = image.shape
    if x + width > full_width or y + height > full_height:
        raise PlanError(
            f"the region {width} x {height} at ({x}, {y}) reaches outside the image of {full_width} x {full_height}"
        )
    pixels = np.ascontiguousarray(image[y : y + height, x : x + width], dtype="<f4")
    return Response(
        pixels.tobytes(),
        media_type="application/octet-stream",
        headers={
            "X-Livephase-Seq": str(frame.sequence),
            "X-Livephase-Width": str(width),
            "X-Livephase-Height": str(height),
            "Cache-Control": "no-store",
        },
    )


def _described(services: Services) -> MicroscopeOut:
    state = services.microscope.state()
    stated_um = services.thread.stated_defocus_um
    defocus_um = stated_um if state.defocus_um is None else state.defocus_um
    card = services.engine.card
    run = services.thread.run
    exposure = services.publisher.exposure_advice(services.illumination.offset_counts)
    return MicroscopeOut(
        microscope=state,
        stated_defocus_um=stated_um,
        hr_pixel_um=state.lr_pixel_um / card.scale,
        model=ModelName.of(card),
        range_problems=services.publisher.range_problems(defocus_um),
        advice=services.models.advice(card, defocus_um),
        exposure=None if exposure is None else ExposureOut.of(exposure),
        illumination_problems=services.illumination.present_problems(state),
        live=LiveOut.of_status(services.thread.live),
        inference=services.inference(),
        run=None if run is None else RunOut.of_progress(run.progress, str(services.runs.path(run.run_id))),
    )


def _phase_of(
    services: Services, frame: CameraFrame, defocus_um: float | None
) -> tuple[PhaseResult | None, str | None]:
    """Compute the phase of one frame; None and the reason where that is impossible."""
    if defocus_um is None:
        return None, "the defocus is not known: this microscope has no lens; state it by PATCH /api/v1/microscope"
    try:
        future = services.engine.submit(frame.pixels, defocus_um, bit_depth=frame.bit_depth)
        return future.result(PHASE_S), None
    except TimeoutError:
        return None, f"the inference worker did not answer within {PHASE_S:g} s"
    except InferenceError as error:
        return None, str(error)


def _doubts(result: PhaseResult | None) -> list[str]:
    if result is None or result.misfit is None or not result.misfit.is_raised:
        return []
    misfit = result.misfit
    return [f"The phase does not explain the frame: misfit {misfit.value:.1f}, usual are up to {misfit.threshold:.1f}."]


def _statistics(result: PhaseResult) -> PhaseStatistics:
    phase = result.phase_rad
    return PhaseStatistics(
        min_rad=float(np.nanmin(phase)),
        max_rad=float(np.nanmax(phase)),
        mean_rad=float(np.nanmean(phase)),
        sd_rad=float(np.nanstd(phase)),
        inference_ms=result.inference_ms,
        runtime=result.runtime,
        misfit=None if result.misfit is None else result.misfit.value,
    )


def no_turn(services: Services) -> DeviceTimeoutError:
    """Return the error for a request that the acquisition thread did not come to."""
    return DeviceTimeoutError(
        f"the microscope had no time for this request within {TURN_S:g} s; see GET /api/v1/health",
        services.microscope.config.camera,
    )
