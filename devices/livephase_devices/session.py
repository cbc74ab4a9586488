"""The core with its devices loaded; every method runs on the owner thread.

Nothing here waits for another thread or takes a lock, and nothing connects to the core's events: a Python device
emits under its own lock, so a slot that called the core would wait for itself.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pymmcore_plus import CMMCorePlus

from livephase_devices import loading
from livephase_devices.core import DeviceCore
from livephase_devices.errors import (
    DeviceError,
    DeviceNotFoundError,
    DeviceTimeoutError,
    LivephaseError,
    PropertyError,
)
from livephase_devices.frame import CameraFrame
from livephase_devices.lens.role import StageLens, find_lens

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.lens.role import Lens
    from livephase_devices.owner_thread import OwnerThread

    Pixels = NDArray[np.uint8] | NDArray[np.uint16]

log = logging.getLogger(__name__)

LOAD_FACTOR = 12
"""One device may take this many call time-outs to initialise: devices home and warm up meanwhile."""
_GREY_TYPES = (np.dtype(np.uint8).str, np.dtype(np.uint16).str)
_BUSY_POLL_S = 0.002
_LEAST_STRUCTURE = 0.05
"""Part of a row's pixels that must differ from its median before the row can tell an old image from a new one."""
_REPEATING = ("DemoCamera", "livephase_devices.replay")
"""Device libraries whose cameras have no noise of their own: the same image twice is no fault."""

loaded_sessions: weakref.WeakSet[CoreSession] = weakref.WeakSet()
"""Sessions whose devices are loaded."""


class CoreSession:
    """A loaded core, seen as one camera, perhaps one lens, and properties.

    Parameters
    ----------
    config : MicroscopeConfig
        Roles and scale of the lens.
    thread : OwnerThread
        Is told which device is being talked to, so that a time-out can name it.

    Attributes
    ----------
    lens : Lens or None
        What sets the defocus; None before loading, and where the configuration names none.
    z_drive : StageLens or None
        The focus drive that the lens is calibrated with; None likewise.
    """

    def __init__(self, config: MicroscopeConfig, thread: OwnerThread) -> None:
        self.config = config
        self._thread = thread
        self._last_buffer: NDArray[Any] | None = None
        self._last_rows: NDArray[Any] | None = None
        self._frames = 0
        self._exposure_ms = 0.0
        self._unreadable: set[str] = set()
        self._recorded: dict[str, tuple[str, str]] = {}
        self.lens: Lens | None = None
        self.z_drive: StageLens | None = None
        self.core = DeviceCore()
        # Python callbacks from the core's own threads are what aborts the process at exit ("FATAL: exception not
        # rethrown"). CMMCorePlus overrides this call with a refusal; the method below it is Micro-Manager's own.
        super(CMMCorePlus, self.core).registerCallback(None)

    # -- life -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load and check the configuration; see ``livephase_devices.loading.load`` for the errors."""
        loaded_sessions.add(self)
        limit_s = LOAD_FACTOR * self.config.call_timeout_s
        self.core.setTimeoutMs(round(limit_s * 1000))  # stages home and turrets turn while they are loaded
        self.core.naming = lambda label, action: self.touching(label, action, limit_s)
        try:
            with self.touching(self.config.cfg.name, "load", limit_s):
                self._recorded = loading.load(self.core, self.config)
                self.lens = find_lens(self)
                if self.config.z_drive is not None:
                    self.z_drive = StageLens(self, self.config.z_drive, settle_s=0.0)
        finally:
            del self.core.naming  # from here on every call names its device by itself
            self.core.setTimeoutMs(max(1, round(self.config.call_timeout_s * 1000)))
        self.camera_is_python = self.core.isPyDevice(self.config.camera)
        self._images_differ = self.core.getDeviceLibrary(self.config.camera) not in _REPEATING
        self._check_pixel_format()

    def unload(self) -> None:
        """Stop the camera and unload every device; never raises for a device that refuses to shut down."""
        with suppress(Exception):
            if self.core.isSequenceRunning():
                self.core.stopSequenceAcquisition()
        for label in self.core.getLoadedDevices():
            if label != "Core" and self.core.isPyDevice(label):
                with suppress(Exception):  # a Python device's shutdown may raise; the others must still go
                    self.core.unloadDevice(label)
        self._let_python_devices_go()
        with suppress(Exception):
            self.core.unloadAllDevices()
        loaded_sessions.discard(self)

    def abandon(self) -> None:
        """Let the process end although a device hangs; called from any thread, when nothing else is left to do."""
        self._let_python_devices_go()

    def _let_python_devices_go(self) -> None:
        # When the process ends, UniMMCore shuts its Python devices down once more, and would wait for the lock of a
        # hung one for ever. It offers no way to give a device up.
        cast("Any", self.core)._pydevices._devices.clear()  # noqa: SLF001

    @contextmanager
    def touching(self, device: str, action: str, timeout_s: float | None = None) -> Generator[None]:
        """Name device and action for a time-out, and turn any exception into an error that names them."""
        with self._thread.touching(device, action, timeout_s):
            try:
                yield
            except LivephaseError:
                raise
            except Exception as error:
                reason = loading.one_line(error)
                if isinstance(error, TimeoutError) or "timed out" in reason.lower():
                    raise DeviceTimeoutError(f"{action}: {reason}", device) from error
                raise DeviceError(f"{action} failed: {reason}", device) from error

    # -- camera -----------------------------------------------------------------------------------------------

    def snap(self) -> CameraFrame:
        """Expose once; lens position and clocks are taken when the exposure begins."""
        camera, core = self.config.camera, self.core
        defocus_um = self.confirmed_defocus_um()
        exposure_ms = self.read_exposure_ms()
        with self.touching(camera, "snap", self.frame_limit_s()):
            utc_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
            core.snapImage()
            image = core.getImage(fix=False)
            if self.camera_is_python and image is self._last_buffer:
                # A Python camera that delivers nothing leaves the previous buffer in the core, without an error.
                raise DeviceError("delivered no new image for a snap (the previous one is still there)", camera)
            self._last_buffer = image if self.camera_is_python else None
        self._refuse_old_rows(image)
        return self.frame(image, exposure_ms, defocus_um, utc_ns, monotonic_ns)

    def frame(
        self, image: NDArray[Any], exposure_ms: float, defocus_um: float | None, utc_ns: int, monotonic_ns: int
    ) -> CameraFrame:
        """Make a frame of an image that the core handed out, with a copy of its own and the recorded values."""
        camera = self.config.camera
        with self.touching(camera, "describe the image"):
            bit_depth = self.bit_depth()
            shape = self.sensor_shape()
        if image.dtype.str not in _GREY_TYPES or image.shape != shape:
            raise DeviceError(
                f"delivered an image of {image.shape} {image.dtype} instead of {shape} uint8 or uint16", camera
            )
        if image.flags.owndata and image.flags.c_contiguous and not self.camera_is_python:
            pixels = cast("Pixels", image)  # the C++ core has copied it for this caller
        else:
            pixels = cast("Pixels", np.array(image, order="C", copy=True))
        recorded = {full_name: self._record(full_name, *found) for full_name, found in self._recorded.items()}
        frame = CameraFrame(
            pixels=pixels,
            bit_depth=bit_depth,
            exposure_ms=exposure_ms,
            defocus_um=defocus_um,
            time_utc_ns=utc_ns,
            time_monotonic_ns=monotonic_ns,
            index=self._frames,
            properties=recorded,
        )
        self._frames += 1
        return frame

    def _refuse_old_rows(self, image: NDArray[Any]) -> None:
        """Fail where the image, or a part of it, is that of the snap before: noise makes every exposure different."""
        if not self._images_differ:
            return
        rows = image[:: max(1, len(image) // 16)].copy()
        last, self._last_rows = self._last_rows, rows
        if last is None or last.shape != rows.shape or last.dtype != rows.dtype:
            return
        same = (rows == last).reshape(len(rows), -1).all(axis=1)
        # Black and saturated pixels cannot differ, nor can a row of one value with some stuck pixels. The brightest
        # pixels are taken for saturated: no device is asked in the middle of a snap.
        alive = (rows > 0) & (rows < rows.max()) & (rows != np.median(rows, axis=1, keepdims=True))
        old = int(np.count_nonzero(same & (alive.mean(axis=1) > _LEAST_STRUCTURE)))
        if old:
            raise DeviceError(
                f"delivered an image of which {old} of {len(rows)} rows looked at are those of the image before, pixel "
                "for pixel: it is an old one or a torn one; check the camera's cable and its driver",
                self.config.camera,
            )

    def read_exposure_ms(self) -> float:
        """Read the exposure time in ms."""
        with self.touching(self.config.camera, "read the exposure"):
            exposure_ms = float(self.core.getExposure())
        if not 0 <= exposure_ms < math.inf:  # the time-out of a frame follows from it
            raise DeviceError(f"reports an exposure of {exposure_ms} ms; check that it is powered", self.config.camera)
        self._exposure_ms = exposure_ms
        return exposure_ms

    def frame_limit_s(self, exposure_ms: float | None = None) -> float:
        """Longest wait for a frame before the camera counts as hung: the call time-out, but 5 exposures at least."""
        exposure_s = (self._exposure_ms if exposure_ms is None else exposure_ms) / 1000.0
        return max(self.config.call_timeout_s, 5.0 * exposure_s)

    @property
    def frames_taken(self) -> int:
        """Frames made since loading."""
        return self._frames

    def sensor_shape(self) -> tuple[int, int]:
        """(Y, X) of an image in pixels."""
        return int(self.core.getImageHeight()), int(self.core.getImageWidth())

    def readout(self) -> tuple[tuple[int, int, int, int], str]:
        """Part of the sensor that is read out, (x, y, width, height) in pixels, and the camera's binning."""
        camera, core = self.config.camera, self.core
        x, y, width, height = (int(value) for value in core.getROI(camera))
        binning = str(core.getProperty(camera, "Binning")) if core.hasProperty(camera, "Binning") else "1"
        return (x, y, width, height), binning

    def bit_depth(self) -> int:
        """Significant bits of a pixel; a Python camera states them as property ``BitDepth``."""
        camera = self.config.camera
        if self.camera_is_python and self.core.hasProperty(camera, "BitDepth"):
            return int(self.core.getProperty(camera, "BitDepth"))
        return int(self.core.getImageBitDepth())

    def set_exposure_ms(self, ms: float) -> None:
        """Set the exposure time in ms, within the limits that the camera states."""
        camera, core = self.config.camera, self.core
        with self.touching(camera, f"set the exposure to {ms:g} ms"):
            low, high = 0.0, math.inf
            if core.hasProperty(camera, "Exposure") and core.hasPropertyLimits(camera, "Exposure"):
                low, high = (
                    core.getPropertyLowerLimit(camera, "Exposure"),
                    core.getPropertyUpperLimit(camera, "Exposure"),
                )
            if not (low <= ms <= high and 0 < ms < math.inf):
                raise PropertyError(
                    f"an exposure of {ms:g} ms cannot be set; it must be above 0 and lie in {low:g} to {high:g} ms",
                    camera,
                )
            core.setExposure(camera, float(ms))
        self.read_exposure_ms()

    def set_roi(self, roi: tuple[int, int, int, int] | None) -> None:
        """Read out (x, y, width, height) in pixels only, or the whole sensor for None."""
        camera, core = self.config.camera, self.core
        with self.touching(camera, "set the region of interest"):
            core.clearROI()
            if roi is None:
                return
            rows, columns = self.sensor_shape()
            x, y, width, height = roi
            # DemoCamera takes a region that reaches over its edge, and then sends what is not there.
            if not (x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= columns and y + height <= rows):
                raise PropertyError(f"the region {roi} does not lie on the sensor of {columns} x {rows} pixels", camera)
            core.setROI(camera, x, y, width, height)

    def _check_pixel_format(self) -> None:
        camera, core = self.config.camera, self.core
        with self.touching(camera, "read the pixel format"):
            components, size = int(core.getNumberOfComponents()), int(core.getBytesPerPixel())
        if components != 1 or size not in (1, 2):
            raise DeviceError(
                f"delivers {components} component(s) of {size} byte(s) a pixel; set its PixelType to an 8-bit or "
                "16-bit grey level",
                camera,
            )

    def _record(self, full_name: str, label: str, name: str) -> float:
        """Read a recorded property; NaN when it cannot be read, because the frame is exposed already."""
        try:
            with self.touching(label, f"read property {name!r}"):
                value = float(self.core.getProperty(label, name))
        except DeviceError as error:
            if full_name not in self._unreadable:
                self._unreadable.add(full_name)
                log.warning("%s; NaN is recorded for it until it can be read again", error)
            return math.nan
        self._unreadable.discard(full_name)
        return value

    # -- lens -------------------------------------------------------------------------------------------------

    def require_lens(self) -> Lens:
        """Return the lens.

        Raises
        ------
        DeviceNotFoundError
            The microscope has none.
        """
        if self.lens is None:
            raise DeviceNotFoundError(
                'has no lens: add lens = "<label of a stage>" or "<label>.<property>" to its TOML to set the defocus',
                self.config.name,
            )
        return self.lens

    def require_z_drive(self) -> StageLens:
        """Return the focus drive; DeviceNotFoundError where the microscope has none."""
        if self.z_drive is None:
            raise DeviceNotFoundError('has no focus drive: add z_drive = "<label of a stage>"', self.config.name)
        return self.z_drive

    def confirmed_defocus_um(self) -> float | None:
        """Wait until the lens rests, and return its defocus in um; None without a lens."""
        return None if self.lens is None else self.lens.confirmed_defocus_um()

    def wait_until_rests(self, label: str) -> None:
        """Wait until a device is no longer busy; a device that stays busy does not count as hung."""
        deadline_s = time.monotonic() + self.config.call_timeout_s
        while True:
            with self.touching(label, "ask whether it rests"):
                if not self.core.deviceBusy(label):
                    return
            if time.monotonic() > deadline_s:
                raise DeviceTimeoutError(
                    f"is still moving after {self.config.call_timeout_s:g} s; check that it is powered", label
                )
            time.sleep(_BUSY_POLL_S)
