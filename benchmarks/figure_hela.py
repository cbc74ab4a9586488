"""Single-shot phase of a measured HeLa frame beside TIE phase: ``python -m benchmarks.figure_hela OUT.png``.

The frame (20x, 0.2325 um per pixel, +2.5 um, field stop in view) is binned 4 x 4 and goes through ``livephase
reconstruct``; the reference is ``livephase.phase.tie`` on both full-resolution planes. Correlation is taken inside the
field stop, 15 um from its edge, on the reconstruction's grid.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import tifffile
import zarr
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter, zoom

from livephase.phase.illumination import erode, find_field_stop
from livephase.phase.preprocess import resample_area
from livephase.phase.tie import solve_tie
from livephase.training.metrics import correlation

PIXEL_UM, DZ_UM, WAVELENGTH_UM, HR_PIXEL_UM = 0.2325, 2.5, 0.55, 0.65
MARGIN_UM = 15.0
LONG_PERIOD_UM = 20.0


def main() -> int:
    """Write the picture and print the figures."""
    shared = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    planes = [tifffile.imread(shared / "data" / "tie_hela" / name) for name in ("I0.tif", "Iz.tif")]
    rows, columns = (side // 4 * 4 for side in planes[1].shape)
    binned = planes[1][:rows, :columns].reshape(rows // 4, 4, columns // 4, 4).sum(axis=(1, 3)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        frame, out = Path(folder) / "iz-binned.tif", Path(folder) / "hela.ome.zarr"
        tifffile.imwrite(frame, binned)
        options = {"--defocus-um": DZ_UM, "--pixel-um": 4 * PIXEL_UM, "--wavelength-um": WAVELENGTH_UM}
        arguments = [str(part) for pair in options.items() for part in pair]
        subprocess.run([sys.executable, "-m", "livephase", "reconstruct", str(frame), str(out), *arguments], check=True)
        phase = np.asarray(cast("zarr.Array[Any]", zarr.open_group(out, mode="r")["0"])[0, 0])
    tie = resample_area(solve_tie(planes[0], planes[1], DZ_UM, PIXEL_UM, WAVELENGTH_UM), PIXEL_UM, HR_PIXEL_UM)
    stop = find_field_stop(planes[1])
    lit = np.ones(planes[1].shape, np.bool_) if stop is None else erode(stop, round(MARGIN_UM / PIXEL_UM))
    inside = zoom(lit.astype(np.float32), PIXEL_UM / HR_PIXEL_UM, order=0) > 0
    shape = tuple(min(sides) for sides in zip(phase.shape, tie.shape, inside.shape, strict=True))
    phase, tie = (image[: shape[0], : shape[1]] for image in (phase, tie))
    inside = inside[: shape[0], : shape[1]]
    inside &= np.isfinite(phase)
    fine = [image - _smooth(image, inside) for image in (phase, tie)]
    whole, short = correlation(phase[inside], tie[inside]), correlation(fine[0][inside], fine[1][inside])
    slope = float(np.polyfit(tie[inside], phase[inside], 1)[0])
    print(f"correlation {whole:.3f}; periods over {LONG_PERIOD_UM:g} um removed {short:.3f}; slope {slope:.2f}")
    figure = Figure(figsize=(18, 8), layout="constrained")
    titles = (
        "camera frame, binned 4 x 4",
        f"single-shot phase (rad), correlation {whole:.2f}",
        "TIE phase of the pair (rad), offset removed",
    )
    tie = tie - np.median(tie[inside])
    images = (binned, phase, np.where(inside, tie, np.nan))
    for axis, image, title in zip(figure.subplots(1, 3), images, titles, strict=True):
        low, high = np.nanpercentile(image[image > 0] if image is binned else image, [0.5, 99.5])
        shown = axis.imshow(image, cmap="gray" if image is binned else "viridis", vmin=low, vmax=high)
        axis.set_title(title)
        axis.axis("off")
        figure.colorbar(shown, ax=axis, shrink=0.7)
    figure.savefig(sys.argv[1], dpi=70)
    return 0


def _smooth(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Local mean inside a mask, with the width that separates ``LONG_PERIOD_UM``."""
    sigma_px = LONG_PERIOD_UM / HR_PIXEL_UM / 2
    weight = gaussian_filter(inside.astype(np.float64), sigma_px)
    return gaussian_filter(np.where(inside, image, 0.0), sigma_px) / np.maximum(weight, 1e-6)


if __name__ == "__main__":
    sys.exit(main())
