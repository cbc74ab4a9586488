"""What judging a measured frame needs: the model's grid, the judged pixels, and figures that forgive an offset."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from livephase.phase.illumination import erode
from livephase.phase.preprocess import model_pixel_um, resample_area
from livephase.training.metrics import correlation, ssim_map
from livephase_devices.optics import OpticalSetup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.evaluation.models import Model
    from livephase.evaluation.report import Cell

LONG_PERIOD_UM = 20.0
_HALVES = ("left", "right", "top", "bottom")
"""A measured file of a card's ``training`` is named ``<data set>-<half>`` where a half of a data set trained."""


@dataclass(frozen=True, slots=True)
class SingleShot:
    """Phase of one measured frame on the model's grid.

    Attributes
    ----------
    frame : NDArray[float32]
        (Y, X) as the model sees it, in the camera's unit.
    phase_rad : NDArray[float32]
        (4Y, 4X); NaN behind a field stop.
    hr_pixel_um : float
        Pixel of the phase.
    problems : list of str
        Values outside the model's range.
    """

    frame: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    hr_pixel_um: float
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a single-shot phase agrees with TIE on the judged pixels.

    Attributes
    ----------
    correlation : float
    correlation_short : float
        With periods over 20 um removed from both.
    slope : float
        Of the phase over the TIE phase, least squares.
    ssim_free : float
        SSIM after the offset and scale that fit TIE best.
    ssim_absolute : float
        SSIM with the scale as it is; only the offset is removed, which TIE leaves open.
    pixels : int
        Judged HR pixels.
    """

    correlation: float
    correlation_short: float
    slope: float
    ssim_free: float
    ssim_absolute: float
    pixels: int

    @property
    def cells(self) -> list[Cell]:
        """Cells of a table, below ``AGREEMENT_COLUMNS``."""
        return list(astuple(self))


AGREEMENT_COLUMNS = [
    "correlation",
    f"correlation, < {LONG_PERIOD_UM:g} um",
    "slope",
    "SSIM, offset and scale free",
    "SSIM, absolute",
    "HR pixels",
]


def single_shot(
    model: Model, plane: NDArray[Any], pixel_um: float, defocus_um: float, wavelength_um: float
) -> SingleShot:
    """Reconstruct one full-resolution plane after averaging it onto the model's camera pixels; S is not told.

    Parameters
    ----------
    model : Model
        The network.
    plane : NDArray
        (Y, X) counts.
    pixel_um : float
        Its pixel at the specimen.
    defocus_um, wavelength_um : float
        Of the plane.
    """
    lr_pixel_um = model_pixel_um(model.card, 4 * pixel_um)
    frame = resample_area(plane, pixel_um, lr_pixel_um)
    setup = OpticalSetup(wavelength_um, 0.4, 0.0, lr_pixel_um / 4, 4)
    phase = model.field(frame, model.told(defocus_um, setup, coherence_known=False), flat_field="auto")
    problems = model.card.range_problems(
        defocus_um=defocus_um, lr_pixel_um=lr_pixel_um, wavelength_um=wavelength_um, coherence=None
    )
    return SingleShot(frame, phase, lr_pixel_um / 4, problems)


def onto_grid(image: NDArray[Any], pixel_um: float, shot: SingleShot) -> NDArray[np.float32]:
    """Average a full-resolution image onto the grid of a single-shot phase, NaN where it does not reach."""
    averaged = resample_area(image, pixel_um, shot.hr_pixel_um)
    out = np.full(shot.phase_rad.shape, np.nan, np.float32)
    rows, columns = (min(a, b) for a, b in zip(out.shape, averaged.shape, strict=True))
    out[:rows, :columns] = averaged[:rows, :columns]
    return out


def judged_half(model: Model, data_set: str, shape: tuple[int, int], guard_px: int) -> tuple[NDArray[np.bool_], str]:
    """Say which pixels no training saw, by the model's card.

    Parameters
    ----------
    model : Model
        Its card lists the measured files that trained.
    data_set : str
        E.g. ``"tie_hela"``.
    shape : tuple of int
        (Y, X).
    guard_px : int
        Pixels beside the dividing line that are left out.

    Returns
    -------
    mask : NDArray[bool]
        (Y, X) True where no training saw the pixel.
    text : str
        The same in words.
    """
    trained = model.card.training.get("measured_files", [])
    half = next((half for half in _HALVES if f"{data_set}-{half}" in trained), None)
    mask = np.ones(shape, np.bool_)
    if half is None:
        return mask, "no training saw this field, by the card"
    rows, columns = shape[0] // 2, shape[1] // 2
    if half == "left":
        mask[:, : columns + guard_px] = False
    elif half == "right":
        mask[:, columns - guard_px :] = False
    elif half == "top":
        mask[: rows + guard_px] = False
    else:
        mask[rows - guard_px :] = False
    return mask, f"the {half} half trained, the other is judged"


def compare(
    phase: NDArray[np.float32], tie: NDArray[np.float32], judged: NDArray[np.bool_], pixel_um: float
) -> Agreement:
    """Compare a single-shot phase with TIE on some pixels; both (Y, X) in rad."""
    mask = judged & np.isfinite(phase) & np.isfinite(tie)
    a, b = phase[mask].astype(np.float64), tie[mask].astype(np.float64)
    slope = float(np.polyfit(b, a, 1)[0])
    gain, offset = (float(value) for value in np.polyfit(a, b, 1))
    short = [image - _smooth(image, mask, pixel_um) for image in (phase, tie)]
    return Agreement(
        correlation(a, b),
        correlation(short[0][mask], short[1][mask]),
        slope,
        _masked_ssim(gain * phase + offset, tie, mask),
        _masked_ssim(phase + np.float32(b.mean() - a.mean()), tie, mask),
        int(mask.sum()),
    )


def _masked_ssim(estimate: NDArray[Any], truth: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    level = float(truth[mask].mean())
    filled = [np.where(mask, image, level) for image in (estimate, truth)]
    # Windows that reach out of the mask would see the same filling in both.
    whole = erode(mask, 5)
    whole[:5] = whole[-5:] = False
    whole[:, :5] = whole[:, -5:] = False
    return float(ssim_map(filled[0], filled[1], float(np.ptp(truth[mask])))[whole].mean())


def _smooth(image: NDArray[Any], mask: NDArray[np.bool_], pixel_um: float) -> NDArray[np.float64]:
    """Local mean inside a mask, with the width that separates ``LONG_PERIOD_UM``."""
    sigma_px = LONG_PERIOD_UM / pixel_um / 2
    weight = gaussian_filter(mask.astype(np.float64), sigma_px)
    return gaussian_filter(np.where(mask, image, 0.0), sigma_px) / np.maximum(weight, 1e-6)
