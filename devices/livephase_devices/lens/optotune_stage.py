"""An Optotune lens as a Micro-Manager stage, loaded by a ``#py`` line of a cfg."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from pymmcore_plus.experimental.unicore import StageDevice

from livephase_devices.errors import DeviceError
from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.python_device import add_property

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase_devices.lens.optotune_connection import Mode

T = TypeVar("T")
_MODES: dict[str, Mode] = {"Current": "current", "FocalPower": "focal_power"}
_DEFAULT_SETTLING_S = 0.05
"""Not confirmed for any lens: measure it (docs/optotune.md)."""


class OptotuneStage(StageDevice):
    """Stage whose position is the lens' current in mA or its focal power in dpt.

    Properties before initialisation: ``Port``; ``Mode`` (``Current``, ``FocalPower``); ``TemperatureLow-C`` and
    ``TemperatureHigh-C``, between which focal-power mode has to hold. Then: ``Position`` with the limits that the
    driver states; ``Current-mA`` and ``FocalPower-dpt`` (the one of the mode can be set, NaN for the focal power in
    current mode); ``Temperature-C`` (NaN without a sensor); ``Status`` in words; ``SettlingTime-ms``; ``Firmware`` and
    ``SerialNumber`` as of loading.

    Notes
    -----
    The lens counts as busy for the settling time after every move, the moves back to the set-point after a lost
    connection included. Micro-Manager calls a stage's position um; here it is mA or dpt.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lens: OptotuneLens | None = None
        self._port = ""
        self._mode = "Current"
        self._temperature_limits_c = [20.0, 45.0]
        self._settling_s = _DEFAULT_SETTLING_S
        self._settled_s = -math.inf
        self._notice: threading.Timer | None = None

        def before() -> bool:
            return self._lens is None

        add_property(self, "Port", str, lambda: self._port, self._set_port, only_before=before)
        add_property(self, "Mode", str, lambda: self._mode, self._set_mode, allowed=tuple(_MODES), only_before=before)
        for index, name in enumerate(("TemperatureLow-C", "TemperatureHigh-C")):
            read, write = self._temperature_limit(index)
            add_property(self, name, float, read, write, limits=(-40.0, 100.0), only_before=before)
        add_property(
            self,
            "SettlingTime-ms",
            float,
            lambda: self._settling_s * 1000,
            self._set_settling_ms,
            limits=(0.0, 10_000.0),
        )

    def initialize(self) -> None:
        """Connect, and register what depends on the mode and the driver's limits."""
        if not self._port:
            raise ValueError("has no port; set its property Port in the cfg")
        label = self.get_label()
        lens = OptotuneLens(
            self._port,
            mode=_MODES[self._mode],
            temperature_limits_c=(self._temperature_limits_c[0], self._temperature_limits_c[1]),
            label=label,
        )
        try:
            lens.open()
            limits = lens.limits
        except DeviceError as error:
            lens.close()
            raise ValueError(str(error).removeprefix(f"{label}: ")) from error
        self._lens = lens
        in_current_mode = lens.mode == "current"
        move = self.set_position_um
        add_property(self, "Position", float, self.get_position_um, move, limits=limits)
        add_property(
            self,
            "Current-mA",
            float,
            self.get_position_um if in_current_mode else lambda: self._settled(lambda lens: lens.current_ma),
            move if in_current_mode else None,
            limits=limits if in_current_mode else None,
        )
        add_property(
            self,
            "FocalPower-dpt",
            float,
            (lambda: math.nan) if in_current_mode else self.get_position_um,
            None if in_current_mode else move,
            limits=None if in_current_mode else limits,
        )
        identity = lens.identity
        firmware = f"type {identity.firmware_type or 'not told'}, version {identity.firmware_version or 'not told'}"
        add_property(self, "Firmware", str, lambda: firmware)
        add_property(self, "SerialNumber", str, lambda: identity.serial_number or "not told")
        add_property(self, "Temperature-C", float, self._read_temperature_c)
        add_property(self, "Status", str, self._read_status)

    def shutdown(self) -> None:
        """Close the port; the lens stays where it is."""
        if self._notice is not None:
            self._notice.cancel()
        if self._lens is not None:
            self._lens.close()
            self._lens = None

    # -- Stage ------------------------------------------------------------------------------------------------

    def set_position_um(self, val: float) -> None:
        """Go to ``val`` mA or dpt; ``busy`` until settled.

        Raises
        ------
        PropertyError
            Outside the limits.
        DeviceError, DeviceTimeoutError
            The lens did not take it.
        """
        lens = self._require_lens()
        target = float(val)
        try:
            if lens.mode == "current":
                lens.current_ma = target
            else:
                lens.focal_power_dpt = target
        finally:
            self._settled_s = time.monotonic() + self._settling_s  # a failed move may have moved it, too
        self._tell_when_settled(target)

    def get_position_um(self) -> float:
        """Return the set-point in mA or dpt, as the driver holds it.

        If the connection had been lost and the lens was sent to its set-point again, waits until it has settled there:
        a frame may be exposed as soon as the position is known.
        """
        return self._settled(lambda lens: lens.current_ma if lens.mode == "current" else lens.focal_power_dpt)

    def busy(self) -> bool:
        """Return whether the lens is still settling."""
        return time.monotonic() < self._settled_s

    def home(self) -> None:
        """Refuse: a tunable lens has no home."""
        raise NotImplementedError("a tunable lens has no home position; set its position")

    def stop(self) -> None:
        """Do nothing: the lens moves at once."""

    def set_origin(self) -> None:
        """Refuse: 0 mA and 0 dpt are given."""
        raise NotImplementedError("a tunable lens has no movable origin")

    # -- inside -----------------------------------------------------------------------------------------------

    def _require_lens(self) -> OptotuneLens:
        if self._lens is None:
            raise DeviceError("is not connected", self.get_label())
        return self._lens

    def _settled(self, read: Callable[[OptotuneLens], T]) -> T:
        """Read something; where the lens was sent to its set-point again by that, wait until it has settled."""
        lens = self._require_lens()
        before = lens.restorations
        try:
            return read(lens)
        finally:
            if lens.restorations != before:
                self._settled_s = time.monotonic() + self._settling_s
                time.sleep(self._settling_s)

    def _read_temperature_c(self) -> float:
        temperature_c = self._settled(lambda lens: lens.temperature_c)
        return math.nan if temperature_c is None else temperature_c

    def _read_status(self) -> str:
        status = self._settled(lambda lens: lens.status)
        return "not told by this firmware" if status is None else status.words()

    def _tell_when_settled(self, target: float) -> None:
        """Emit ``stagePositionChanged`` from a thread of its own.

        Emitted here, under the device's lock, a slot that asks the core for the position would wait for ever.
        """
        if self._notice is not None:
            self._notice.cancel()
        emit, label = self.core.events.stagePositionChanged.emit, self.get_label()
        self._notice = threading.Timer(self._settling_s, emit, (label, target))
        self._notice.daemon = True
        self._notice.start()

    def _temperature_limit(self, index: int) -> tuple[Callable[[], float], Callable[[float], None]]:
        def write(value: float) -> None:
            self._temperature_limits_c[index] = value

        return lambda: self._temperature_limits_c[index], write

    def _set_port(self, port: str) -> None:
        self._port = port

    def _set_mode(self, mode: str) -> None:
        self._mode = mode

    def _set_settling_ms(self, ms: float) -> None:
        self._settling_s = ms / 1000.0
