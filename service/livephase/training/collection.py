"""Collect training pairs on a microscope: through-focus stack -> TIE label, binned defocused frame -> input.

The camera's own pixel is the high-resolution one and 4 x 4 binning in software makes the low-resolution frame, as the
paper made its experimental set (2588 x 1960 -> 647 x 490).
"""

from __future__ import annotations

import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.errors import ConfigurationError
from livephase.phase.axial import fit_axial_derivative
from livephase.phase.exposure import MOST_SATURATED, noise_sd, saturated_fraction
from livephase.phase.tie import describe, solve_derivative
from livephase.training.collected import CollectedDataset, CollectedOptics, FieldEntry, save_dataset, save_field
from livephase.training.experimental import SCALE, brightness_correction
from livephase_devices.errors import LivephaseError
from livephase_devices.optics import bin_pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase_devices.microscope import CameraFrame, Microscope, MicroscopeState

DEFAULT_BORDER_UM = 40.0
"""On simulated cells without noise the label of a 333 um field correlates 0.71-0.82 with the truth over the whole
field and 0.94-0.98 this far from its border."""
_LEAST_LEVEL = 0.02
_LEAST_SIDE_LR_PX = 32


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What to collect.

    Attributes
    ----------
    planes_um : tuple of float
        Defocus of the stack's planes; 0 and at least one other.
    defocus_um : tuple of float
        Training defoci.
    average : int
        Exposures averaged for a plane.
    fields : int
        Number of fields or time points.
    interval_s : float
        From the start of one field to that of the next.
    border_um : float
        Not used of every field, see ``CollectedDataset``.
    """

    planes_um: tuple[float, ...]
    defocus_um: tuple[float, ...]
    average: int
    fields: int
    interval_s: float = 0.0
    border_um: float = DEFAULT_BORDER_UM

    def __post_init__(self) -> None:
        if 0.0 not in self.planes_um or len(set(self.planes_um)) < max(2, len(self.planes_um)):
            raise ConfigurationError("the stack needs the plane 0 and at least one other, each once")
        if not self.defocus_um or 0.0 in self.defocus_um:
            raise ConfigurationError("give at least one training defocus, none of them 0: in focus phase is invisible")
        if self.average < 1 or self.fields < 1 or self.interval_s < 0 or self.border_um < 0:
            raise ConfigurationError("average and fields must be 1 or more, interval and border not negative")

    @property
    def exposures(self) -> int:
        """Exposures of the whole collection."""
        return self.fields * (len(self.planes_um) * self.average + len(self.defocus_um))


def solve_label(
    stack: NDArray[np.float32], planes_um: NDArray[np.float64], pixel_um: float, wavelength_um: float
) -> NDArray[np.float32]:
    """TIE phase of a through-focus stack.

    Parameters
    ----------
    stack : NDArray[float32]
        (P, Y, X) counts; brightness is corrected between the planes.
    planes_um : NDArray[float64]
        (P,) confirmed defocus.
    pixel_um, wavelength_um : float
        Pixel at the specimen and wavelength.

    Returns
    -------
    NDArray[float32]
        (Y, X) radians, median 0.
    """
    planes = np.stack(brightness_correction(list(stack))).astype(np.float64)
    fit = fit_axial_derivative(planes, planes_um.tolist(), [noise_sd(plane) for plane in planes])
    phase = solve_derivative(fit.derivative_per_um, fit.intensity, pixel_um, wavelength_um)
    return phase - np.median(phase)


class Collector:
    """Collects the fields of a plan, one after the other, into a folder.

    Parameters
    ----------
    microscope : Microscope
        Open; its ``lr_pixel_um`` is the camera's pixel at the specimen, the high-resolution one here.
    plan : CollectPlan
        What to collect.
    folder : Path
        New or empty.
    progress : callable
        Called after every exposure with the number of exposures taken so far.

    Raises
    ------
    ConfigurationError
        There is no lens, a plane is out of its reach, the frames are too small, or the folder is in use.
    """

    def __init__(
        self, microscope: Microscope, plan: CollectPlan, folder: Path, progress: Callable[[int], None]
    ) -> None:
        self._microscope, self._plan, self._folder, self._progress = microscope, plan, folder, progress
        self._taken = 0
        state = microscope.state()
        self._start_um = state.defocus_um
        self.dataset = _describe(microscope, state, plan)
        _check(state, plan, self.dataset.border_px)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigurationError(f"{folder} exists and is not an empty folder; choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        save_dataset(folder, self.dataset)

    def run(self, before_field: Callable[[int], None]) -> None:
        """Collect all fields; those complete stay when a later one fails.

        Parameters
        ----------
        before_field : callable
            Called with the field's index before it is taken: the moment to move to another position.

        Raises
        ------
        ConfigurationError
            A frame is saturated or dark.
        DeviceError
            The camera or the lens failed.
        """
        started_s = time.monotonic()
        try:
            for index in range(self._plan.fields):
                time.sleep(max(0.0, started_s + index * self._plan.interval_s - time.monotonic()))
                before_field(index)
                self._collect_field(index)
        except BaseException:
            # The error says what is wrong; one of the lens would only hide it.
            with suppress(LivephaseError):
                self._restore()
            raise
        self._restore()

    def _restore(self) -> None:
        if self._start_um is not None:
            self._microscope.set_defocus_um(self._start_um)

    def _collect_field(self, index: int) -> None:
        plan, optics = self._plan, self.dataset.optics
        seen: list[CameraFrame] = []
        saturated: list[float] = []

        def expose(defocus_um: float, count: int) -> tuple[NDArray[np.float32], float]:
            confirmed = self._microscope.set_defocus_um(defocus_um)
            total = np.zeros(())
            for _ in range(count):
                frame = self._microscope.snap()
                saturated.append(_saturated_fraction(frame, confirmed))
                total = total + frame.pixels
                seen.append(frame)
                del seen[1:]
                self._taken += 1
                self._progress(self._taken)
            rows, columns = (side // SCALE * SCALE for side in total.shape)
            return (total / count)[:rows, :columns].astype(np.float32), confirmed

        stack, planes = zip(*(expose(um, plan.average) for um in sorted(plan.planes_um)), strict=True)
        frames, defoci = zip(*(expose(um, 1) for um in plan.defocus_um), strict=True)
        plane_um = np.array(planes)
        arrays: dict[str, NDArray[Any]] = {
            "stack": np.stack(stack),
            "plane_um": plane_um,
            "label_rad": solve_label(np.stack(stack), plane_um, optics.hr_pixel_um, optics.wavelength_um),
            "frames": np.stack([bin_pixels(frame, SCALE) for frame in frames]).astype(np.float32),
            "defocus_um": np.array(defoci),
        }
        name = f"field-{index:04d}.npz"
        first = seen[0]
        entry = FieldEntry(
            file=name,
            sha256=save_field(self._folder, name, arrays),
            time_utc=datetime.fromtimestamp(first.time_utc_ns / 1e9, UTC).isoformat(),
            saturated_fraction=max(saturated),
            properties=dict(first.properties),
        )
        self.dataset = self.dataset.model_copy(update={"fields": (*self.dataset.fields, entry)})
        save_dataset(self._folder, self.dataset)


def _describe(microscope: Microscope, state: MicroscopeState, plan: CollectPlan) -> CollectedDataset:
    return CollectedDataset(
        created_utc=datetime.now(UTC).isoformat(),
        optics=CollectedOptics(
            wavelength_um=state.wavelength_um,
            objective_na=state.objective_na,
            coherence=state.coherence,
            hr_pixel_um=state.lr_pixel_um,
        ),
        border_um=plan.border_um,
        planes_um=plan.planes_um,
        defocus_um=plan.defocus_um,
        average=plan.average,
        solver={
            **describe(),
            "axial_derivative": "weighted least-squares polynomial in z, order by least expected error",
            "brightness": "C = R mean(S) / mean(R) over the stack",
        },
        microscope=state.model_dump(mode="json"),
        devices={f"{info.device}.{info.name}": info.value for info in microscope.properties()},
        software={"livephase": version("livephase"), "python": platform.python_version(), **state.versions},
    )


def _check(state: MicroscopeState, plan: CollectPlan, border_px: int) -> None:
    if state.fault is not None:
        raise ConfigurationError(f"the microscope cannot be used: {state.fault}")
    if state.lens is None:
        msg = f"microscope {state.name!r} has no lens; name one in [microscope] to take a through-focus stack"
        raise ConfigurationError(msg)
    if state.defocus_limits_um is not None:
        low, high = state.defocus_limits_um
        out = [um for um in plan.planes_um + plan.defocus_um if not low <= um <= high]
        if out:
            raise ConfigurationError(f"{state.lens} reaches {low:g} to {high:g} um, not {out[0]:g} um")
    shape = state.sensor_shape or (0, 0)
    left = [(side - 2 * border_px) // SCALE for side in shape]
    if min(left) < _LEAST_SIDE_LR_PX:
        msg = (
            f"{state.camera}: of a frame of {shape[0]} x {shape[1]} pixels only {max(left[0], 0)} x {max(left[1], 0)} "
            f"binned pixels are left inside the border, {_LEAST_SIDE_LR_PX} are needed; use a larger region or a "
            "smaller --border-um"
        )
        raise ConfigurationError(msg)


def _saturated_fraction(frame: CameraFrame, defocus_um: float) -> float:
    top = 2**frame.bit_depth - 1
    saturated = saturated_fraction(frame.pixels, frame.bit_depth)
    where = f"the frame at defocus {defocus_um:g} um"
    if saturated > MOST_SATURATED:
        msg = f"{100 * saturated:.1f} % of {where} is saturated; lower the exposure, now {frame.exposure_ms:g} ms"
        raise ConfigurationError(msg)
    level = float(frame.pixels.mean())
    if level < _LEAST_LEVEL * top:
        raise ConfigurationError(
            f"{where} is dark (mean {level:.1f} of {top} counts); open the shutter or expose longer"
        )
    return saturated
