"""Focus hold: every so many time points a short sweep through the focus says how far the specimen has drifted.

The sweep goes around the focus, not around the working point: there a frame says directly how far it is off, and
neither the lens' scale nor how strongly the cells act has a part in it, while at the working point an error of 10 % in
either would be 0.6 um at 6 um. It takes five exposures, and the specimen has no time to change between them.

What is corrected is an offset of the lens: at the nominal defocus ``plan + offset`` the specimen is truly at ``plan``.
An attempt that fails, or whose result is not plausible, leaves the last good offset; it never ends a run.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from livephase.acquisition.sweep import optics_of, take_frames
from livephase.errors import FocusError
from livephase.phase.focus import find_focus, sweep_spectra
from livephase_devices.errors import LivephaseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase.phase.focus import FocusFit
    from livephase_devices.microscope import Microscope

log = logging.getLogger(__name__)

SWEEP_UM: Final = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Where frames are taken, from where the focus was last."""
WIDE_SWEEP_UM: Final = (-8.0, -6.0, *SWEEP_UM, 6.0, 8.0)
"""After an attempt that failed, as far as the lens reaches: meanwhile the focus may have drifted out of the other."""
LARGEST_JUMP_UM: Final = 3.0
"""A focus further than this from the last one is not believed: a cell that floats by, or something has moved."""
AGREEMENT_UM: Final = 0.5
"""A jump is believed after all when the next attempt finds the focus within this of where it seemed to be."""
LARGEST_SD_UM: Final = 0.4
"""A focus that is less certain than this is not used."""
OFFSET: Final = "Focus.offset_um"
"""Recorded with every raw frame of a run with focus hold: its nominal defocus minus the true one."""
FIRST_S: Final = 10.0
"""What an attempt is expected to take, before one was timed."""


@dataclass(frozen=True, slots=True)
class FocusAttempt:
    """One attempt to measure the focus.

    Attributes
    ----------
    time_point : int
        The time point that it was made for.
    offset_um : float
        Nominal defocus at which the specimen is in focus, as it is used from now on.
    change_um : float or None
        What this attempt changed of it; None where it failed.
    sd_um : float or None
        Standard uncertainty of the measured focus.
    problem : str or None
        Why it failed; the offset is then that of before.
    took_s : float
        From its first move to its result.
    """

    time_point: int
    offset_um: float
    change_um: float | None
    sd_um: float | None
    problem: str | None
    took_s: float


class FocusHold:
    """Keeps one run in focus; used by the run on the acquisition thread.

    Parameters
    ----------
    microscope : Microscope
        Has a lens.
    every : int
        Time points from one measurement to the next.
    defocus_um : float
        The plan's: with a new offset, it must still be reachable.
    stopped : callable
        Whether the run was asked to end; ends an attempt early.
    """

    def __init__(self, microscope: Microscope, every: int, defocus_um: float, stopped: Callable[[], bool]) -> None:
        self._microscope = microscope
        self._every = every
        self._defocus_um = defocus_um
        self._stopped = stopped
        self._last_point: int | None = None
        self._took_s = FIRST_S
        self._doubted_um: float | None = None
        self._lost = False
        self.offset_um = 0.0

    def due(self, time_point: int, wait_s: float, interval_s: float) -> bool:
        """Whether to measure in the ``wait_s`` before a time point.

        Without time for it, it is put off to the next wait that is long enough, but no further than twice its
        interval: the time point after it is late then, and the schedule is kept. A run that records as fast as it
        can (``interval_s`` 0) has no waits, and no schedule to keep.
        """
        if self._last_point is None:
            return True
        waited = time_point - self._last_point
        return waited >= self._every and (interval_s == 0 or wait_s >= self.needs_s or waited >= 2 * self._every)

    @property
    def needs_s(self) -> float:
        """Time to allow for an attempt."""
        return 1.5 * self._took_s + 0.5

    def attempt(self, time_point: int) -> FocusAttempt:
        """Measure the focus and keep the new offset, or say why not; never raises."""
        self._last_point = time_point
        begun_s = time.monotonic()
        before_um = self.offset_um
        fit: FocusFit | None = None
        problem: str | None = None
        try:
            fit = self._measure(before_um)
            self._check(fit, before_um)
            self.offset_um = fit.z_um
            self._doubted_um = None
        except LivephaseError as error:
            problem = str(error)
        except Exception as error:
            log.exception("the focus could not be measured")
            problem = f"unexpected: {type(error).__name__}: {error}"
        self._lost = problem is not None
        took_s = time.monotonic() - begun_s
        if problem is None:
            self._took_s = took_s
        return FocusAttempt(
            time_point=time_point,
            offset_um=self.offset_um,
            change_um=None if problem is not None else self.offset_um - before_um,
            sd_um=None if fit is None else fit.sd_um,
            problem=problem,
            took_s=took_s,
        )

    def _measure(self, around_um: float) -> FocusFit:
        microscope = self._microscope
        low_um, high_um = microscope.state().defocus_limits_um or (-float("inf"), float("inf"))
        targets = [around_um + step_um for step_um in (WIDE_SWEEP_UM if self._lost else SWEEP_UM)]
        within = [um for um in targets if low_um <= um <= high_um]
        if self._lost and len(within) >= len(SWEEP_UM):
            targets = within
        elif len(within) < len(targets):
            raise FocusError(
                f"the sweep from {targets[0]:.3g} to {targets[-1]:.3g} um would leave the range of the lens, "
                f"{low_um:.4g} to {high_um:.4g} um; refocus the microscope by hand"
            )
        z_um: list[float] = []
        frames, bit_depth = take_frames(
            microscope, lambda index: z_um.append(microscope.set_defocus_um(targets[index])), len(targets), self._ask
        )
        optics = optics_of(microscope.config)
        return find_focus(sweep_spectra(frames, bit_depth, optics), z_um, optics)

    def _check(self, fit: FocusFit, before_um: float) -> None:
        jump_um = fit.z_um - before_um
        if fit.sd_um > LARGEST_SD_UM:
            raise FocusError(f"the focus is not certain enough ({fit.sd_um:.2g} um); the field shows too little")
        if fit.skewness < 0:
            raise FocusError("the frames look turned about the focus; the sign of the lens' scale may be wrong")
        if abs(jump_um) > LARGEST_JUMP_UM:
            before, self._doubted_um = self._doubted_um, fit.z_um
            if before is None or abs(fit.z_um - before) > AGREEMENT_UM:
                raise FocusError(
                    f"the focus seems to have moved by {jump_um:.3g} um since it was last measured, more than "
                    f"{LARGEST_JUMP_UM:g} um: not believed unless the next attempt finds it there again"
                )
        problem = self._microscope.config.uncalibrated_range_problem(self._defocus_um + fit.z_um)
        limits = self._microscope.state().defocus_limits_um
        if problem is None and limits is not None and not limits[0] <= self._defocus_um + fit.z_um <= limits[1]:
            problem = f"a defocus of {self._defocus_um + fit.z_um:.4g} um is outside the range of the lens"
        if problem is not None:
            raise FocusError(f"the correction is out of reach: {problem}")

    def _ask(self) -> None:
        if self._stopped():
            raise FocusError("the run was asked to end")
