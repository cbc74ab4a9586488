"""Measured objects to train on: the in-focus amplitude and TIE phase of one's own specimen, and frames recorded of it.

One ``.npz`` for each field of view. Folders of ``livephase collect`` are read as such objects too (``collected``).

====================  ===========================  ===================================================================
key                   shape                        what
====================  ===========================  ===================================================================
``amplitude``         (4Y, 4X) float32             square root of the in-focus intensity over its level
``phase_rad``         (4Y, 4X) float32             TIE phase of the high-resolution planes
``valid``             (4Y, 4X) bool                where both are to be used
``frames``            (N, Y, X) float32            recorded defocused frames, binned 4 x 4, over their level; N may be 0
``defocus_um``        (N,) float64                 of each frame
``pixel_um``          float64                      HR pixel
``wavelength_um``     float64
``coherence``         float64                      S; NaN where it is not known
====================  ===========================  ===================================================================

From amplitude and phase the forward model makes frames at any defocus, with the coupling of absorption to phase that
the cells really have; recorded frames bring in what no model has.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from livephase.errors import ConfigurationError
from livephase.phase.illumination import erode, estimate_background, find_field_stop
from livephase.phase.tie import solve_tie
from livephase_devices.optics import bin_pixels

if TYPE_CHECKING:
    from pathlib import Path

Floats = NDArray[np.float32]
SCALE = 4
_STOP_MARGIN_UM = 5.0
"""Fringes of the field stop reach this far into the field."""


@dataclass(frozen=True, slots=True)
class MeasuredObject:
    """One file; see the module's table."""

    amplitude: Floats
    phase_rad: Floats
    valid: NDArray[np.bool_]
    frames: Floats
    defocus_um: NDArray[np.float64]
    pixel_um: float
    wavelength_um: float
    coherence: float

    def corners(self, size_px: int) -> NDArray[np.int64]:
        """List where a square patch of ``size_px`` HR pixels is valid throughout.

        Returns
        -------
        NDArray[int64]
            (N, 2) row and column of upper left corners, multiples of 4.
        """
        sums = np.zeros((self.valid.shape[0] + 1, self.valid.shape[1] + 1), np.int64)
        sums[1:, 1:] = (~self.valid).cumsum(0).cumsum(1)
        holes = sums[size_px:, size_px:] - sums[:-size_px, size_px:] - sums[size_px:, :-size_px]
        holes += sums[:-size_px, :-size_px]
        return np.argwhere(holes[::SCALE, ::SCALE] == 0) * SCALE


def object_from_planes(
    in_focus: NDArray[np.generic],
    defocused: NDArray[np.generic],
    *,
    dz_um: float,
    pixel_um: float,
    wavelength_um: float,
    coherence: float | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> MeasuredObject:
    """Make a measured object of two high-resolution planes; the defocused one, binned, is its recorded frame.

    Parameters
    ----------
    in_focus, defocused : NDArray
        (4Y, 4X) counts; a field stop in view is masked out.
    dz_um : float
        Defocus of the second plane.
    pixel_um, wavelength_um : float
        HR pixel and wavelength.
    coherence : float, optional
        S, where it is known.
    valid : NDArray[bool], optional
        (4Y, 4X) part of the field to use; everything by default.

    Returns
    -------
    MeasuredObject
        Phase with its zero at the thinnest 5 % of the field: TIE leaves it open.
    """
    rows, columns = (side // SCALE * SCALE for side in in_focus.shape)
    planes = [plane[:rows, :columns].astype(np.float32) for plane in (in_focus, defocused)]
    use = np.ones((rows, columns), np.bool_) if valid is None else valid[:rows, :columns].copy()
    stop = find_field_stop(planes[1])
    if stop is not None:
        use &= erode(stop, round(_STOP_MARGIN_UM / pixel_um))
        planes = [plane - np.median(plane[~stop]) for plane in planes]
    phase = solve_tie(planes[0], planes[1], dz_um, pixel_um, wavelength_um)
    amplitude = np.sqrt(np.clip(planes[0] / estimate_background(planes[0], stop), 0, None))
    binned = bin_pixels(planes[1] / estimate_background(planes[1], stop), SCALE)
    lit = bin_pixels(use.astype(np.float32), SCALE) == 1
    return MeasuredObject(
        amplitude=amplitude.astype(np.float32),
        phase_rad=phase - np.percentile(phase[use], 5).astype(np.float32),
        valid=use,
        frames=(binned / binned[lit].mean())[None].astype(np.float32),
        defocus_um=np.array([dz_um]),
        pixel_um=pixel_um,
        wavelength_um=wavelength_um,
        coherence=np.nan if coherence is None else coherence,
    )


def write_measured(path: Path, measured: MeasuredObject) -> None:
    """Write one field of view."""
    content = {field.name: getattr(measured, field.name) for field in fields(MeasuredObject)}
    np.savez_compressed(path, allow_pickle=False, **content)


def read_measured(path: Path) -> MeasuredObject:
    """Read one field of view.

    Raises
    ------
    ConfigurationError
        The file lacks a key, or its arrays do not fit together.
    """
    with np.load(path, allow_pickle=False) as archive:
        missing = [field.name for field in fields(MeasuredObject) if field.name not in archive]
        if missing:
            msg = f"{path} is no measured field: it has no {', '.join(missing)}; make it with livephase collect"
            raise ConfigurationError(msg)
        measured = MeasuredObject(
            amplitude=archive["amplitude"],
            phase_rad=archive["phase_rad"],
            valid=archive["valid"],
            frames=archive["frames"],
            defocus_um=archive["defocus_um"],
            pixel_um=float(archive["pixel_um"]),
            wavelength_um=float(archive["wavelength_um"]),
            coherence=float(archive["coherence"]),
        )
    rows, columns = measured.phase_rad.shape
    frames = (len(measured.defocus_um), rows // SCALE, columns // SCALE)
    if (
        measured.amplitude.shape != (rows, columns)
        or measured.frames.shape != frames
        or rows % SCALE
        or columns % SCALE
    ):
        msg = (
            f"{path}: phase {rows} x {columns}, amplitude {measured.amplitude.shape} and frames {measured.frames.shape}"
        )
        raise ConfigurationError(f"{msg} do not fit together; frames are binned {SCALE} x {SCALE}")
    return measured
