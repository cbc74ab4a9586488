"""Loads a Micro-Manager configuration into a core and checks what came of it.

A Python device whose ``initialize`` fails is only logged by pymmcore-plus 0.18: the configuration "loads" and the
dead device accepts commands. So after loading, the initialisation state of every device is read, and the roles are
checked for existence and type.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pymmcore_plus import DeviceInitializationState, DeviceType

from livephase_devices.errors import (
    DeviceError,
    DeviceNotFoundError,
    DeviceTimeoutError,
    MicroscopeConfigError,
    PropertyError,
)
from livephase_devices.properties import find_property

if TYPE_CHECKING:
    from pymmcore_plus.experimental.unicore import UniMMCore

    from livephase_devices.config import MicroscopeConfig

_INIT_LOGGER = "pymmcore_plus.experimental.unicore._device_manager"
_INITIALIZE_HINT = "check that the cfg has the line 'Property,Core,Initialize,1' after its devices"
_LONGEST_REASON = 300


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def _innermost(error: BaseException) -> BaseException:
    """Return the error at the bottom of pymmcore-plus' chain, which repeats each message on every level."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _raise_device_error(error: BaseException) -> None:
    """Raise what names a device in pymmcore-plus' chain: any time-out, and errors that belong to no line of the cfg."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DeviceTimeoutError) or (isinstance(cause, DeviceError) and not _failing_line(error)):
            raise cause
        cause = cause.__cause__


def load(core: UniMMCore, config: MicroscopeConfig) -> dict[str, tuple[str, str]]:
    """Load ``config.cfg`` and check every device and the roles of camera and xy stage.

    Returns
    -------
    dict
        Label and property name of every recorded property, by its name in the configuration.

    Raises
    ------
    MicroscopeConfigError
        The cfg does not exist, has a line that cannot be carried out, or needs device adapters that are not there.
    DeviceNotFoundError
        A role names a device that the cfg does not load.
    DeviceTimeoutError
        A device stays busy.
    DeviceError
        A device did not initialise, or has the wrong type for its role.
    PropertyError
        A recorded property does not exist or is not a number.
    """
    if not config.cfg.is_file():
        raise MicroscopeConfigError("this Micro-Manager configuration does not exist", str(config.cfg))
    _check_adapters(core, config.cfg)
    with _InitErrors() as failed:
        try:
            core.loadSystemConfiguration(config.cfg)
        except Exception as error:
            # A dead device often makes a later line fail: the first cause is the useful one.
            failed.raise_first()
            reason = one_line(_innermost(error))
            hint = f"; {_INITIALIZE_HINT}" if "uninitialized" in reason else ""
            if not hint:
                _raise_device_error(error)
            raise MicroscopeConfigError(f"{_failing_line(error)}{reason}{hint}", str(config.cfg)) from error
        failed.raise_first()
    _check_initialised(core, config)
    check_role(core, config, "camera", config.camera, DeviceType.Camera)
    check_role(core, config, "z_drive", config.z_drive, DeviceType.Stage)
    check_role(core, config, "xy_stage", config.xy_stage, DeviceType.XYStage)
    core.setCameraDevice(config.camera)
    return _find_recorded(core, config)


def _check_adapters(core: UniMMCore, cfg: Path) -> None:
    """Fail clearly when the cfg has C++ devices and no folder of device adapters was found."""
    lines = cfg.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.replace(" ", "").startswith("Device,") for line in lines):
        return
    folders = [Path(folder) for folder in core.getDeviceAdapterSearchPaths()]
    if not any(path for folder in folders for path in folder.glob("*mmgr_dal_*")):
        searched = ", ".join(map(str, folders)) or "none"
        raise MicroscopeConfigError(
            "needs Micro-Manager device adapters and none are installed "
            f"(folders searched: {searched}); install Micro-Manager and set MICROMANAGER_PATH to its folder, "
            "or run 'pip install mm-test-adapters' for the demo devices",
            str(cfg),
        )


def _check_initialised(core: UniMMCore, config: MicroscopeConfig) -> None:
    for label in core.getLoadedDevices():
        if label != "Core":
            state = core.getDeviceInitializationState(label)
            if state != DeviceInitializationState.InitializedSuccessfully:
                raise DeviceError(f"is not initialised ({state.name}); {_INITIALIZE_HINT}", label)


def check_role(core: UniMMCore, config: MicroscopeConfig, role: str, label: str | None, wanted: DeviceType) -> None:
    """Fail unless the device of a role is loaded and has the type that the role needs."""
    if label is None:
        return
    if label not in core.getLoadedDevices():
        there = ", ".join(core.getLoadedDevicesOfType(wanted)) or "none"
        raise DeviceNotFoundError(
            f"the role {role} names this device, which {config.cfg.name} does not load "
            f"(devices of type {wanted.name} in it: {there})",
            label,
        )
    found = core.getDeviceType(label)
    if found != wanted:
        raise DeviceError(
            f"has the role {role} but is of type {DeviceType(found).name}, not {wanted.name}; correct the TOML",
            label,
        )


def _find_recorded(core: UniMMCore, config: MicroscopeConfig) -> dict[str, tuple[str, str]]:
    recorded: dict[str, tuple[str, str]] = {}
    temperature = () if config.lens_temperature is None else (config.lens_temperature,)
    for full_name in (*config.recorded_properties, *temperature):
        found = find_property(core, full_name)
        if found is None:
            label, _, name = full_name.partition(".")
            raise PropertyError(f"has no property {name!r} that could be recorded; correct the TOML", label)
        value = core.getProperty(*found)
        try:
            float(value)
        except ValueError:
            raise PropertyError(
                f"the property {found[1]!r} is {value!r}: only numbers can be recorded with every frame", found[0]
            ) from None
        if full_name in config.recorded_properties:
            recorded[full_name] = found
    return recorded


def _failing_line(error: BaseException) -> str:
    """Return ``"line 3 'Device,...': "`` from pymmcore-plus' message, or nothing."""
    first = str(error).splitlines()[0]
    _, found, rest = first.partition(" at line ")
    number, _, line = rest.partition(": ")
    return f"line {number} {line}: " if found else ""


class _InitErrors(logging.Filter):
    """Collects what pymmcore-plus only logs: the exceptions of Python devices' ``initialize``."""

    def __init__(self) -> None:
        super().__init__()
        self._errors: list[tuple[str, BaseException]] = []

    def __enter__(self) -> _InitErrors:
        logging.getLogger(_INIT_LOGGER).addFilter(self)
        # Its warnings about properties of a device that failed would be printed before the error that says why.
        for handler in _printing_handlers():
            handler.addFilter(_only_errors)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(_INIT_LOGGER).removeFilter(self)
        for handler in _printing_handlers():
            handler.removeFilter(_only_errors)

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the exception out of the log record; the record itself is not printed."""
        if record.exc_info is None or record.exc_info[1] is None:
            return True
        label = record.getMessage().removeprefix("Failed to initialize device ").strip("'\"")
        self._errors.append((label, record.exc_info[1]))
        return False

    def raise_first(self) -> None:
        """Raise the first failure as an error that names the device."""
        for label, error in self._errors:
            raise DeviceError(f"could not be initialised: {one_line(error)}", label) from error


def _printing_handlers() -> list[logging.Handler]:
    """Return the handlers with which pymmcore-plus prints its log; its log file is not among them."""
    handlers = logging.getLogger("pymmcore-plus").handlers
    return [handler for handler in handlers if not isinstance(handler, logging.FileHandler)]


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
