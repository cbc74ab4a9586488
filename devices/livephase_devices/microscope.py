"""The microscope: the only owner of a Micro-Manager core, used from any thread."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Self, TypeVar

from livephase_devices import process_end
from livephase_devices import properties as props
from livephase_devices.errors import DeviceBusyError, DeviceError, LivephaseError, PropertyError
from livephase_devices.fetching import Fetcher
from livephase_devices.frame import CameraFrame
from livephase_devices.owner_thread import OwnerThread
from livephase_devices.properties import DeviceInfo, PropertyInfo, PropertyValue
from livephase_devices.sequence import BufferedSequence, Sequence, SnapSequence
from livephase_devices.session import LOAD_FACTOR, CoreSession
from livephase_devices.state import MicroscopeState, closed_state, read_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.lens_calibration import ActiveCalibration

__all__ = ["CameraFrame", "DeviceInfo", "Microscope", "MicroscopeState", "PropertyInfo", "PropertyValue"]

T = TypeVar("T")

_HUNG_CLOSE_S = 1.0
"""How long closing waits for a call that is known to hang."""


class Microscope:
    """A camera, perhaps a lens, and all other devices of one Micro-Manager configuration.

    Calls from several threads take turns on one owner thread. ``with Microscope(config) as microscope: ...`` loads
    the devices and unloads them on every way out.

    Parameters
    ----------
    config : MicroscopeConfig
        Roles, optics and time-outs.

    Notes
    -----
    Errors of all methods: ``DeviceTimeoutError`` when a device does not answer within ``config.call_timeout_s``
    (for a frame: 5 exposures at least), and from then on at once for every call until the hung call returns;
    ``DeviceError`` when a device fails. Both name the device.
    """

    def __init__(self, config: MicroscopeConfig) -> None:
        self.config = self._given = config
        self._thread: OwnerThread | None = None
        self._session: CoreSession | None = None
        self._sequence: Sequence | None = None
        self._fetcher = Fetcher(self._fetch, config.camera)
        self._state = closed_state(config)
        self._unload: Callable[[], None] = lambda: None

    # -- life -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the configuration and check every device and role.

        Raises
        ------
        MicroscopeConfigError, DeviceNotFoundError, PropertyError, DeviceError
            See ``livephase_devices.loading.load``. Nothing stays loaded.
        """
        if self._thread is not None:
            raise DeviceBusyError("the microscope is open already", self.config.name)
        self._thread = thread = OwnerThread(f"microscope {self.config.name}", self.config.call_timeout_s)
        process_end.close_at_end(self)
        sessions: list[CoreSession] = []

        def load() -> None:
            # The core looks for its device adapters: on a slow disk that takes longer than a call to a device.
            with thread.touching(self.config.cfg.name, "load", LOAD_FACTOR * self.config.call_timeout_s):
                sessions.append(session := CoreSession(self.config, thread))
            session.load()
            self._session = session
            self._state = read_state(session, None)

        def unload() -> None:
            # After a hung load or close, self may have been opened anew: only what belongs to this thread goes.
            if self._session in sessions:
                self._session = self._sequence = None
            while sessions:
                sessions.pop().unload()

        self._unload = unload
        try:
            thread.call(self.config.cfg.name, "load", load)
        except BaseException:
            # The error of loading says what is wrong; one of closing would only repeat it.
            with suppress(LivephaseError):
                self.close()
            raise
        finally:
            process_end.close_at_end(self)  # once more: UniMMCore registers its own exit function when it is made

    def close(self) -> None:
        """Stop the camera, unload every device and end the owner thread; may be called twice.

        Raises
        ------
        DeviceTimeoutError
            A call still hangs. The devices are unloaded when it returns.
        """
        thread, self._thread = self._thread, None
        session = self._session
        process_end.forget(self)
        self._state = closed_state(self.config)
        self._fetcher.forget()
        if thread is not None:
            limit_s = self.config.call_timeout_s if session is None else session.frame_limit_s()
            thread.stop(self._unload, self.config.cfg.name, limit_s if thread.fault() is None else _HUNG_CLOSE_S)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except LivephaseError:
            if error is None:
                raise

    # -- camera -----------------------------------------------------------------------------------------------

    def snap(self, exposure_ms: float | None = None) -> CameraFrame:
        """Take one frame.

        Parameters
        ----------
        exposure_ms : float or None
            Exposure time that is set first; nobody else's call comes in between.

        Raises
        ------
        DeviceBusyError
            A sequence is running.
        """

        def snap() -> CameraFrame:
            self._refuse_during_sequence("snap")
            session = self._loaded()
            if exposure_ms is not None:
                session.set_exposure_ms(exposure_ms)
            return session.snap()

        return self._call(self.config.camera, "snap", snap)

    def start_sequence(self, count: int | None = None) -> None:
        """Start continuous acquisition; fetch the frames with ``next_frame``.

        Parameters
        ----------
        count : int or None
            Frames to take; None until ``stop_sequence``.

        Raises
        ------
        DeviceBusyError
            A sequence is running.
        """
        if count is not None and count < 1:
            raise PropertyError(f"a sequence of {count} frames cannot be taken; ask for 1 or more", self.config.camera)

        def start() -> None:
            self._refuse_during_sequence("start a sequence")
            session = self._loaded()
            kind = SnapSequence if session.camera_is_python else BufferedSequence
            self._fetcher.forget()
            self._sequence = kind(session, count)

        self._call(self.config.camera, "start the sequence", start)

    def next_frame(self, timeout_s: float) -> CameraFrame | None:
        """Return the next frame of the sequence, in order and without gaps.

        Parameters
        ----------
        timeout_s : float
            Longest wait for a frame.

        Returns
        -------
        CameraFrame or None
            None when no frame came within ``timeout_s``, or when the sequence has ended.

        Raises
        ------
        DeviceError
            No sequence was started, frames were lost or the camera failed. Raised again by every later call until
            ``stop_sequence``.
        DeviceTimeoutError
            The camera sent nothing for ``config.call_timeout_s`` and 5 exposures.
        """
        return self._fetcher.next_frame(self._running_thread(), timeout_s)

    def _fetch(self) -> tuple[CameraFrame | None, bool]:
        sequence = self._sequence
        if sequence is None:
            raise DeviceError("no sequence was started; call start_sequence first", self.config.camera)
        frame = sequence.fetch()
        return frame, sequence.ended

    def stop_sequence(self) -> None:
        """End the sequence; frames that were not fetched are given up. Does nothing when none is running."""

        def stop() -> None:
            if self._sequence is not None:
                self._sequence.failure = None
                if not self._sequence.ended:
                    self._sequence.stop()

        self._call(self.config.camera, "stop the sequence", stop)

    def set_roi(self, roi: tuple[int, int, int, int] | None) -> None:
        """Read out a part of the sensor only: (x, y, width, height) in pixels, or None for the whole sensor.

        Raises
        ------
        DeviceBusyError
            A sequence is running.
        PropertyError
            The region does not lie on the sensor.
        """

        def set_roi() -> None:
            self._refuse_during_sequence("set the region of interest")
            self._loaded().set_roi(roi)

        self._call(self.config.camera, "set the region of interest", set_roi)

    def set_exposure_ms(self, ms: float) -> None:
        """Set the exposure time in ms; in a sequence it holds from the next exposure on."""

        def set_exposure() -> None:
            session = self._loaded()
            with self._suspended():
                session.set_exposure_ms(ms)

        self._call(self.config.camera, "set the exposure", set_exposure)

    # -- lens -------------------------------------------------------------------------------------------------

    def set_defocus_um(self, um: float) -> float:
        """Move the lens, wait until it has arrived and settled, and return the confirmed defocus in um.

        In a sequence the camera pauses for the move: every frame states the defocus of its whole exposure.

        Raises
        ------
        DeviceNotFoundError
            The microscope has no lens.
        PropertyError
            ``um`` is outside the lens' limits.
        DeviceError
            The lens did not arrive.
        """

        def move(session: CoreSession) -> float:
            return session.require_lens().move(um)

        return self.call(self.config.lens or self.config.name, "move", move)

    def set_lens_calibration(self, active: ActiveCalibration | None) -> None:
        """Let a calibration say what the lens' positions are in um of defocus; None: the configuration's own.

        The lens does not move.

        Raises
        ------
        MicroscopeConfigError
            It is the calibration of another lens.
        """
        config = self._given if active is None else self._given.calibrated_by(active)

        def change(session: CoreSession) -> None:
            self.config = session.config = config

        self.call(config.name, "take over the calibration", change)

    def call(self, device: str, action: str, function: Callable[[CoreSession], T]) -> T:
        """Run a function of the loaded session on the owner thread; a running sequence pauses for it."""

        def suspended() -> T:
            session = self._loaded()
            with self._suspended():
                return function(session)

        return self._call(device, action, suspended)

    # -- state and properties ---------------------------------------------------------------------------------

    def state(self) -> MicroscopeState:
        """Return what the microscope is and does. Does not raise: a device that fails is named in ``fault``."""
        thread = self._thread
        if thread is None:
            return self._state

        def read() -> MicroscopeState:
            return read_state(self._loaded(), self._active_sequence())

        try:
            self._state = self._call(self.config.camera, "read the state", read)
        except LivephaseError as error:
            return self._state.model_copy(update={"fault": str(error)})
        return self._state

    def devices(self) -> list[DeviceInfo]:
        """Describe every loaded device."""
        return self._call(self.config.cfg.name, "list the devices", lambda: props.list_devices(self._loaded()))

    def properties(self) -> list[PropertyInfo]:
        """Read every property of every device, with type, value and limits."""
        return self._call(self.config.cfg.name, "read all properties", lambda: props.list_properties(self._loaded()))

    def property_names(self, label: str) -> list[str]:
        """Return the names of all properties of a device; no device is talked to."""
        return self._call(label, "list its properties", lambda: props.list_names(self._loaded(), label))

    def describe_property(self, label: str, name: str) -> PropertyInfo:
        """Read one property, with type, value and limits."""
        return self._call(label, f"read property {name!r}", lambda: props.describe(self._loaded(), label, name))

    def get_property(self, label: str, name: str) -> PropertyValue:
        """Read a property: float, int or str by its Micro-Manager type."""
        return self.describe_property(label, name).value

    def set_property(self, label: str, name: str, value: PropertyValue) -> PropertyValue:
        """Set a property and return the value read back; in a sequence the next exposure has it.

        Raises
        ------
        DeviceNotFoundError, PropertyNotFoundError, PropertyError
            No such device or property, it is read-only, or the value is not allowed.
        """

        def set_property() -> PropertyValue:
            session = self._loaded()
            with self._suspended():
                return props.set_property(session, label, name, value)

        return self._call(label, f"set property {name!r}", set_property)

    # -- inside -----------------------------------------------------------------------------------------------

    def _running_thread(self) -> OwnerThread:
        thread = self._thread
        if thread is None:
            raise DeviceError("the microscope is not open", self.config.name)
        return thread

    def _call(self, device: str, action: str, function: Callable[[], T]) -> T:
        return self._running_thread().call(device, action, function)

    def _loaded(self) -> CoreSession:
        if self._session is None:
            raise DeviceError("the microscope is not open", self.config.name)
        return self._session

    def _active_sequence(self) -> Sequence | None:
        return None if self._sequence is None or self._sequence.ended else self._sequence

    def _refuse_during_sequence(self, action: str) -> None:
        # The core accepts these silently for Python cameras, and DemoCamera accepts a new region that then kills
        # its sequence: so they are refused here for every camera.
        if self._active_sequence() is not None:
            raise DeviceBusyError(f"cannot {action} while a sequence is running; stop it first", self.config.camera)

    def _suspended(self) -> AbstractContextManager[None]:
        sequence = self._active_sequence()
        return nullcontext() if sequence is None else sequence.suspended()
