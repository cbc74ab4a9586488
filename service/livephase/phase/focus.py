"""Where a specimen is in focus, from a short sweep of frames through it.

A cell is a phase object: its contrast is least in focus. But cells also absorb, in step with their phase
(``exp(-kappa phase)``), so a contrast minimum is not the focus. For a weak object the spectrum of a frame is that of
the phase times

    2 E(z, u) (sin chi - kappa cos chi),   chi = pi wavelength z u^2

(phase-attenuation duality, Wu and Liu 2004; E is the condenser's jinc), which is least at chi = atan(kappa): at
10 um period and kappa = 0.05 that is 3 um off, at 5 um period 0.7 um. The true focus is common to all frequencies, so
it is fitted to all of them together with kappa. What is fitted are the cross-spectra of all pairs of frames, averaged
over rings: the noise of two frames is independent and so has no part in them. Each ring has free strengths of the phase
object, of what is the same in every frame (dirt on the camera, shading) and of the phase object's even part: strong
phase turns what focuses light brighter than what spreads it.

The weak-object transfer describes the *zero* of cells' contrast well and its growth badly (cells of several rad are no
weak objects): so only frames near the focus are used, and the scale of z must be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import scipy.fft
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.optimize import least_squares
from scipy.signal.windows import tukey
from scipy.special import j1

from livephase.errors import FocusError, InferenceError
from livephase.phase.modelfile import INPUT_GAIN
from livephase.phase.preprocess import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WINDOW_UM: Final = 5.0
"""Frames further from the focus than this are not used: there, cells are no weak objects."""
LEAST_FRAMES: Final = 4
SYSTEMATIC_UM: Final = 0.1
"""What the fit is off by beside its noise: rms over simulated cultures, sparse and dense, kappa 0-0.05, S 0-0.5."""
LEAST_STRENGTH: Final = 10.0
"""The phase object must explain this much of the misfit per ring; noise alone gives about 1."""
_RINGS: Final = 20
_LONGEST_PERIOD_UM: Final = 60.0
_SHORTEST_PERIOD_UM: Final = 4.0
"""Shorter ones are weak in cells, and no longer describe them as a thin object near its focus."""
_NYQUIST_PART: Final = 0.9
"""Frequencies closer to the camera's limit are aliased."""
_TAPER: Final = 0.5
_DIRT_LEVEL: Final = 0.45
_DIRT_STEADY: Final = 6.0
_DIRT_MARGIN_PX: Final = 2
_LARGEST_DIRT: Final = 0.3
_START_KAPPA: Final = 0.01


@dataclass(frozen=True, slots=True)
class SweepOptics:
    """How the frames of a sweep were imaged.

    Attributes
    ----------
    wavelength_um, objective_na, coherence : float
        As of ``optics.OpticalSetup``.
    lr_pixel_um : float
        Camera pixel at the specimen in um.
    """

    wavelength_um: float
    objective_na: float
    coherence: float
    lr_pixel_um: float


@dataclass(frozen=True, slots=True)
class SweepSpectra:
    """What is kept of the frames of a sweep.

    Attributes
    ----------
    cross : NDArray[float64]
        (B, N, N) mean cross-spectra of the N relative frames over B rings, real part.
    modes : NDArray[float64]
        (B,) independent Fourier modes of each ring.
    frequency_per_um : NDArray[float64]
        (B,) spatial frequency of each ring.
    images : NDArray[float32]
        (N, Y, X) the relative frames themselves, level 0.
    """

    cross: Floats
    modes: Floats
    frequency_per_um: Floats
    images: NDArray[np.float32]

    def subset(self, chosen: NDArray[np.bool_]) -> SweepSpectra:
        """Return the part of some frames, (N,) True for those."""
        return SweepSpectra(self.cross[:, chosen][:, :, chosen], self.modes, self.frequency_per_um, self.images[chosen])


@dataclass(frozen=True, slots=True)
class FocusFit:
    """Where the focus is.

    Attributes
    ----------
    z_um : float
        Focus, on the axis of the sweep's positions in um.
    sd_um : float
        Standard uncertainty, ``SYSTEMATIC_UM`` included.
    kappa_per_rad : float
        Absorption that goes with the phase.
    strength : float
        How much better the frames are explained with a phase object than without, per ring; noise gives about 1.
    frames : int
        How many were near enough to be used.
    skewness : float
        Of what grows linearly through the focus. Cells delay light and gather it above them, so their centres get
        brighter with growing defocus: positive where larger positions are larger defoci.
    """

    z_um: float
    sd_um: float
    kappa_per_rad: float
    strength: float
    frames: int
    skewness: float


def sweep_spectra(frames: Sequence[NDArray[Any]], bit_depth: int, optics: SweepOptics) -> SweepSpectra:
    """Flatten the frames of a sweep and take their cross-spectra.

    Parameters
    ----------
    frames : sequence of NDArray[uint8 or uint16]
        N frames (Y, X) of the same field in counts.
    bit_depth : int
        Of the camera.
    optics : SweepOptics
        Of all frames.

    Raises
    ------
    FocusError
        A frame is dark or too small.
    """
    try:
        flat = [
            prepare(frame, bit_depth=bit_depth, stride=1, flat_field="auto", halo_px=0).intensity / INPUT_GAIN
            for frame in frames
        ]
    except InferenceError as error:
        raise FocusError(f"the focus cannot be measured: {error}") from error
    images = np.stack(flat)
    images *= ~_dirt(images)
    rows, columns = images.shape[1:]
    window = np.outer(tukey(rows, _TAPER), tukey(columns, _TAPER))
    power = float((window**2).sum())
    u_y = np.fft.fftfreq(rows, optics.lr_pixel_um)[:, None]
    u_x = np.fft.rfftfreq(columns, optics.lr_pixel_um)[None, :]
    radius = np.hypot(u_y, u_x)
    edges = _ring_edges(optics, min(rows, columns))
    ring = np.digitize(radius, edges) - 1
    inside = (ring >= 0) & (ring < len(edges) - 1)
    ring, radius = ring[inside], radius[inside]
    spectra = np.empty((len(images), ring.size), np.complex128)
    for index, image in enumerate(images):
        centred = image - (image * window).sum() / window.sum()
        spectra[index] = scipy.fft.rfft2(centred * window)[inside] / np.sqrt(power)
    # The window makes neighbouring modes alike: fewer are independent.
    independent = power**2 / float((window**4).sum()) / window.size
    count = len(edges) - 1
    cross = np.empty((count, len(images), len(images)))
    modes, frequency = np.empty(count), np.empty(count)
    for index in range(count):
        part = spectra[:, ring == index]
        cross[index] = np.real(part @ part.conj().T) / part.shape[1]
        modes[index] = part.shape[1] * independent
        frequency[index] = np.sqrt(np.mean(radius[ring == index] ** 2))
    return SweepSpectra(cross, modes, frequency, images)


def find_focus(spectra: SweepSpectra, z_um: Sequence[float] | Floats, optics: SweepOptics) -> FocusFit:
    """Find the focus of a sweep whose positions are known in um.

    Parameters
    ----------
    spectra : SweepSpectra
        Of N frames.
    z_um : sequence of float
        (N,) positions in um along the optical axis, from any origin, increasing with the defocus or against it.
    optics : SweepOptics
        Of all frames.

    Returns
    -------
    FocusFit
        It may lie outside the sweep, with a large uncertainty: it is for the caller to decide what is plausible.

    Raises
    ------
    FocusError
        The field shows too little, or too few frames are near the focus.
    """
    z = np.asarray(z_um, np.float64)
    start_um = _first_guess(spectra, z, optics)
    fit = _fit_near(spectra, z, optics, start_um)
    for _ in range(3):  # until the frames that are used are those near the focus
        before_um, start_um = start_um, float(np.clip(fit.z_um, z.min(), z.max()))
        if ((np.abs(z - start_um) <= WINDOW_UM) == (np.abs(z - before_um) <= WINDOW_UM)).all():
            break
        fit = _fit_near(spectra, z, optics, start_um)
    if fit.strength < LEAST_STRENGTH:
        raise FocusError(
            f"the field shows too little to find the focus (strength {fit.strength:.1f}, at least "
            f"{LEAST_STRENGTH:g} is needed); move to a place with cells or raise the exposure"
        )
    return fit


def _fit_near(spectra: SweepSpectra, z: Floats, optics: SweepOptics, start_um: float) -> FocusFit:
    near = np.abs(z - start_um) <= WINDOW_UM
    if near.sum() < LEAST_FRAMES:
        raise FocusError(
            f"only {int(near.sum())} of the frames lie within {WINDOW_UM:g} um of the focus, which seems to be at "
            f"{start_um:.3g} um of the sweep from {z.min():.4g} to {z.max():.4g} um; at least {LEAST_FRAMES} are "
            "needed: sweep around the focus, in steps of 1 to 2 um"
        )
    return _fit(spectra.subset(near), z[near], optics, start_um)


def _dirt(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find (Y, X) what is dark or bright in every frame and does not change with the focus, as no cell is.

    Its contrast resembles that of the cells here and there, and would be taken for absorption.
    """
    level, change = np.abs(images.mean(axis=0)), images.std(axis=0)
    steady = (level > _DIRT_LEVEL) & (level > _DIRT_STEADY * change)
    found = np.asarray(binary_dilation(steady, iterations=_DIRT_MARGIN_PX), np.bool_)
    return found if found.mean() < _LARGEST_DIRT else np.zeros_like(found)


def _ring_edges(optics: SweepOptics, side_px: int) -> Floats:
    highest = min(
        _NYQUIST_PART * 0.5 / optics.lr_pixel_um,
        1.0 / _SHORTEST_PERIOD_UM,
        optics.objective_na / optics.wavelength_um * (1.0 - optics.coherence),
    )
    lowest = max(1.0 / _LONGEST_PERIOD_UM, 4.0 / (side_px * optics.lr_pixel_um))
    # No ring may be narrower than what the window resolves.
    rings = min(_RINGS, int((highest - lowest) * side_px * optics.lr_pixel_um / 1.5))
    if rings < 4:
        raise FocusError(
            f"a frame of {side_px} pixels of {optics.lr_pixel_um:g} um is too small, or its condenser too open "
            f"(S = {optics.coherence:g}), to find the focus"
        )
    return np.linspace(lowest, highest, rings + 1)


def _first_guess(spectra: SweepSpectra, z: Floats, optics: SweepOptics) -> float:
    """Guess the focus: of the windows along the sweep that see it near their middle, the one that is most certain.

    Where none does, it is the least contrast at the shorter periods. That alone would follow dirt, which is often
    stronger than the cells and happens to resemble them here and there.
    """
    best: FocusFit | None = None
    for centre_um in np.arange(z.min(), z.max() + 0.1, WINDOW_UM / 2):
        near = np.abs(z - centre_um) <= WINDOW_UM
        if near.sum() < LEAST_FRAMES:
            continue
        fit = _fit(spectra.subset(near), z[near], optics, float(centre_um))
        sees_it = abs(fit.z_um - centre_um) <= WINDOW_UM / 2 and z[near].min() <= fit.z_um <= z[near].max()
        if sees_it and fit.strength >= LEAST_STRENGTH and (best is None or fit.sd_um < best.sd_um):
            best = fit
    if best is not None:
        return best.z_um
    fine = spectra.frequency_per_um > np.median(spectra.frequency_per_um)
    contrast = np.diagonal(spectra.cross, axis1=1, axis2=2)[fine].sum(axis=0)
    order = np.argsort(z)
    smooth = np.convolve(np.pad(contrast[order], 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    return float(z[order][int(np.argmin(smooth))])


def _transfer(z: Floats, kappa: float, frequency: Floats, optics: SweepOptics) -> Floats:
    """Weak-object transfer (B, N), with chi exact beyond the Fresnel approximation."""
    wavelength = optics.wavelength_um
    path = 2 * np.pi * (1 - np.sqrt(1 - (wavelength * frequency) ** 2)) / wavelength
    chi = path[:, None] * z[None, :]
    shift = 2 * np.pi * optics.coherence * optics.objective_na * frequency[:, None] * z[None, :]
    shift = np.where(np.abs(shift) < 1e-6, 1e-6, shift)
    return 2 * j1(shift) / shift * 2 * (np.sin(chi) - kappa * np.cos(chi)) / path[:, None]


def _fit(spectra: SweepSpectra, z: Floats, optics: SweepOptics, start_um: float) -> FocusFit:
    """Fit focus and kappa; the strengths of each ring follow by linear least squares (variable projection)."""
    first, second = np.triu_indices(len(z), 1)
    power = np.diagonal(spectra.cross, axis1=1, axis2=2)
    pairs = spectra.cross[:, first, second]
    weight = np.sqrt(spectra.modes[:, None] / (power[:, first] * power[:, second] + pairs**2))
    data = pairs * weight
    reach_um = max(float(np.ptp(z)) / 2, 1e-3)

    def unexplained(focus_um: float, kappa: float, *, phase: bool = True) -> Floats:
        from_focus = z - focus_um
        transfer = _transfer(from_focus, kappa, spectra.frequency_per_um, optics) / reach_um
        parts = [np.ones_like(pairs)]
        if phase:
            parts.append(transfer[:, first] * transfer[:, second])
            if len(z) > LEAST_FRAMES:
                even = (from_focus / reach_um)[None, :] ** 2
                parts.append(transfer[:, first] * even[:, second] + transfer[:, second] * even[:, first])
        basis = np.stack(parts, axis=1) * weight[:, None, :]
        gram = np.einsum("bkm,blm->bkl", basis, basis)
        gram += 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(len(parts))
        strengths = np.linalg.solve(gram, np.einsum("bkm,bm->bk", basis, data)[:, :, None])[:, :, 0]
        return (data - np.einsum("bk,bkm->bm", strengths, basis)).ravel()

    found = least_squares(
        lambda parameters: unexplained(float(parameters[0]), float(parameters[1])),
        (start_um, _START_KAPPA),
        x_scale=(reach_um, 0.05),
        max_nfev=60,
    )
    focus_um, kappa = (float(value) for value in found.x)
    freedom = max(data.size - 3 * len(spectra.modes) - 2, 1)
    left = max(2 * float(found.cost) / freedom, 1.0)
    jacobian = np.asarray(cast("Any", found.jac), np.float64)
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * left
    without = float(np.sum(unexplained(focus_um, kappa, phase=False) ** 2))
    return FocusFit(
        z_um=focus_um,
        sd_um=float(np.hypot(np.sqrt(covariance[0, 0]), SYSTEMATIC_UM)),
        kappa_per_rad=kappa,
        strength=(without - 2 * float(found.cost)) / len(spectra.modes),
        frames=len(z),
        skewness=_growth_skewness(spectra.images, z - focus_um),
    )


def _growth_skewness(images: NDArray[np.float32], from_focus_um: Floats) -> float:
    """Skewness of the part of the frames that is odd about the focus; dirt is the same or even, and has none in it."""
    even = np.stack([np.ones_like(from_focus_um), from_focus_um**2], axis=1)
    odd = from_focus_um - even @ np.linalg.lstsq(even, from_focus_um, rcond=None)[0]
    growth = gaussian_filter(np.tensordot(odd.astype(np.float32), images, axes=1), 1.0)
    growth -= growth.mean()
    return float(np.mean(growth**3)) / max(float(np.std(growth)) ** 3, 1e-30)
