"""Routes of devices: which are loaded, and every property of each, typed and with limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import unquote

from fastapi import APIRouter, Path
from fastapi.routing import APIRoute
from pydantic import AfterValidator

from livephase.api.routes_microscope import CONFLICT, DEVICE, no_turn
from livephase.api.routes_service import Wired  # noqa: TC001 - FastAPI reads the annotation at run time
from livephase.api.runs import TURN_S
from livephase.api.schemas import DeviceList, PropertyList, PropertyPut
from livephase_devices.microscope import PropertyInfo  # noqa: TC001 - as above

if TYPE_CHECKING:
    from starlette.routing import Match
    from starlette.types import Scope

Label = Annotated[str, Path(description="Label of the device, percent-encoded."), AfterValidator(unquote)]
Name = Annotated[str, Path(description="Name of the property, percent-encoded."), AfterValidator(unquote)]

_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "There is no such device or property."}}


class EncodedRoute(APIRoute):
    """A route that is matched against the path as it was sent, so that a label or name may hold a slash as ``%2F``."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path before decoding; the parameters are decoded one by one."""
        return super().matches({**scope, "path": scope["raw_path"].decode("latin-1")})


router = APIRouter(tags=["devices"], route_class=EncodedRoute)


@router.get("/devices", responses=DEVICE)
def devices(services: Wired) -> DeviceList:
    """List the loaded devices with library and type."""
    return DeviceList(devices=services.properties.devices())


@router.get("/devices/{label}/properties", responses={**_UNKNOWN, **DEVICE})
def properties(label: Label, services: Wired) -> PropertyList:
    """Read all properties of a device. During a run frames go first: each property is a call of its own."""
    return PropertyList(properties=services.properties.of_device(label))


@router.get("/devices/{label}/properties/{name}", responses={**_UNKNOWN, **DEVICE})
def read_property(label: Label, name: Name, services: Wired) -> PropertyInfo:
    """Read one property from its device."""
    return services.properties.read(label, name)


@router.put(
    "/devices/{label}/properties/{name}",
    responses={**_UNKNOWN, **CONFLICT, **DEVICE},
)
def set_property(label: Label, name: Name, wanted: PropertyPut, services: Wired) -> PropertyInfo:
    """Set a property between two frames and return it as the device then states it; refused during a run."""
    future = services.thread.between_frames(
        lambda: services.properties.set(label, name, wanted.value), f"{label}: the property {name!r} cannot be set"
    )
    try:
        return future.result(TURN_S)
    except TimeoutError:
        future.cancel()
        raise no_turn(services) from None
