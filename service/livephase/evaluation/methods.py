"""Every method on one frame: classical ones, the comparison networks and the shipped ones, in the order of figure 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from livephase.evaluation import classical
from livephase.evaluation.paper_frames import IN_FOCUS, Z6, Frame, Noise, PaperFrames

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from livephase.evaluation.models import Model, Shelf
    from livephase.phase.tie import Solver

ORACLE = "oracle: truth binned, then bicubic"
LINEAR = "linear inversion"


@dataclass(frozen=True, slots=True)
class Result:
    """Phase of one frame by one method.

    Attributes
    ----------
    method : str
        Its name in tables and figures.
    frames : str
        Which frames it needs.
    phase_rad : NDArray[float32]
        (4Y, 4X).
    """

    method: str
    frames: str
    phase_rad: NDArray[np.float32]


def single_shot(frame: Frame, models: list[Model]) -> Iterator[Result]:
    """Give the oracle, the linear inversion and networks on one frame."""
    yield Result(ORACLE, "the truth", classical.oracle(frame.phase_rad))
    linear = classical.linear(frame.intensity, frame.phase_rad, frame.setup, frame.defocus_um, frame.noise_sd)
    yield Result(LINEAR, "1", linear)
    for model in models:
        told = model.told(frame.defocus_um, frame.setup)
        yield Result(model.label, "1", model.field(frame.intensity, told))


def at_z6(frames: PaperFrames, index: int, noise: Noise, shelf: Shelf) -> Iterator[Result]:
    """Give all methods on a test field at z = 6 um; TIE gets the in-focus frame as its second plane."""
    frame, focused = frames.field(Z6, index, noise), frames.field(IN_FOCUS, index, noise)
    solvers: tuple[tuple[str, Solver], ...] = (("FFT-TIE", "fft"), ("iterative DCT-TIE", "dct-iterative"))
    for label, solver in solvers:
        phase = classical.two_plane_tie(
            focused.intensity, frame.intensity, frame.phase_rad, frame.setup, frame.defocus_um, solver
        )
        yield Result(label, "2", phase)
    yield from single_shot(frame, z6_models(shelf))


def z6_models(shelf: Shelf) -> list[Model]:
    """List the networks that are judged at z = 6 um, the shipped one last."""
    names = ("srcnn-z6", "unet-16-z6", "fixed-z6")
    fast = [shelf.named["fast"]] if "fast" in shelf.named else []
    return [shelf.comparison[name] for name in names if name in shelf.comparison] + fast + [shelf.shipped]
