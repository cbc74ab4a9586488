"""Routes of calibrations: measure what the lens does in um of defocus, and put that into use."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from livephase.acquisition.calibration_plan import CalibrationPlan  # noqa: TC001 - FastAPI reads it at run time
from livephase.api.routes_microscope import DEVICE
from livephase.api.routes_service import Wired  # noqa: TC001 - as above
from livephase.api.schemas import CalibrationOut, CalibrationToUse  # noqa: TC001 - as above

router = APIRouter(tags=["calibrations"], prefix="/calibrations/defocus")

_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {409: {"description": "A run or a calibration has the microscope."}}


@router.post(
    "",
    status_code=202,
    responses={
        **_CONFLICT,
        404: {"description": "The microscope has no lens."},
        **DEVICE,
    },
)
def calibrate(plan: CalibrationPlan, services: Wired) -> CalibrationOut:
    """Start to measure focus and slope of the lens; live mode pauses. The lens returns to where it is."""
    return services.calibrations.start(plan)


@router.get("")
def read_calibration(services: Wired) -> CalibrationOut:
    """Return how far the latest calibration is and what came of it, which are stored, and which is in use."""
    return services.calibrations.status()


@router.post("/cancel", status_code=202, responses={409: {"description": "No calibration is going on."}})
def cancel(services: Wired) -> CalibrationOut:
    """Ask the calibration to end; the lens returns to where it was."""
    return services.calibrations.cancel()


@router.put(
    "/active",
    responses={
        **_CONFLICT,
        404: {"description": "No calibration of that name is stored."},
        507: {"description": "It is in use, but could not be kept for the next start."},
    },
)
def activate(wanted: CalibrationToUse, services: Wired) -> CalibrationOut:
    """Put a stored calibration into use, at once and after every restart."""
    return services.calibrations.activate(wanted.file)


@router.delete("/active", responses=_CONFLICT)
def deactivate(services: Wired) -> CalibrationOut:
    """Go back to what the service's configuration says of the lens."""
    return services.calibrations.deactivate()
