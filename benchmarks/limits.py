"""What no network can do on the simulated culture: ``python -m benchmarks.limits``.

The granules of a simulated cell are a random texture with periods from about 3 um. Its part beyond the camera's
Nyquist frequency reaches the frame only folded onto what lies below, so an estimate that has everything else right
still lacks it. Printed: the SSIM and NRMSE of that estimate on the paper set's test fields, the share of the texture in
the power beyond Nyquist, and how the spectrum inside simulated cells compares with that inside measured ones.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from livephase.training.fields import measured_field, simulated_field
from livephase.training.metrics import nrmse_by_period, ssim
from livephase.training.paper_fields import HELD_BACK_FILES, SimulatedCulture

if TYPE_CHECKING:
    from numpy.typing import NDArray

HR_PIXEL_UM, MEASURED_PIXEL_UM, LR_PIXEL_UM = 0.65, 0.6273, 2.6
PERIODS_UM = (20.0, 10.0, 7.5, 5.2, 4.0, 3.2, 2.6)
PATCH_PX = 128
LEAST_MEAN_RAD = 0.6
"""A patch with less is not filled with cells."""
SIMULATED_FIELDS, SIMULATED_SHAPE, SIMULATED_COVERAGE = 8, (640, 640), (0.3, 1.2)


def no_texture(_seed: int) -> NDArray[np.float32]:
    """Stand for ``twin.cell.texture_tile``."""
    return np.zeros((256, 256), np.float32)


def print_texture_limit() -> None:
    """Judge the truth without its texture beyond Nyquist."""
    culture = SimulatedCulture()
    for index in range(culture.test_fields):
        whole = culture.render("test", index).inner.astype(np.float64)
        with mock.patch("livephase_devices.twin.specimen.texture_tile", no_texture):
            texture = whole - culture.render("test", index).inner.astype(np.float64)
        u_y, u_x = (np.fft.fftfreq(side, HR_PIXEL_UM) for side in whole.shape)
        beyond = np.maximum(np.abs(u_y)[:, None], np.abs(u_x)[None, :]) > 1 / (2 * LR_PIXEL_UM)
        lost = np.fft.fft2(texture) * beyond
        share = (np.abs(lost) ** 2).sum() / (np.abs(np.fft.fft2(whole) * beyond) ** 2).sum()
        estimate = (whole - np.fft.ifft2(lost).real).astype(np.float32)
        truth = whole.astype(np.float32)
        print(
            f"test field {index}, confluence {(truth > 0.1).mean():.0%}: all but the texture beyond Nyquist has SSIM "
            f"{ssim(estimate, truth):.4f}, NRMSE under 5.2 um "
            f"{nrmse_by_period(estimate, truth, HR_PIXEL_UM)[-1]:.2f}; texture is {share:.0%} of the power there"
        )


def patches(phase: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut the patches that are filled with cells."""
    step = PATCH_PX // 2
    cut = [
        phase[row : row + PATCH_PX, column : column + PATCH_PX]
        for row in range(0, phase.shape[0] - PATCH_PX + 1, step)
        for column in range(0, phase.shape[1] - PATCH_PX + 1, step)
    ]
    return [patch for patch in cut if patch.mean() > LEAST_MEAN_RAD]


def relative_sd(filled: list[NDArray[np.float64]], pixel_um: float) -> NDArray[np.float64]:
    """Sd of the phase within each band of periods, over the mean phase."""
    window = np.outer(np.hanning(PATCH_PX), np.hanning(PATCH_PX))
    window /= np.sqrt((window**2).mean())
    power = np.mean([np.abs(np.fft.fft2((patch - patch.mean()) * window)) ** 2 for patch in filled], axis=0)
    u = np.fft.fftfreq(PATCH_PX, pixel_um)
    radius = np.hypot(u[:, None], u[None, :])
    inside = [power[(radius >= 1 / long) & (radius < 1 / short)].sum() for long, short in pairwise(PERIODS_UM)]
    return np.sqrt(inside) / PATCH_PX**2 / np.mean([patch.mean() for patch in filled])


def print_spectra(measured_folder: Path) -> None:
    """Compare simulated and measured cells by period."""
    simulated = [
        patch
        for seed in range(SIMULATED_FIELDS)
        for patch in patches(
            simulated_field(900 + seed, SIMULATED_SHAPE, HR_PIXEL_UM, SIMULATED_COVERAGE).astype(np.float64)
        )
    ]
    measured = [
        patch
        for path in sorted(measured_folder.glob("*.npz"))
        if path.stem not in HELD_BACK_FILES
        for patch in patches(measured_field(path).astype(np.float64))
    ]
    ratios = relative_sd(simulated, HR_PIXEL_UM) / relative_sd(measured, MEASURED_PIXEL_UM)
    print(f"sd over mean phase, {len(simulated)} simulated patches over {len(measured)} measured ones:")
    for (long, short), ratio in zip(pairwise(PERIODS_UM), ratios, strict=True):
        print(f"  {long:4g} .. {short:g} um: {ratio:.2f}")


def main() -> int:
    """Print both."""
    shared = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    print_texture_limit()
    print_spectra(shared / "data" / "qpi_cells")
    return 0


if __name__ == "__main__":
    sys.exit(main())
