"""Phase from two planes, or from an axial derivative, by the transport of intensity equation (paper eq. 3).

-k dI/dz = div(I grad phase), with three solvers:

- ``universal`` (default): makes no assumption on intensity or aperture (Zhang et al. 2020);
- ``dct-iterative``: Teague's auxiliary function on a field mirrored at its edges, error compensated (Zuo et al. 2014);
- ``fft``: the same on a periodic field in one step (Paganin and Nugent 1998), which a field that does not repeat
  disturbs at its edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from livephase.phase import tie_solvers

if TYPE_CHECKING:
    from numpy.typing import NDArray

Solver = Literal["fft", "dct-iterative", "universal"]

DEFAULT_SOLVER: Solver = "universal"

REGULARISATION_PERIOD_UM = 200.0
"""Periods longer than this are damped: there the derivative carries noise and illumination drift, not phase."""

_SOLVERS = {
    "fft": tie_solvers.solve_fft,
    "dct-iterative": tie_solvers.solve_dct_iterative,
    "universal": tie_solvers.solve_universal,
}
_BORDERS = {"fft": "periodic", "dct-iterative": "mirrored", "universal": "mirrored"}


def solve_tie(
    in_focus: NDArray[Any],
    defocused: NDArray[Any],
    dz_um: float,
    pixel_um: float,
    wavelength_um: float,
    *,
    solver: Solver = DEFAULT_SOLVER,
    regularisation_period_um: float = REGULARISATION_PERIOD_UM,
) -> NDArray[np.float32]:
    """Phase of a pair of planes.

    A field stop in view is welcome: light that crosses it is part of the derivative, which gives the solution its
    border values (Zuo et al. 2014). Crop the result, not the planes.

    The difference quotient is the derivative half-way between the planes, so it is paired with the mean of both
    intensities: the error falls from first to second order in ``dz_um``, and the phase is that of the middle plane.

    Parameters
    ----------
    in_focus, defocused : ndarray
        (Y, X) intensity, any common unit, at z = 0 and z = ``dz_um``. The lamp may have drifted between them: their
        total light is taken as equal.
    dz_um : float
        Distance of the planes in um; positive = the lens focuses above the specimen.
    pixel_um, wavelength_um : float
        Pixel at the specimen and wavelength in um.
    solver : {"universal", "dct-iterative", "fft"}
        See the module.
    regularisation_period_um : float
        Longer periods are damped, by half at this one. It should be several times the largest structure.

    Returns
    -------
    NDArray[float32]
        (Y, X) phase in radians with mean 0. Behind a field stop it means nothing.

    Raises
    ------
    ValueError
        The shapes differ, a plane has no light or is not finite, the defocused plane is constant, ``dz_um`` is 0, or as
        ``solve_derivative``.
    """
    if in_focus.shape != defocused.shape:
        msg = f"the planes differ in shape: {in_focus.shape} and {defocused.shape}"
        raise ValueError(msg)
    if not np.isfinite(dz_um) or dz_um == 0:
        msg = f"dz_um is {dz_um:g}: the two planes must lie at different depths"
        raise ValueError(msg)
    first, second = np.asarray(in_focus, np.float64), np.asarray(defocused, np.float64)
    for name, plane in (("in-focus", first), ("defocused", second)):
        _check_image(name, plane)
        if plane.mean() <= 0:
            msg = f"the {name} plane has no light"
            raise ValueError(msg)
    # In focus a pure phase object is invisible, so only the other plane must show something.
    if np.ptp(second) == 0:
        msg = f"the defocused plane is constant ({second[0, 0]:g}): it shows no specimen"
        raise ValueError(msg)
    # Drift of the lamp between the planes would be read as a lens over the whole field.
    second = second * (first.mean() / second.mean())
    return solve_derivative(
        (second - first) / dz_um,
        (first + second) / 2,
        pixel_um,
        wavelength_um,
        solver=solver,
        regularisation_period_um=regularisation_period_um,
    )


def solve_derivative(
    derivative_per_um: NDArray[Any],
    intensity: NDArray[Any],
    pixel_um: float,
    wavelength_um: float,
    *,
    solver: Solver = DEFAULT_SOLVER,
    regularisation_period_um: float = REGULARISATION_PERIOD_UM,
) -> NDArray[np.float32]:
    """Phase of an axial derivative, e.g. of ``axial.fit_axial_derivative``.

    Parameters
    ----------
    derivative_per_um : ndarray
        (Y, X) dI/dz, intensity per um; z as in ``solve_tie``.
    intensity : ndarray
        (Y, X) intensity in the plane of the derivative.
    pixel_um, wavelength_um, solver, regularisation_period_um
        As for ``solve_tie``.

    Returns
    -------
    NDArray[float32]
        (Y, X) phase in radians with mean 0 in the plane of the derivative.

    Raises
    ------
    ValueError
        The shapes differ, an image is not finite, the intensity has no light, a length is not positive, or no solver
        has that name.
    """
    if solver not in get_args(Solver):
        msg = f"no solver is called {solver!r}; there are {', '.join(get_args(Solver))}"
        raise ValueError(msg)
    lengths = (
        ("pixel_um", pixel_um),
        ("wavelength_um", wavelength_um),
        ("regularisation_period_um", regularisation_period_um),
    )
    for name, length in lengths:
        if not np.isfinite(length) or length <= 0:
            msg = f"{name} is {length:g}: it must be positive"
            raise ValueError(msg)
    if derivative_per_um.shape != intensity.shape:
        msg = f"the derivative and the intensity differ in shape: {derivative_per_um.shape} and {intensity.shape}"
        raise ValueError(msg)
    change, light = np.asarray(derivative_per_um, np.float64), np.asarray(intensity, np.float64)
    _check_image("derivative", change)
    _check_image("intensity", light)
    if light.mean() <= 0:
        msg = "the intensity has no light"
        raise ValueError(msg)
    source = 2 * np.pi / wavelength_um * change
    return _SOLVERS[solver](source, light, pixel_um, regularisation_period_um).astype(np.float32)


def describe(
    solver: Solver = DEFAULT_SOLVER, regularisation_period_um: float = REGULARISATION_PERIOD_UM
) -> dict[str, str | float]:
    """Record of how a phase was solved, for provenance: solver, border, regularisation and its period in um."""
    return {
        "solver": solver,
        "border": _BORDERS[solver],
        "regularisation": "k2 / (k2^2 + k0^4), k0 = 2 pi / regularisation_period_um",
        "regularisation_period_um": regularisation_period_um,
    }


def _check_image(name: str, image: NDArray[np.float64]) -> None:
    if image.ndim != 2 or min(image.shape) < 2:
        msg = f"the {name} image is {image.shape}: one image (Y, X) of at least 2 x 2 pixels is needed"
        raise ValueError(msg)
    if not np.isfinite(image).all():
        msg = f"the {name} image has {int((~np.isfinite(image)).sum())} pixels that are not finite; crop or fill them"
        raise ValueError(msg)
