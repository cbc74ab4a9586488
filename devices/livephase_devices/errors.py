"""The root of the error tree, and the errors of devices.

::

    LivephaseError
    ├── DeviceError            a device failed; names it
    │   ├── DeviceNotFoundError    no device of that label or role
    │   ├── DeviceTimeoutError     a call did not return in time
    │   ├── DeviceBusyError        the microscope is in use (a sequence, a run)
    │   ├── PropertyError          a property is read-only or out of range
    │   │   └── PropertyNotFoundError  a device has no property of that name
    │   └── MicroscopeConfigError  a microscope.toml or the .cfg it names is wrong
    └── (the service adds its own: livephase.errors)

Every message says what happened, to which device or file, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class LivephaseError(Exception):
    """Root of every error that livephase raises on purpose.

    Attributes
    ----------
    status : int
        The HTTP status with which the REST layer answers.
    slug : str
        Stable machine-readable kind, the last part of the RFC 9457 ``type``.
    title : str
        Short human-readable kind.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class DeviceError(LivephaseError):
    """A device failed.

    Parameters
    ----------
    message : str
        What happened and what to do.
    device : str
        Label of the device, or the configuration file when none is loaded.
    """

    status = 502
    slug = "device-error"
    title = "Device error"

    def __init__(self, message: str, device: str) -> None:
        super().__init__(f"{device}: {message}")
        self.device = device


class DeviceNotFoundError(DeviceError):
    """No device has that label or role."""

    status = 404
    slug = "device-not-found"
    title = "No such device"


class DeviceTimeoutError(DeviceError):
    """A call to a device did not return in time."""

    status = 504
    slug = "device-timeout"
    title = "Device does not answer"


class DeviceBusyError(DeviceError):
    """The microscope is doing something that excludes this call."""

    status = 409
    slug = "device-busy"
    title = "Microscope is busy"


class PropertyError(DeviceError):
    """A property is read-only or out of range."""

    status = 422
    slug = "property"
    title = "Property refused"


class PropertyNotFoundError(PropertyError):
    """A device has no property of that name."""

    status = 404
    slug = "property-not-found"
    title = "No such property"


class MicroscopeConfigError(DeviceError):
    """A microscope's TOML, or the Micro-Manager configuration that it names, is missing or wrong."""

    status = 422
    slug = "microscope-config"
    title = "Microscope configuration is wrong"
