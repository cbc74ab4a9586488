"""Defocus calibration: where the lens is in focus, and how many um of defocus one of its units is.

With a focus drive of known scale: at several lens positions a short sweep of the drive finds the focus; what the drive
has to move for a step of the lens is, with the sign turned, what the lens does. The frames of such a sweep are known in
um, so nothing about the lens is assumed, and absorption shifts all foci alike. Without a drive only the focus is
measured, by a sweep of the lens over the scale that its configuration states.

Lens and drive stay within their limits and return to where they were, on every way out. Every sweep goes upwards, from
further below than a gear's backlash.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from livephase.acquisition.calibration_plan import CalibrationCancelledError, CalibrationProgress
from livephase.acquisition.sweep import optics_of, take_frames
from livephase.clock import iso_utc
from livephase.errors import FocusError, PlanError
from livephase.phase.focus import LEAST_FRAMES, SYSTEMATIC_UM, find_focus, sweep_spectra
from livephase_devices.errors import DeviceError
from livephase_devices.lens_calibration import CalibrationPoint, LensCalibration
from livephase_devices.properties import find_property
from livephase_devices.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from livephase.acquisition.calibration_plan import CalibrationPlan
    from livephase.phase.focus import FocusFit
    from livephase_devices.lens_calibration import Method
    from livephase_devices.microscope import Microscope

    Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

SEARCH_STEP_UM: Final = 2.0
"""Of a sweep that has to find the focus first."""
NARROW_UM: Final = 4.5
"""Half of a sweep around a focus that is known roughly."""
NARROW_STEP_UM: Final = 1.5
BACKLASH_UM: Final = 10.0
"""A sweep is approached from this far below."""
NEAREST_STEP: Final = 5
"""How often the first step of the lens is halved when the focus is lost."""
LARGEST_RMS_UM: Final = 1.0
"""With larger residuals the lens is not described by a line."""
LARGEST_SD_UM: Final = 0.6
"""A focus that is less certain than this is not used."""


class DefocusCalibration:
    """One calibration; ``run`` is called once.

    Parameters
    ----------
    microscope : Microscope
        Open; nobody else may use its camera, lens and drive meanwhile.
    plan : CalibrationPlan
        What to do.
    progressed : callable
        Told after every exposure and every focus.

    Raises
    ------
    PlanError
        The plan does not fit the microscope.
    """

    def __init__(
        self, microscope: Microscope, plan: CalibrationPlan, progressed: Callable[[CalibrationProgress], object]
    ) -> None:
        self._microscope = microscope
        self._plan = plan
        self._progressed = progressed
        self._stop = threading.Event()
        self._lens = Stage.lens(microscope)
        drive = Stage.z_drive(microscope)
        if plan.slope == "z_drive" and drive is None:
            raise PlanError('the microscope has no focus drive: name it in its TOML with z_drive = "<label>"')
        self._drive = None if plan.slope == "stated" else drive
        self._low, self._high = self._range()
        self._exposures = 0
        self._expected = self._planned_exposures()
        self._points: list[tuple[float, float]] = []
        self._optics = optics_of(microscope.config)

    @property
    def progress(self) -> CalibrationProgress:
        """How far it is."""
        return CalibrationProgress(self._exposures, max(self._expected, self._exposures), tuple(self._points))

    def stop(self) -> None:
        """Let ``run`` end with ``CalibrationCancelledError`` before its next exposure; from any thread."""
        self._stop.set()

    def run(self, utc_ns: int) -> LensCalibration:
        """Calibrate.

        Parameters
        ----------
        utc_ns : int
            Its date.

        Raises
        ------
        FocusError
            The focus was not found, or what was found is no line.
        CalibrationCancelledError
            After ``stop``.
        DeviceError
            A device failed. Lens and drive are sent back in each case.
        """
        lens_home = self._lens.position()
        drive_home = 0.0 if self._drive is None else self._drive.position()
        failed = True
        try:
            made = (
                self._by_lens(utc_ns)
                if self._drive is None
                else self._by_drive(self._drive, lens_home, drive_home, utc_ns)
            )
            failed = False
            return made
        finally:
            self._return(lens_home, drive_home, failed)

    # -- with a focus drive -----------------------------------------------------------------------------------

    def _by_drive(self, drive: Stage, lens_home: float, home: float, utc_ns: int) -> LensCalibration:
        foci: dict[float, FocusFit] = {}
        measured: set[float] = set()

        def measure(position: float, about_um: float, *, search: bool) -> FocusFit:
            confirmed = self._lens.move(position)
            fit = foci[confirmed] = self._drive_focus(drive, home, about_um, search=search)
            measured.add(position)
            self._points.append((confirmed, -fit.z_um))
            self._tell()
            return fit

        start = float(np.clip(lens_home, self._low, self._high))
        first = measure(start, 0.0, search=True)
        grid = [float(position) for position in np.linspace(self._low, self._high, self._plan.steps)]
        pending = sorted((position for position in grid if position != start), key=lambda p: abs(p - start))
        step = pending[0] - start
        guess = self._microscope.config.lens_um_per_unit
        for attempt in range(NEAREST_STEP):
            try:
                # The stated scale may be wrong by far: the first step is searched for, and halved until it is found.
                measure(start + step, first.z_um - step * guess, search=True)
                break
            except FocusError:
                if attempt == NEAREST_STEP - 1:
                    raise
                step /= 2
        for position in pending:
            if position in measured:
                continue
            predicted_um = _line(foci)
            try:
                measure(position, predicted_um(position), search=False)
            except FocusError:
                measure(position, predicted_um(position), search=True)
        turned = [fit for fit in foci.values() if fit.skewness < 0]
        if 2 * len(turned) > len(foci):
            raise FocusError(
                "larger positions of the focus drive lower the defocus: set z_drive_um_per_unit in the TOML to "
                f"{-drive.um_per_unit:g} and calibrate again"
            )
        return self._line_of(foci, utc_ns)

    def _drive_focus(self, drive: Stage, home: float, about_um: float, *, search: bool) -> FocusFit:
        """Find the focus by a sweep of the drive; all in um of the drive from its home."""
        half_um, step_um = (self._plan.search_um, SEARCH_STEP_UM) if search else (NARROW_UM, NARROW_STEP_UM)
        z_um = about_um + np.arange(-half_um, half_um + 0.5 * step_um, step_um)
        positions = home + z_um / drive.um_per_unit
        positions = np.sort(_within(positions, drive.limits()))
        below = _within(positions[:1] - BACKLASH_UM / abs(drive.um_per_unit), drive.limits(), clip=True)
        drive.move(float(below[0]))
        fit, taken = self._focus(
            lambda index: drive.um_per_unit * (drive.move(float(positions[index])) - home), len(positions)
        )
        if search:
            return self._drive_focus(drive, home, fit.z_um, search=False)
        if not min(taken) <= fit.z_um <= max(taken) or fit.sd_um > LARGEST_SD_UM:
            raise FocusError(
                f"the focus at {fit.z_um:.3g} +- {fit.sd_um:.2g} um of the drive is not certain; more cells, more "
                "light, or a wider search may help"
            )
        return fit

    def _line_of(self, foci: dict[float, FocusFit], utc_ns: int) -> LensCalibration:
        positions = np.array(sorted(foci))
        defocus_um = -np.array([foci[float(position)].z_um for position in positions])
        weights = 1 / np.array([_random_sd_um(foci[float(position)]) for position in positions])
        slope, offset = (float(value) for value in np.polyfit(positions, defocus_um, 1, w=weights))
        residuals_um = defocus_um - (offset + slope * positions)
        rms_um = float(np.sqrt(np.mean(residuals_um**2)))
        if rms_um > LARGEST_RMS_UM:
            raise FocusError(
                f"the lens is not described by a line: the foci leave {rms_um:.2g} um (rms); calibrate over a "
                "smaller range"
            )
        # The scatter of the points about the line says what a focus is worth.
        scatter_um = float(np.sqrt(np.sum(residuals_um**2) / max(len(positions) - 2, 1)))
        spread = float(np.sqrt(np.sum((positions - positions.mean()) ** 2)))
        slope_sd = max(scatter_um, float(1 / weights.max())) / spread
        focus = -offset / slope
        at_focus_um = float(np.hypot(scatter_um / np.sqrt(len(positions)), slope_sd * (focus - positions.mean())))
        points = tuple(
            CalibrationPoint(position=float(p), defocus_um=float(d), residual_um=float(r))
            for p, d, r in zip(positions, defocus_um, residuals_um, strict=True)
        )
        kappa = float(np.median([fit.kappa_per_rad for fit in foci.values()]))
        return self._made(
            utc_ns,
            "z_drive",
            slope=(slope, slope_sd),
            focus=(focus, float(np.hypot(at_focus_um, SYSTEMATIC_UM)) / abs(slope)),
            covered=(float(positions[0]), float(positions[-1])),
            kappa=kappa,
            points=points,
        )

    # -- without one ------------------------------------------------------------------------------------------

    def _by_lens(self, utc_ns: int) -> LensCalibration:
        config = self._microscope.config
        scale = config.lens_um_per_unit

        def sweep(centre: float, half_um: float, step_um: float) -> FocusFit:
            positions = centre + np.arange(-half_um, half_um + 0.5 * step_um, step_um) / abs(scale)
            positions = _within(positions, (self._low, self._high))
            return self._focus(
                lambda index: config.defocus_of(self._lens.move(float(positions[index]))), len(positions)
            )[0]

        centre = float(np.clip(config.lens_focus_position, self._low, self._high))
        found = sweep(centre, self._plan.search_um, SEARCH_STEP_UM)
        fit = sweep(float(np.clip(config.position_of(found.z_um), self._low, self._high)), NARROW_UM, NARROW_STEP_UM)
        focus = config.position_of(fit.z_um)
        if fit.sd_um > LARGEST_SD_UM or not self._low <= focus <= self._high:
            raise FocusError(f"the focus at position {focus:.4g} +- {fit.sd_um / abs(scale):.2g} is not certain")
        if fit.skewness < 0:
            raise FocusError(
                "larger positions of the lens lower the defocus: set lens_um_per_unit in the TOML to "
                f"{-scale:g} and calibrate again"
            )
        self._points.append((focus, 0.0))
        self._tell()
        return self._made(
            utc_ns,
            "stated",
            slope=(scale, 0.0),
            focus=(focus, fit.sd_um / abs(scale)),
            covered=(self._low, self._high),
            kappa=fit.kappa_per_rad,
            points=(CalibrationPoint(position=focus, defocus_um=0.0, residual_um=0.0),),
        )

    # -- both -------------------------------------------------------------------------------------------------

    def _focus(self, move: Callable[[int], float], count: int) -> tuple[FocusFit, list[float]]:
        """Fit a sweep; ``move(index)`` returns the confirmed z in um. Gives the fit, and z of every frame."""
        if count < LEAST_FRAMES:
            raise FocusError(
                f"the limits of lens or focus drive leave room for {count} frames of a sweep, at least "
                f"{LEAST_FRAMES} are needed; move the drive to the middle of its range"
            )
        z_um: list[float] = []
        frames, bit_depth = take_frames(
            self._microscope, lambda index: z_um.append(move(index)), count, self._before_exposure
        )
        return find_focus(sweep_spectra(frames, bit_depth, self._optics), z_um, self._optics), z_um

    def _before_exposure(self) -> None:
        if self._stop.is_set():
            raise CalibrationCancelledError("the calibration was cancelled")
        self._exposures += 1
        self._tell()

    def _made(
        self,
        utc_ns: int,
        method: Method,
        *,
        slope: tuple[float, float],
        focus: tuple[float, float],
        covered: tuple[float, float],
        kappa: float,
        points: tuple[CalibrationPoint, ...],
    ) -> LensCalibration:
        config = self._microscope.config
        return LensCalibration(
            date_utc=iso_utc(utc_ns),
            microscope=config.name,
            lens=self._lens.label,
            unit=config.lens_unit,
            um_per_unit=slope[0],
            um_per_unit_sd=slope[1],
            focus_position=focus[0],
            focus_position_sd=focus[1],
            position_range=covered,
            residual_rms_um=float(np.sqrt(np.mean([point.residual_um**2 for point in points]))),
            temperature_c=self._temperature_c(),
            method=method,
            kappa_per_rad=kappa,
            wavelength_um=config.wavelength_um,
            objective_na=config.objective_na,
            coherence=config.coherence,
            lr_pixel_um=config.lr_pixel_um,
            points=points,
        )

    def _temperature_c(self) -> float | None:
        name = self._microscope.config.lens_temperature
        if name is None:
            return None
        found = self._microscope.call(name, "find it", lambda session: find_property(session.core, name))
        try:
            value = math.nan if found is None else float(self._microscope.get_property(*found))
        except (DeviceError, ValueError) as error:
            log.warning("the calibration states no temperature of the lens: %s", error)
            return None
        return value if math.isfinite(value) else None

    def _range(self) -> tuple[float, float]:
        limits, plan = self._lens.limits(), self._plan
        if limits is None and (plan.from_position is None or plan.to_position is None):
            raise PlanError(
                f"the lens {self._lens.label!r} states no limits; say from which to which position to calibrate"
            )
        least, most = limits or (-np.inf, np.inf)
        low = least if plan.from_position is None else plan.from_position
        high = most if plan.to_position is None else plan.to_position
        if not least <= low < high <= most:
            among = "" if limits is None else f" within the limits of the lens, {least:g} to {most:g}"
            raise PlanError(f"positions {low:g} to {high:g}: they must rise{among}")
        return float(low), float(high)

    def _planned_exposures(self) -> int:
        search = round(2 * self._plan.search_um / SEARCH_STEP_UM) + 1
        narrow = round(2 * NARROW_UM / NARROW_STEP_UM) + 1
        return search + narrow if self._drive is None else 2 * search + narrow * self._plan.steps

    def _tell(self) -> None:
        self._progressed(self.progress)

    def _return(self, lens_home: float, drive_home: float, failed: bool) -> None:
        """Send both back; an error of that is raised only where there is no other one to tell of."""
        errors: list[DeviceError] = []
        for stage, home in ((self._lens, lens_home), (self._drive, drive_home)):
            if stage is None:
                continue
            try:
                if stage is self._drive:
                    below = _within(np.array([home - BACKLASH_UM / abs(stage.um_per_unit)]), stage.limits(), clip=True)
                    stage.move(float(below[0]))
                stage.move(home)
            except DeviceError as error:
                log.error("after the calibration: %s", error)
                errors.append(error)
        if errors and not failed:
            raise errors[0]


def _line(foci: dict[float, FocusFit]) -> Callable[[float], float]:
    """Predict the focus of the drive from the two nearest lens positions."""

    def predict(position: float) -> float:
        near, next_near = sorted(foci, key=lambda known: abs(known - position))[:2]
        slope = (foci[near].z_um - foci[next_near].z_um) / (near - next_near)
        return foci[near].z_um + slope * (position - near)

    return predict


def _random_sd_um(fit: FocusFit) -> float:
    """Uncertainty without the part that all foci share."""
    return max(float(np.sqrt(max(fit.sd_um**2 - SYSTEMATIC_UM**2, 0.0))), 0.02)


def _within(positions: Floats, limits: tuple[float, float] | None, *, clip: bool = False) -> Floats:
    if limits is None:
        return positions
    if clip:
        return np.clip(positions, *limits)
    return positions[(positions >= limits[0]) & (positions <= limits[1])]
