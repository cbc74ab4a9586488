"""Every Micro-Manager property of every device, typed and with its limits; runs on the owner thread."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from pymmcore_plus import DeviceType, PropertyType

from livephase_devices.errors import DeviceNotFoundError, PropertyError, PropertyNotFoundError

if TYPE_CHECKING:
    from pymmcore_plus.experimental.unicore import UniMMCore

    from livephase_devices.session import CoreSession

PropertyValue = str | int | float
_LONGEST = 1023
"""Bytes of a value: Micro-Manager's buffers for it have 1024."""


class DeviceInfo(BaseModel):
    """One loaded device.

    Attributes
    ----------
    label : str
        Its name in the configuration file.
    library, name : str
        Device adapter and the device's name in it; for a Python device its module and class.
    type : str
        Micro-Manager's device type, such as ``"Camera"``, ``"Stage"`` or ``"Generic"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    library: str
    name: str
    type: str


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
    read_ms : float
        How long the device took to give its value, ms.
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
    read_ms: float


def list_devices(session: CoreSession) -> list[DeviceInfo]:
    """Describe every loaded device."""
    core = session.core
    devices: list[DeviceInfo] = []
    for label in core.getLoadedDevices():
        if label != "Core":
            with session.touching(label, "describe the device"):
                devices.append(
                    DeviceInfo(
                        label=label,
                        library=core.getDeviceLibrary(label),
                        name=core.getDeviceName(label),
                        type=str(DeviceType(core.getDeviceType(label))),
                    )
                )
    return devices


def list_names(session: CoreSession, label: str) -> list[str]:
    """Return the names of all properties of a device; DeviceNotFoundError where no such device is loaded."""
    _require_device(session, label)
    with session.touching(label, "list its properties"):
        return list(session.core.getDevicePropertyNames(label))


def list_properties(session: CoreSession) -> list[PropertyInfo]:
    """Read every property of every loaded device."""
    return [
        describe(session, device.label, name)
        for device in list_devices(session)
        for name in list_names(session, device.label)
    ]


def find_property(core: UniMMCore, full_name: str) -> tuple[str, str] | None:
    """Return label and name of the property ``label.name``, or None where no loaded device has it.

    Labels and names may hold dots themselves; what is loaded decides where the label ends.

    Raises
    ------
    PropertyError
        Two properties have that full name.
    """
    found = [
        (label, full_name[len(label) + 1 :])
        for label in core.getLoadedDevices()
        if label != "Core"
        and full_name.startswith(f"{label}.")
        and core.hasProperty(label, full_name[len(label) + 1 :])
    ]
    if len(found) > 1:
        labels = " and ".join(repr(label) for label, _ in found)
        raise PropertyError(f"this is a property of {labels}; give one of them another label in the cfg", full_name)
    return found[0] if found else None


def limits(core: UniMMCore, label: str, name: str) -> tuple[float, float] | None:
    """Return the lowest and highest value of a property; None where it states none."""
    if not core.hasPropertyLimits(label, name):
        return None
    return float(core.getPropertyLowerLimit(label, name)), float(core.getPropertyUpperLimit(label, name))


def describe(session: CoreSession, label: str, name: str) -> PropertyInfo:
    """Read one property with its value and limits.

    Raises
    ------
    DeviceNotFoundError, PropertyNotFoundError
        No such device, or it has no such property.
    """
    core = session.core
    _require_device(session, label)
    with session.touching(label, f"read property {name!r}"):
        if not core.hasProperty(label, name):
            known = ", ".join(core.getDevicePropertyNames(label))
            raise PropertyNotFoundError(f"has no property {name!r}; it has {known}", label)
        kind = _kind(core.getPropertyType(label, name))
        asked_s = time.perf_counter()
        value = core.getProperty(label, name)
        read_ms = (time.perf_counter() - asked_s) * 1000
        return PropertyInfo(
            device=label,
            name=name,
            kind=kind,
            value=_typed(value, kind),
            read_only=bool(core.isPropertyReadOnly(label, name)),
            pre_init=bool(core.isPropertyPreInit(label, name)),
            limits=limits(core, label, name),
            allowed=tuple(map(str, core.getAllowedPropertyValues(label, name))),
            read_ms=read_ms,
        )


def set_property(session: CoreSession, label: str, name: str, value: PropertyValue) -> PropertyValue:
    """Check and set a property, wait for the device, and return the value read back.

    Raises
    ------
    DeviceNotFoundError, PropertyNotFoundError
        No such device or property.
    PropertyError
        It is read-only, or the value is not allowed.
    DeviceError
        The device refused the value.
    """
    info = describe(session, label, name)
    if info.read_only or info.pre_init:
        why = "is read-only" if info.read_only else "can only be set in the configuration file"
        raise PropertyError(f"the property {name!r} {why}", label)
    text = _checked(info, value)
    with session.touching(label, f"set property {name!r} to {text!r}"):
        session.core.setProperty(label, name, text)
    session.wait_until_rests(label)
    with session.touching(label, f"read property {name!r}"):
        return _typed(session.core.getProperty(label, name), info.kind)


def _checked(info: PropertyInfo, value: PropertyValue) -> str:
    """Return the value as the core takes it; PropertyError when the property cannot have it."""
    label, name = info.device, info.name
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if len(text.encode(errors="replace")) > _LONGEST or "\0" in text:
        raise PropertyError(f"{name!r} cannot have more than {_LONGEST} bytes, nor a NUL", label)
    number = _number(text) if info.kind != "str" else None
    if info.allowed:
        for allowed in info.allowed:
            if allowed == text or (number is not None and _number(allowed) == number):
                return allowed
        raise PropertyError(f"{name!r} cannot be {text!r}; it can be {', '.join(info.allowed)}", label)
    if info.kind == "str":
        return text
    if number is None:
        raise PropertyError(f"{name!r} must be a number, not {text!r}", label)
    if info.kind == "int" and not number.is_integer():
        raise PropertyError(f"{name!r} must be a whole number, not {text}", label)
    if info.limits is not None and not info.limits[0] <= number <= info.limits[1]:
        raise PropertyError(
            f"{name!r} cannot be {text}; it must lie between {info.limits[0]:g} and {info.limits[1]:g}", label
        )
    return str(int(number)) if info.kind == "int" else repr(number)


def _number(text: str) -> float | None:
    """Return the finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _require_device(session: CoreSession, label: str) -> None:
    loaded = [one for one in session.core.getLoadedDevices() if one != "Core"]
    if label not in loaded:
        raise DeviceNotFoundError(f"no device of this label is loaded; there are {', '.join(loaded)}", label)


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
