"""Make the training half of the measured HeLa field: ``python -m benchmarks.measured_half FOLDER``.

The upper part of ``tie_hela`` trains (amplitude and TIE phase of its full-resolution planes, and its binned frame), the
lower half is judged by ``livephase evaluate --suite real``; 12 um between them belong to neither.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import tifffile

from livephase.training.measured import object_from_planes, write_measured

PIXEL_UM, DZ_UM, WAVELENGTH_UM = 0.2325, 2.5, 0.55
TEST_FROM_ROW = 632
"""The lower half of the field inside its stop, in full-resolution pixels."""
GAP_UM = 12.0


def main() -> int:
    """Write the file and say how much of the field is in it."""
    shared = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    in_focus, defocused = (tifffile.imread(shared / "data" / "tie_hela" / name) for name in ("I0.tif", "Iz.tif"))
    valid = np.zeros(in_focus.shape, np.bool_)
    valid[: TEST_FROM_ROW - round(GAP_UM / PIXEL_UM)] = True
    half = object_from_planes(
        in_focus, defocused, dz_um=DZ_UM, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM, valid=valid
    )
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_measured(folder / "tie_hela-top.npz", half)
    area_mm2 = float(half.valid.sum()) * PIXEL_UM**2 * 1e-6
    print(f"{folder / 'tie_hela-top.npz'}: {area_mm2:.4f} mm2 to train on, rows below {TEST_FROM_ROW} left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
