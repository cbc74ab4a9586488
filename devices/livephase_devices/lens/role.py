"""The lens of a microscope: any Micro-Manager stage, or a numeric property of any device; runs on the owner thread."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pymmcore_plus import DeviceType

from livephase_devices import loading
from livephase_devices import properties as props
from livephase_devices.errors import DeviceError, PropertyError, PropertyNotFoundError

if TYPE_CHECKING:
    from livephase_devices.session import CoreSession

TOLERANCE_UM = 0.5
"""A lens or drive that stops further than this from where it was sent has not arrived."""


class Lens(ABC):
    """What sets the defocus. Its position has a unit of its own; the configuration turns it into um.

    Parameters
    ----------
    session : CoreSession
        The loaded core.
    label : str
        Label of the device.
    settle_s : float
        Wait after the device reports that it has arrived, in s.

    Notes
    -----
    Errors of all methods: ``DeviceError`` and ``DeviceTimeoutError``, which name the device.
    """

    def __init__(self, session: CoreSession, label: str, settle_s: float) -> None:
        self._session = session
        self._core = session.core
        self._settle_s = settle_s
        self.label = label

    # -- in the device's own unit -----------------------------------------------------------------------------

    def position(self) -> float:
        """Wait until the device rests, and return the position that it reports."""
        self._session.wait_until_rests(self.label)
        with self._session.touching(self.label, "read the position"):
            position = self._read()
        if not math.isfinite(position):
            raise DeviceError(f"reports {position} as its position; check that it is powered", self.label)
        return position

    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest position; None where the device states no limits."""
        with self._session.touching(self.label, "read the limits"):
            return self._limits()

    def go(self, position: float, action: str) -> float:
        """Go to a position, wait until the device rests and has settled; return the position that it reports."""
        session = self._session
        with session.touching(self.label, action):
            self._write(position)
        session.wait_until_rests(self.label)
        with session.touching(self.label, "settle", self._settle_s + session.config.call_timeout_s):
            time.sleep(self._settle_s)
        return self.position()

    # -- in um of defocus -------------------------------------------------------------------------------------

    def confirmed_defocus_um(self) -> float:
        """Wait until the device rests, and return the defocus in um that it reports."""
        return self._session.config.defocus_of(self.position())

    def limits_um(self) -> tuple[float, float] | None:
        """Lowest and highest defocus in um: of the device, where it states limits, and of its calibration."""
        active, ends = self._session.config.lens_calibration, self.limits()
        calibrated = None if active is None else active.calibration.defocus_range_um
        if ends is None:
            return calibrated
        low, high = sorted(self._session.config.defocus_of(end) for end in ends)
        return (low, high) if calibrated is None else (max(low, calibrated[0]), min(high, calibrated[1]))

    def move(self, defocus_um: float) -> float:
        """Move to a defocus, wait until the device rests and has settled; return the confirmed defocus in um.

        Raises
        ------
        PropertyError
            ``defocus_um`` is not finite, outside the limits or not calibrated; the device was not moved.
        DeviceError
            The device did not arrive.
        """
        config = self._session.config
        if not math.isfinite(defocus_um):
            raise PropertyError(f"a defocus of {defocus_um} um is not a number to move to", self.label)
        uncalibrated = config.uncalibrated_range_problem(defocus_um)
        if uncalibrated is not None:
            raise PropertyError(uncalibrated, self.label)
        limits = self.limits_um()
        if limits is not None and not limits[0] - 1e-9 <= defocus_um <= limits[1] + 1e-9:
            raise PropertyError(
                f"a defocus of {defocus_um:g} um is outside its range of {limits[0]:g} to {limits[1]:g} um", self.label
            )
        confirmed_um = config.defocus_of(self.go(config.position_of(defocus_um), f"move to {defocus_um:g} um"))
        if abs(confirmed_um - defocus_um) > TOLERANCE_UM:
            raise DeviceError(
                f"was sent to a defocus of {defocus_um:g} um but reports {confirmed_um:g} um; "
                "check that it is powered and not blocked",
                self.label,
            )
        return confirmed_um

    # -- what each kind does its own way ----------------------------------------------------------------------

    @abstractmethod
    def _read(self) -> float:
        """Return the position in the device's own unit."""

    @abstractmethod
    def _write(self, position: float) -> None:
        """Start moving."""

    @abstractmethod
    def _limits(self) -> tuple[float, float] | None:
        """Return both ends of the range of positions, in any order."""


class StageLens(Lens):
    """A Micro-Manager stage; its limits are those of a property ``Position``, where it has one."""

    def _read(self) -> float:
        return float(self._core.getPosition(self.label))

    def _write(self, position: float) -> None:
        self._core.setPosition(self.label, position)

    def _limits(self) -> tuple[float, float] | None:
        if not self._core.hasProperty(self.label, "Position"):
            return None
        return props.limits(self._core, self.label, "Position")


class PropertyLens(Lens):
    """A numeric property, such as ``Current-mA`` of Micro-Manager's adapter ``ETL``.

    Raises
    ------
    PropertyError
        The property is no number, cannot be set at run time, or has a choice of values instead of a range.
    """

    def __init__(self, session: CoreSession, label: str, name: str, settle_s: float) -> None:
        super().__init__(session, label, settle_s)
        self._name = name
        info = props.describe(session, label, name)
        why = None
        if info.kind == "str":
            why = "is text, not a number"
        elif info.read_only or info.pre_init:
            why = "cannot be set at run time"
        elif info.allowed:
            why = f"has only the values {', '.join(info.allowed)}"
        if why is not None:
            raise PropertyError(f"the property {name!r} has the role lens but {why}; correct the TOML", label)
        self._whole = info.kind == "int"

    def _read(self) -> float:
        return float(self._core.getProperty(self.label, self._name))

    def _write(self, position: float) -> None:
        # the nearest whole number: what is stored with a frame is the position that is read back
        self._core.setProperty(self.label, self._name, str(round(position)) if self._whole else repr(float(position)))

    def _limits(self) -> tuple[float, float] | None:
        return props.limits(self._core, self.label, self._name)


def find_lens(session: CoreSession) -> Lens | None:
    """Find the device that the configuration names as lens; None where it names none.

    The label of a loaded device is a stage; anything else is ``label.property``. Both parts may hold dots: what is
    loaded decides where the label ends.

    Raises
    ------
    DeviceNotFoundError, PropertyNotFoundError
        There is neither a device of that label nor such a property.
    DeviceError
        The device is no stage.
    PropertyError
        The property cannot be a lens, or two devices and properties fit the name.
    """
    wanted, core = session.config.lens, session.core
    if wanted is None:
        return None
    labels = [label for label in core.getLoadedDevices() if label != "Core"]
    if wanted not in labels:
        found = props.find_property(core, wanted)
        if found is not None:
            return PropertyLens(session, *found, session.config.lens_settle_s)
        for label in labels:
            if wanted.startswith(f"{label}."):
                known = ", ".join(core.getDevicePropertyNames(label))
                raise PropertyNotFoundError(
                    f"the role lens names its property {wanted[len(label) + 1 :]!r}, but it only has {known}", label
                )
    loading.check_role(core, session.config, "lens", wanted, DeviceType.Stage)
    return StageLens(session, wanted, session.config.lens_settle_s)
