"""Routes of the illumination: measure a dark frame or a flat field, see what is known, choose what is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from livephase.acquisition.reference_frames import (  # noqa: TC001 - FastAPI reads the annotations at run time
    DarkRequest,
    FlatRequest,
)
from livephase.api.illumination import InUse
from livephase.api.routes_service import Wired  # noqa: TC001 - as above
from livephase.api.wizard import MeasurementState
from livephase.phase.reference import Kind, ReferenceInfo

if TYPE_CHECKING:
    from livephase.api.services import Services
    from livephase.api.wizard import MeasurementStatus
    from livephase.phase.reference import Reference

router = APIRouter(prefix="/calibrations", tags=["calibrations"])

_FROZEN = ConfigDict(frozen=True, extra="forbid")
_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {
    409: {"description": "A run has the microscope, or another measurement or change is going on."}
}


class ReferenceOut(BaseModel):
    """A dark frame or flat field."""

    model_config = _FROZEN

    sha256: str
    file: str
    info: ReferenceInfo

    @classmethod
    def of(cls, reference: Reference | None) -> Self | None:
        """Describe a reference frame."""
        if reference is None:
            return None
        return cls(sha256=reference.sha256, file=reference.name, info=reference.info)


class MeasurementOut(BaseModel):
    """The latest measurement of one kind since the service started."""

    model_config = _FROZEN

    kind: Kind
    state: MeasurementState
    frames: int
    taken: int
    error: str | None = Field(description="Why it failed, and what to do.")
    result: ReferenceOut | None = Field(description="What was measured; choose it by PATCH to have it in use.")

    @classmethod
    def of(cls, kind: Kind, status: MeasurementStatus) -> Self:
        """Describe a measurement."""
        return cls(
            kind=kind,
            state=status.state,
            frames=status.frames,
            taken=status.taken,
            error=status.error,
            result=ReferenceOut.of(status.result),
        )


class IlluminationOut(BaseModel):
    """The dark frame and the flat field in use, and all that are known, the newest first."""

    model_config = _FROZEN

    dark: ReferenceOut | None
    flat: ReferenceOut | None = Field(description="null: the light is estimated from every frame.")
    problems: list[str]
    known: list[ReferenceOut]


class IlluminationPatch(BaseModel):
    """What to use; absent values stay, null takes it out of use."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dark: str | None = Field(default=None, description="SHA-256 of a known dark frame.")
    flat: str | None = Field(default=None, description="SHA-256 of a known flat field.")


@router.post("/dark", status_code=202, responses=_CONFLICT)
def measure_dark(request: DarkRequest, services: Wired) -> MeasurementOut:
    """Take a dark frame: shut the lamp out first. A lit frame is refused. Follow it by GET."""
    services.thread.refuse_during_run("a dark frame cannot be taken")
    return MeasurementOut.of("dark", services.wizard.start(request))


@router.post("/flat", status_code=202, responses=_CONFLICT)
def measure_flat(request: FlatRequest, services: Wired) -> MeasurementOut:
    """Take a flat field of an empty field, or of several fields while the dish is moved. Follow it by GET."""
    services.thread.refuse_during_run("a flat field cannot be taken")
    return MeasurementOut.of("flat", services.wizard.start(request))


@router.get("/dark")
def read_dark(services: Wired) -> MeasurementOut:
    """Return how the latest measurement of a dark frame stands."""
    return MeasurementOut.of("dark", services.wizard.status("dark"))


@router.get("/flat")
def read_flat(services: Wired) -> MeasurementOut:
    """Return how the latest measurement of a flat field stands."""
    return MeasurementOut.of("flat", services.wizard.status("flat"))


@router.get("/illumination")
def read_illumination(services: Wired) -> IlluminationOut:
    """Return the dark frame and flat field in use, and all that are known."""
    return _described(services)


@router.patch(
    "/illumination",
    responses={**_CONFLICT, 503: {"description": "The inference worker did not start; nothing has changed."}},
)
def choose(change: IlluminationPatch, services: Wired) -> IlluminationOut:
    """Use another dark frame or flat field from the next frame on, and after a restart of the service."""
    illumination = services.illumination
    before = illumination.in_use
    given = change.model_fields_set
    services.use_references(
        InUse(
            dark=illumination.find("dark", change.dark) if "dark" in given else before.dark,
            flat=illumination.find("flat", change.flat) if "flat" in given else before.flat,
        )
    )
    return _described(services)


def _described(services: Services) -> IlluminationOut:
    illumination = services.illumination
    known = [ReferenceOut.of(reference) for reference in illumination.known()]
    return IlluminationOut(
        dark=ReferenceOut.of(illumination.in_use.dark),
        flat=ReferenceOut.of(illumination.in_use.flat),
        problems=illumination.present_problems(services.microscope.state()),
        known=[one for one in known if one is not None],
    )
