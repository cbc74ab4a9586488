"""The phase image of one cell: a flat body with nucleus, nucleoli and vesicles, or a sphere that divides.

The image is scaled so that its integral is the cell's dry mass: phase = 2 pi / wavelength * alpha * surface density,
alpha = 0.18 um3/pg (Barer 1952; Davies and Wilkins 1952). Mass is therefore conserved through rounding and division.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFRACTION_INCREMENT_UM3_PER_PG = 0.18
_NOISE_SIZE = 256
_DIRECTIONS = 720

Image = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class CellLook:
    """What one cell looks like at one moment.

    Attributes
    ----------
    look_seed : int
        Chooses outline, organelles and texture; a cell keeps it for life.
    heading_rad : float
        Direction of the long axis and of the division.
    radius_um : float
        Radius of the disc of the same area.
    roundness, furrow : float
        0..1, see ``culture.Cells``.
    separation_um : float
        Distance of the two halves' centres at ``furrow`` = 1.
    mass_pg : float
        Dry mass.
    time_s : float
        Moves organelles and ruffles the outline.
    """

    look_seed: int
    heading_rad: float
    radius_um: float
    roundness: float
    furrow: float
    separation_um: float
    mass_pg: float
    time_s: float


def texture_tile(seed: int) -> Image:
    """Make a periodic (256, 256) texture of sd 1 with granules of a few pixels; all cells cut theirs from it."""
    rng = np.random.default_rng([seed, 0x7E])
    frequency = np.hypot(np.fft.fftfreq(_NOISE_SIZE)[:, None], np.fft.fftfreq(_NOISE_SIZE)[None, :])
    band = np.exp(-((frequency / 0.22) ** 2)) * frequency / (frequency + 0.03)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_NOISE_SIZE, _NOISE_SIZE))) * band).real
    return (noise / noise.std()).astype(np.float32)


def render_cell(
    look: CellLook,
    offset_px: tuple[float, float],
    half_px: int,
    pixel_um: float,
    wavelength_um: float,
    texture: Image,
) -> Image:
    """Phase image of one cell on a square patch.

    Parameters
    ----------
    look : CellLook
        The cell.
    offset_px : tuple of float
        (y, x) of the cell's centre relative to the patch's central pixel.
    half_px : int
        The patch is (2 half_px + 1) pixels wide.
    pixel_um, wavelength_um : float
        Grid and wavelength.
    texture : NDArray[float32]
        From ``texture_tile``.

    Returns
    -------
    NDArray[float32]
        (2 half_px + 1, 2 half_px + 1) radians, 0 outside the cell.
    """
    axis = np.arange(-half_px, half_px + 1, dtype=np.float32)
    y = (axis - offset_px[0])[:, None] * np.float32(pixel_um)
    x = (axis - offset_px[1])[None, :] * np.float32(pixel_um)
    cos, sin = np.float32(np.cos(look.heading_rad)), np.float32(np.sin(look.heading_rad))
    along, across = cos * x + sin * y, cos * y - sin * x
    profile = np.zeros((len(axis), len(axis)), np.float32)
    if look.roundness < 1:
        flat = _flat(look, along, across, y, x, pixel_um)
        profile += (1 - look.roundness) * flat / max(float(flat.sum()), 1e-6)
    if look.roundness > 0:
        sphere = _rounded(look, along, across)
        profile += look.roundness * sphere / max(float(sphere.sum()), 1e-6)
    start = np.random.default_rng(look.look_seed).integers(0, _NOISE_SIZE, 2)
    rows = (start[0] + np.arange(len(axis))) % _NOISE_SIZE
    columns = (start[1] + np.arange(len(axis))) % _NOISE_SIZE
    profile *= np.clip(1 + 0.10 * texture[np.ix_(rows, columns)], 0.3, None)
    rad_um2 = 2 * np.pi / wavelength_um * REFRACTION_INCREMENT_UM3_PER_PG * look.mass_pg
    return profile * np.float32(rad_um2 / max(float(profile.sum()) * pixel_um**2, 1e-9))


def _soft_disc(distance: Image, width: float) -> Image:
    """1 inside (distance < 1), 0 outside, with an edge that pixels can resolve."""
    edge = np.clip((1 + width - distance) / (2 * width), 0, 1)
    return edge * edge * (3 - 2 * edge)


def _flat(look: CellLook, along: Image, across: Image, y: Image, x: Image, pixel_um: float) -> Image:
    rng = np.random.default_rng([look.look_seed, 1])
    hours = look.time_s / 3600
    # Plain floats: a numpy scalar would turn every image into float64.
    root = float(np.exp(rng.uniform(0.05, 0.55) / 2))
    along_flat, across_flat = along / root, across * root
    rho = np.hypot(along_flat, across_flat)
    # The outline is drawn over 720 directions and looked up, not computed for every pixel.
    angle = np.linspace(-np.pi, np.pi, _DIRECTIONS, endpoint=False)
    outline = np.ones_like(angle)
    for order in range(2, 7):
        phase = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.35) * hours
        outline += rng.normal(0, 0.16) / order**0.7 * np.cos(order * angle + phase)
    for _ in range(rng.integers(1, 5)):  # pointed processes, mostly along the long axis
        where = rng.choice([0.0, np.pi]) + rng.normal(0, 0.6) + 0.1 * np.sin(rng.uniform(0.2, 0.8) * hours)
        delta = (angle - where + np.pi) % (2 * np.pi) - np.pi
        outline += rng.uniform(0.1, 0.7) * np.exp(-((delta / rng.uniform(0.12, 0.3)) ** 2))
    outline = (look.radius_um * np.clip(outline, 0.35, 2.2)).astype(np.float32)
    direction = (np.arctan2(across_flat, along_flat) + np.float32(np.pi)) * np.float32(_DIRECTIONS / (2 * np.pi))
    d = rho / outline[direction.astype(np.int32) % _DIRECTIONS]
    edge = _soft_disc(d, max(0.06, pixel_um / look.radius_um))
    dome = np.exp(-((rho / (0.62 * look.radius_um)) ** 2))
    body = edge * (rng.uniform(0.25, 0.45) + dome * rng.uniform(0.5, 0.9))
    nucleus_um = rng.uniform(0.36, 0.46) * look.radius_um
    shift = [float(value) for value in rng.uniform(-0.16, 0.16, 2) * look.radius_um]
    squeeze = rng.uniform(1.0, 1.35)
    n = np.hypot((along - shift[0]) / squeeze, (across - shift[1]) * squeeze) / nucleus_um
    body += edge * rng.uniform(0.3, 0.55) * _soft_disc(n, 0.12) * np.sqrt(np.clip(1.1 - n * n * 0.6, 0, None))
    body += edge * _spots(rng, look, y, x, shift, nucleus_um)
    return body


def _spots(
    rng: np.random.Generator,
    look: CellLook,
    y: Image,
    x: Image,
    shift: list[float],
    nucleus_um: float,
) -> Image:
    """Nucleoli inside the nucleus and vesicles around it, as Gaussians (one matrix product for all)."""
    hours = look.time_s / 3600
    nucleoli, vesicles = int(rng.integers(1, 5)), int(rng.integers(12, 46))
    count = nucleoli + vesicles
    inner = np.arange(count) < nucleoli
    r = np.where(inner, rng.uniform(0, 0.6, count), rng.uniform(1.1, 2.1, count)) * nucleus_um
    turn = np.where(inner, 0.15, rng.normal(0, 0.5, count)) * hours
    angle = rng.uniform(0, 2 * np.pi, count) + turn
    sigma = np.where(inner, rng.uniform(0.8, 1.5, count), rng.uniform(0.45, 0.9, count))
    height = np.where(inner, rng.uniform(0.15, 0.4, count), rng.uniform(0.05, 0.35, count))
    r = r + np.where(inner, 0, 0.8 * np.sin(rng.uniform(0.5, 3, count) * hours + angle))
    cos, sin = np.cos(look.heading_rad), np.sin(look.heading_rad)
    cy = sin * shift[0] + cos * shift[1] + r * np.sin(angle)
    cx = cos * shift[0] - sin * shift[1] + r * np.cos(angle)
    gy = np.exp(-((y[:, 0][None] - cy[:, None]) ** 2) / (2 * sigma[:, None] ** 2))
    gx = np.exp(-((x[0][None] - cx[:, None]) ** 2) / (2 * sigma[:, None] ** 2))
    return ((gy * height[:, None]).T @ gx).astype(np.float32)


def _rounded(look: CellLook, along: Image, across: Image) -> Image:
    """A sphere with its chromosome plate; with the furrow two spheres of half the volume that part."""
    volume_radius = look.radius_um
    half_radius = volume_radius * (1 - (1 - 0.5 ** (1 / 3)) * look.furrow)
    gap = look.separation_um / 2 * look.furrow
    image = np.zeros(np.broadcast_shapes(along.shape, across.shape), np.float32)
    for side in (-1, 1):
        d2 = ((along - side * gap) ** 2 + across**2) / half_radius**2
        # A power under 1/2 softens the limb to what pixels can resolve.
        image = np.maximum(image, np.sqrt(np.clip(1 - d2, 0, None)).astype(np.float32))
        plate = np.exp(-(((along - side * gap * 1.1) / 1.4) ** 2) - (across / (0.55 * half_radius)) ** 4)
        image = image + np.float32(0.12) * plate * (d2 < 1)
    return image
