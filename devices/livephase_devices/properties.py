"""Every Micro-Manager property of every device, typed and with its limits; runs on the owner thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from pymmcore_plus import PropertyType

from livephase_devices.errors import DeviceNotFoundError, PropertyError

if TYPE_CHECKING:
    from livephase_devices.session import CoreSession

PropertyValue = str | int | float


class PropertyInfo(BaseModel):
    """One property of one device.

    Attributes
    ----------
    device, name : str
        Label of the device and name of the property.
    kind : str
        ``"float"``, ``"int"`` or ``"str"``; ``value`` is of this kind.
    read_only : bool
        Cannot be set.
    pre_init : bool
        Can only be set in the configuration file, before the device is initialised.
    limits : tuple of float or None
        Lowest and highest value, both included.
    allowed : tuple of str
        The only values that can be set; empty where any is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    name: str
    kind: Literal["str", "float", "int"]
    value: PropertyValue
    read_only: bool
    pre_init: bool
    limits: tuple[float, float] | None
    allowed: tuple[str, ...]


def list_properties(session: CoreSession) -> list[PropertyInfo]:
    """Read every property of every loaded device."""
    core = session.core
    return [
        describe(session, label, name)
        for label in core.getLoadedDevices()
        if label != "Core"
        for name in core.getDevicePropertyNames(label)
    ]


def describe(session: CoreSession, label: str, name: str) -> PropertyInfo:
    """Read one property with its value and limits.

    Raises
    ------
    DeviceNotFoundError, PropertyError
        No such device, or it has no such property.
    """
    core = session.core
    if label == "Core" or label not in core.getLoadedDevices():
        raise DeviceNotFoundError("no device of this label is loaded", label)
    with session.touching(label, f"read property {name!r}"):
        if not core.hasProperty(label, name):
            known = ", ".join(core.getDevicePropertyNames(label))
            raise PropertyError(f"has no property {name!r}; it has {known}", label)
        kind = _kind(core.getPropertyType(label, name))
        limits = None
        if core.hasPropertyLimits(label, name):
            limits = core.getPropertyLowerLimit(label, name), core.getPropertyUpperLimit(label, name)
        return PropertyInfo(
            device=label,
            name=name,
            kind=kind,
            value=_typed(core.getProperty(label, name), kind),
            read_only=bool(core.isPropertyReadOnly(label, name)),
            pre_init=bool(core.isPropertyPreInit(label, name)),
            limits=limits,
            allowed=tuple(map(str, core.getAllowedPropertyValues(label, name))),
        )


def set_property(session: CoreSession, label: str, name: str, value: PropertyValue) -> PropertyValue:
    """Check and set a property, wait for the device, and return the value read back.

    Raises
    ------
    DeviceNotFoundError, PropertyError
        No such device or property, it is read-only, or the value is not allowed.
    DeviceError
        The device refused the value.
    """
    info = describe(session, label, name)
    if info.read_only or info.pre_init:
        why = "is read-only" if info.read_only else "can only be set in the configuration file"
        raise PropertyError(f"the property {name!r} {why}", label)
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if info.allowed and text not in info.allowed:
        raise PropertyError(f"{name!r} cannot be {text!r}; it can be {', '.join(info.allowed)}", label)
    if info.kind != "str":
        try:
            number = float(text)
        except ValueError:
            raise PropertyError(f"{name!r} must be a number, not {text!r}", label) from None
        if info.kind == "int" and not number.is_integer():
            raise PropertyError(f"{name!r} must be a whole number, not {text}", label)
        text = str(int(number)) if info.kind == "int" else text
        if info.limits is not None and not info.limits[0] <= number <= info.limits[1]:
            raise PropertyError(
                f"{name!r} cannot be {text}; it must lie between {info.limits[0]:g} and {info.limits[1]:g}", label
            )
    with session.touching(label, f"set property {name!r} to {text!r}"):
        session.core.setProperty(label, name, text)
    session.wait_until_rests(label)
    with session.touching(label, f"read property {name!r}"):
        return _typed(session.core.getProperty(label, name), info.kind)


def _kind(kind: PropertyType) -> Literal["str", "float", "int"]:
    if kind == PropertyType.Float:
        return "float"
    return "int" if kind == PropertyType.Integer else "str"


def _typed(value: object, kind: Literal["str", "float", "int"]) -> PropertyValue:
    text = str(value)
    try:
        if kind == "float":
            return float(text)
        return int(text) if kind == "int" else text
    except ValueError:
        return text  # some adapters report "" for a number that they cannot read
