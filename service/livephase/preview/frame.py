"""One frame as viewers see it: the phase image, the camera counts behind it and how they came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["phase", "raw"]


@dataclass(frozen=True, slots=True, eq=False)
class PreviewFrame:
    """One frame to show.

    Whoever publishes a frame hands its arrays over: they are encoded later, in another thread, and must
    not change any more.

    Attributes
    ----------
    sequence : int
        Number of the frame in this service, counting up; viewers acknowledge it.
    phase_rad : NDArray[float32] or None
        Phase (Y, X) in radians on the HR grid; None while no phase could be computed for this frame.
    raw : NDArray[uint8 or uint16] or None
        Camera counts (Y / scale, X / scale).
    bit_depth : int
        Bits of the camera's counts; `2**bit_depth - 1` is the saturated count.
    hr_pixel_um : float
        Side of a pixel of `phase_rad` at the specimen.
    time_utc_ns : int
        When the exposure began.
    time_monotonic_ns : int
        The same on ``time.monotonic_ns``, the clock that never jumps: it orders frames and gives their age.
    defocus_um : float or None
        Confirmed defocus of the exposure; None without a lens.
    source : {"live", "run"}
        What asked for the frame.
    run_id, time_point : str, int or None
        The run and its time point when `source` is "run".
    out_of_range : bool
        The setting lies outside the valid range that the model states.
    saturated_fraction : float
        Fraction of camera pixels at the saturated count, computed on the counts themselves.
    misfit, misfit_threshold : float or None
        Whether the phase is to be believed (``livephase.frames.Misfit``); None without phase or where it was not
        judged.
    scale : int
        HR pixels along the side of one camera pixel.
    """

    sequence: int
    phase_rad: NDArray[np.float32] | None
    raw: NDArray[np.uint8 | np.uint16] | None
    bit_depth: int
    hr_pixel_um: float
    time_utc_ns: int
    time_monotonic_ns: int
    defocus_um: float | None
    source: Literal["live", "run"]
    run_id: str | None = None
    time_point: int | None = None
    out_of_range: bool = False
    saturated_fraction: float = 0.0
    misfit: float | None = None
    misfit_threshold: float | None = None
    scale: int = 4

    def image(self, kind: Kind) -> NDArray[np.float32 | np.uint8 | np.uint16] | None:
        """Return the image (Y, X) of that kind, None where this frame has none."""
        return self.phase_rad if kind == "phase" else self.raw

    def pixel_um(self, kind: Kind) -> float:
        """Return the side of a pixel of the image of that kind at the specimen, in micrometres."""
        return self.hr_pixel_um if kind == "phase" else self.hr_pixel_um * self.scale
