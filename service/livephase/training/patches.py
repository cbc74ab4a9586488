"""Patches: a grid over a field, the edge detection that leaves empty ones out, and the symmetries of the square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace
from scipy.ndimage import gaussian_filter, sobel

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = Any
"""A numpy array or a torch tensor."""

SYMMETRIES = 8
"""Four rotations, each mirrored or not."""
SYMMETRY_NUMBERING = "1 mirrors Y, 2 mirrors X, 4 then transposes"
"""The bits of a symmetry's number. It belongs to the identity of whatever keeps such numbers on disk."""
EDGE_RAD_PER_UM = 0.05
"""A slope of the phase above this is an edge: ten times the ripple of a measured empty background, a third of the
median slope inside a cell, both after the smoothing below."""
LEAST_EDGE_FRACTION = 0.01
"""A patch with fewer edge pixels is empty: 1 % of 256 x 256 pixels of 0.65 um is about half a flat cell."""
_SMOOTHING_PX = 2.0


@dataclass(frozen=True, slots=True)
class Patches:
    """Pairs of one split.

    Attributes
    ----------
    intensity : NDArray[float32]
        (N, H, W) relative intensity, 1 for an empty field (measured: for the mean of the frame).
    phase_rad : NDArray[float16]
        (N, 4 H, 4 W) radians.
    field : NDArray[int64]
        (N,) index of the field within the split.
    corner_px : NDArray[int64]
        (N, 2) row and column of the upper left HR pixel in the field.
    symmetry : NDArray[int64]
        (N,) see ``patches.symmetric``; 0 outside the training split.
    """

    intensity: NDArray[np.float32]
    phase_rad: NDArray[np.float16]
    field: NDArray[np.int64]
    corner_px: NDArray[np.int64]
    symmetry: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.intensity)


def edge_map(phase_rad: NDArray[np.floating[Any]], pixel_um: float) -> NDArray[np.bool_]:
    """Find the edges of a phase image with the Sobel operator.

    Parameters
    ----------
    phase_rad : NDArray[floating]
        (Y, X) radians.
    pixel_um : float
        Its pixel in um.

    Returns
    -------
    NDArray[bool]
        (Y, X), True where the phase, smoothed by a Gaussian of 2 pixels, rises by more than ``EDGE_RAD_PER_UM``.
    """
    smooth = gaussian_filter(phase_rad.astype(np.float32), _SMOOTHING_PX)
    # The operator weighs 8 pixel steps.
    slope = np.hypot(sobel(smooth, 0), sobel(smooth, 1)) / (8 * pixel_um)
    return slope > EDGE_RAD_PER_UM


def grid(shape: tuple[int, int], size_px: int, stride_px: int) -> NDArray[np.int64]:
    """Corners of the patches that lie in a field.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) of the field.
    size_px, stride_px : int
        Side of a patch and step of the grid.

    Returns
    -------
    NDArray[int64]
        (N, 2): row and column of the upper left corner.
    """
    rows, columns = (np.arange(0, side - size_px + 1, stride_px) for side in shape)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def occupied(edges: NDArray[np.bool_], corners: NDArray[np.int64], size_px: int) -> NDArray[np.bool_]:
    """Tell which patches hold a specimen.

    Parameters
    ----------
    edges : NDArray[bool]
        (Y, X), see ``edge_map``.
    corners : NDArray[int64]
        (N, 2), see ``grid``.
    size_px : int
        Side of a patch.

    Returns
    -------
    NDArray[bool]
        (N,), True where at least ``LEAST_EDGE_FRACTION`` of the patch is edge.
    """
    fractions = [edges[row : row + size_px, column : column + size_px].mean() for row, column in corners]
    return np.array(fractions, np.float64).reshape(-1) >= LEAST_EDGE_FRACTION


def symmetric(image: Array, symmetry: int) -> Array:
    """Turn and mirror a square image.

    Parameters
    ----------
    image : Array
        (..., Y, X) with Y = X, numpy or torch.
    symmetry : int
        0 to 7, see ``SYMMETRY_NUMBERING``; 0 leaves the image as it is.

    Returns
    -------
    Array
        The image; numpy gives a view.
    """
    xp = array_namespace(image)
    if symmetry & 1:
        image = xp.flip(image, axis=-2)
    if symmetry & 2:
        image = xp.flip(image, axis=-1)
    return xp.matrix_transpose(image) if symmetry & 4 else image


def draw_augmented(unique: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw different pairs of patch and symmetry, evenly over the patches.

    Parameters
    ----------
    unique : int
        Number of patches.
    count : int
        Number of pairs, at most 8 x ``unique``.
    rng : numpy.random.Generator
        Shuffles.

    Returns
    -------
    NDArray[int64]
        (count, 2): index of the patch, symmetry; no row comes twice.
    """
    pairs = np.stack(np.meshgrid(np.arange(unique), np.arange(SYMMETRIES), indexing="ij"), axis=-1).reshape(-1, 2)
    return pairs[rng.permutation(len(pairs))[:count]]
