"""What a microscope is and does at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.sequence import Sequence
    from livephase_devices.session import CoreSession


class MicroscopeState(BaseModel):
    """What a microscope is and does at one moment.

    Attributes
    ----------
    is_open : bool
        Devices are loaded. When False, the fields that only devices know are None or empty.
    fault : str or None
        Why the microscope cannot be used at present (a hung device, lost frames), or None.
    sensor_shape : tuple of int or None
        (Y, X) of a frame in pixels, with the region of interest applied.
    roi : tuple of int or None
        (x, y, width, height) of the sensor that is read out, in pixels.
    binning : str or None
        The camera's property ``Binning`` as it states it; ``"1"`` where it has none.
    defocus_limits_um : tuple of float or None
        Lowest and highest defocus in um that the lens states; None where it states none.
    sequence_running : bool
        A continuous acquisition holds the camera.
    frames_taken : int
        Frames since the microscope was opened.
    devices : Mapping[str, str]
        ``"library.device"`` by label, for every loaded device.
    versions : Mapping[str, str]
        Versions of Micro-Manager's core, its device interface and the Python packages around it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cfg: str
    is_open: bool
    fault: str | None
    camera: str
    lens: str | None
    xy_stage: str | None
    sensor_shape: tuple[int, int] | None
    roi: tuple[int, int, int, int] | None = None
    binning: str | None = None
    bit_depth: int | None
    exposure_ms: float | None
    defocus_um: float | None
    defocus_limits_um: tuple[float, float] | None
    wavelength_um: float
    objective_na: float
    coherence: float
    lr_pixel_um: float
    sequence_running: bool
    frames_taken: int
    devices: Mapping[str, str]
    versions: Mapping[str, str]


def closed_state(config: MicroscopeConfig) -> MicroscopeState:
    """Return the state of a microscope whose devices are not loaded."""
    return MicroscopeState(
        name=config.name,
        cfg=config.cfg.name,
        is_open=False,
        fault=None,
        camera=config.camera,
        lens=config.lens,
        xy_stage=config.xy_stage,
        sensor_shape=None,
        bit_depth=None,
        exposure_ms=None,
        defocus_um=None,
        defocus_limits_um=None,
        wavelength_um=config.wavelength_um,
        objective_na=config.objective_na,
        coherence=config.coherence,
        lr_pixel_um=config.lr_pixel_um,
        sequence_running=False,
        frames_taken=0,
        devices={},
        versions={},
    )


def read_state(session: CoreSession, sequence: Sequence | None) -> MicroscopeState:
    """Read the state from the devices; runs on the owner thread.

    Parameters
    ----------
    session : CoreSession
        The loaded core.
    sequence : Sequence or None
        The running sequence, if there is one.
    """
    core, config = session.core, session.config
    exposure_ms = session.read_exposure_ms()
    with session.touching(config.camera, "read the state"):
        shape, bit_depth = session.sensor_shape(), session.bit_depth()
        roi, binning = session.readout()
        labels = [label for label in core.getLoadedDevices() if label != "Core"]
        devices = {label: f"{core.getDeviceLibrary(label)}.{core.getDeviceName(label)}" for label in labels}
    failure = None if sequence is None else sequence.failure
    return closed_state(config).model_copy(
        update={
            "is_open": True,
            "fault": None if failure is None else str(failure),
            "sensor_shape": shape,
            "roi": roi,
            "binning": binning,
            "bit_depth": bit_depth,
            "exposure_ms": exposure_ms,
            "defocus_um": session.confirmed_defocus_um(),
            "defocus_limits_um": None if session.lens is None else session.lens.limits_um(),
            "sequence_running": sequence is not None,
            "frames_taken": session.frames_taken,
            "devices": devices,
            "versions": {
                "micro-manager core": core.getVersionInfo(),
                "device interface": core.getAPIVersionInfo(),
                "pymmcore": version("pymmcore"),
                "pymmcore-plus": version("pymmcore-plus"),
            },
        }
    )
