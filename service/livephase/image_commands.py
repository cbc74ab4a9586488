"""Commands on single images: the forward model (``simulate``) and two-plane phase (``tie``)."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Wavelength = Annotated[float, typer.Option(min=0.1, max=2.0, help="Wavelength, um.")]


def simulate(
    phase: Annotated[Path, typer.Argument(help="Phase in rad, (Y, X), .npy or .tif.")],
    out: Annotated[Path, typer.Argument(help="Intensity, mean about 1, .npy or .tif.")],
    defocus_um: Annotated[float, typer.Option(help="Distance of the lens focus above the specimen, um.")],
    coherence: Annotated[float, typer.Option(min=0, max=1.5, help="S = NA_condenser / NA_objective.")] = 0.3,
    binning: Annotated[int, typer.Option(min=1, max=16, help="HR pixels per camera pixel along an axis.")] = 4,
    noise_sd: Annotated[float, typer.Option(min=0, help="Gaussian noise of a camera pixel.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    pixel_um: Annotated[float, typer.Option(min=0.001, help="Pixel of the phase image at the specimen, um.")] = 0.65,
    wavelength_um: _Wavelength = 0.55,
    objective_na: Annotated[float, typer.Option(min=0.01, max=1.6, help="Aperture of the objective.")] = 0.4,
    kappa_per_rad: Annotated[float, typer.Option(help="Amplitude falls as exp(-kappa x phase).")] = 0.0,
) -> None:
    """Simulate the camera image of a phase object."""
    import numpy as np

    from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

    image = _read(phase)
    if any(side % binning for side in image.shape):
        raise ConfigurationError(f"{phase}: {image.shape} is not a multiple of --binning {binning}; crop it first")
    setup = OpticalSetup(wavelength_um, objective_na, coherence, pixel_um, binning)
    try:
        frame = bin_pixels(intensity(image, setup, defocus_um, kappa_per_rad), binning)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    noise = np.random.default_rng(seed).normal(0.0, noise_sd, frame.shape)
    _write(out, (frame + noise).astype(np.float32))


def tie(
    in_focus: Annotated[Path, typer.Argument(metavar="I0", help="Image in focus, .npy or .tif.")],
    defocused: Annotated[Path, typer.Argument(metavar="IZ", help="Image at a defocus, .npy or .tif.")],
    out: Annotated[Path, typer.Argument(help="Phase in rad, .npy or .tif.")],
    dz_um: Annotated[float, typer.Option(help="Defocus of IZ, um.")],
    pixel_um: Annotated[float, typer.Option(min=0.001, help="Pixel at the specimen, um.")],
    wavelength_um: _Wavelength,
    solver: Annotated[
        Literal["universal", "dct-iterative", "fft"],
        typer.Option(help="universal: any aperture; dct-iterative: light everywhere; fft: periodic field."),
    ] = "universal",
) -> None:
    """Compute phase from two planes by the transport of intensity equation."""
    from livephase.phase.tie import describe, solve_tie

    first, second = _read(in_focus), _read(defocused)
    try:
        phase_rad = solve_tie(first, second, dz_um, pixel_um, wavelength_um, solver=solver)
    except ValueError as error:
        raise ConfigurationError(f"{in_focus}, {defocused}: {error}") from error
    optics = {"unit": "rad", "dz_um": dz_um, "pixel_um": pixel_um, "wavelength_um": wavelength_um}
    _write(out, phase_rad, {**optics, **describe(solver)})


def _read(path: Path) -> NDArray[np.float32]:
    """Read an image (Y, X) as float32."""
    import numpy as np
    import tifffile

    try:
        image: NDArray[Any] = np.load(path, allow_pickle=False) if path.suffix == ".npy" else tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise ConfigurationError(f"{path} cannot be read as an image ({error}); give a .npy or .tif file") from error
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise ConfigurationError(f"{path}: one grey image (Y, X) is needed, this is {image.shape} {image.dtype}")
    return image.astype(np.float32)


def _write(path: Path, image: NDArray[np.float32], record: dict[str, str | float] | None = None) -> None:
    """Write an image (Y, X); a TIFF's description holds the record as JSON."""
    import numpy as np
    import tifffile

    if path.suffix not in (".npy", ".tif", ".tiff"):
        raise ConfigurationError(f"{path}: the name must end in .npy or .tif")
    try:
        if path.suffix == ".npy":
            np.save(path, image)
        else:
            tifffile.imwrite(path, image, metadata=record or {})
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror})") from error
