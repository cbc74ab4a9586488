"""The service's side of inference: frames in, futures of phases out. Neither torch nor OpenVINO is imported."""

from __future__ import annotations

import atexit
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, Self

from livephase.errors import InferenceError
from livephase.inference.interrupts import interrupts_held
from livephase.inference.process import Timeouts
from livephase.inference.protocol import WorkerSettings
from livephase.inference.supervisor import Job, Supervisor
from livephase.phase.modelfile import read_card

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from livephase.frames import PhaseResult
    from livephase.inference.protocol import RuntimeName
    from livephase.inference.status import InferenceStatus


class InferenceClient:
    """Computes phases in a supervised worker process; every method may be called from any thread.

    A worker that ends takes every accepted frame with it: their futures fail at once with ``WorkerDiedError``.
    The caller keeps the raw frames and may submit them again; nothing is retried here.

    Parameters
    ----------
    model_path : Path
        A livephase safetensors file.
    runtime : str
        ``"auto"``, ``"openvino"``, ``"torch-cpu"`` or ``"torch-cuda"``.
    lr_pixel_um, wavelength_um : float
        Camera pixel at the specimen and wavelength.
    coherence : float or None
        S = NA_condenser / NA_objective; where it is not known, a frame is judged by the S that explains it best.
    objective_na : float, optional
        Numerical aperture of the objective; that of the model's calibration where it is not known.
    flat_field : "none", "auto" or NDArray[float32]
        As in ``phase.preprocess.prepare``. An estimated one costs nothing in even light (RMSE 0.046 rad with and
        without it); without any, light that varies by 20 % over the field gave an RMSE of 1.8 rad.
    dark : NDArray[float32], optional
        As in ``phase.preprocess.prepare``.
    reference_bits : int, optional
        Bit depth at which dark frame and flat field were taken; frames of another one have no phase.
    threads : int, optional
        CPU threads of the worker; all of the machine by default.
    timeouts : Timeouts, optional
        When a silent worker is killed.

    Attributes
    ----------
    card : ModelCard
        The model's card.

    Raises
    ------
    ModelError
        The file is not a usable model.
    """

    def __init__(
        self,
        model_path: Path,
        runtime: RuntimeName = "auto",
        *,
        lr_pixel_um: float,
        wavelength_um: float,
        coherence: float | None = None,
        objective_na: float | None = None,
        flat_field: Literal["none", "auto"] | NDArray[np.float32] = "auto",
        dark: NDArray[np.float32] | None = None,
        reference_bits: int | None = None,
        threads: int | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.card = read_card(model_path)
        self.lr_pixel_um = lr_pixel_um
        self.wavelength_um = wavelength_um
        settings = WorkerSettings(
            model_path=model_path,
            model_sha256=self.card.sha256,
            runtime=runtime,
            lr_pixel_um=lr_pixel_um,
            wavelength_um=wavelength_um,
            coherence=coherence,
            objective_na=objective_na,
            flat_field=flat_field,
            threads=threads or os.cpu_count() or 1,
            dark=dark,
            reference_bits=reference_bits,
        )
        self._supervisor = Supervisor(settings, timeouts or Timeouts(), self.card.scale)

    def __enter__(self) -> Self:
        try:
            self.start()
        except KeyboardInterrupt:
            # The block is not entered, so that its end will not close either.
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the worker and return at once; frames may be submitted before it is ready.

        Raises
        ------
        InferenceError
            The client was started before; make a new one.
        """
        with interrupts_held():
            self._supervisor.start()
            atexit.register(self.close)

    def close(self) -> None:
        """End the worker and free the shared memory; frames that are not done fail. May be called again."""
        self._supervisor.close()
        atexit.unregister(self.close)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the model is loaded.

        Raises
        ------
        InferenceError
            A worker could not start (the message says why), the client was closed, or the time is over.
        """
        self._supervisor.wait_ready(timeout_s)

    def submit(
        self, pixels: NDArray[np.uint8] | NDArray[np.uint16], defocus_um: float, *, bit_depth: int
    ) -> Future[PhaseResult]:
        """Ask for the phase of a frame.

        Parameters
        ----------
        pixels : NDArray[uint8 or uint16]
            Counts (Y, X); not copied, and not to be changed until the future is done.
        defocus_um : float
            Defocus of the frame.
        bit_depth : int
            Bits of the camera.

        Returns
        -------
        Future[PhaseResult]
            Fails with ``WorkerDiedError`` when the worker ends before it has answered, and with
            ``InferenceError`` when the frame cannot be computed. Its callbacks run in the supervisor thread.
        """
        if pixels.ndim != 2 or pixels.dtype.name not in ("uint8", "uint16"):
            rejected: Future[PhaseResult] = Future()
            kind = f"{pixels.ndim}-D {pixels.dtype}"
            rejected.set_exception(InferenceError(f"a frame is 2-D uint8 or uint16; this one is {kind}"))
            return rejected
        job = Job(pixels, defocus_um, bit_depth)
        self._supervisor.submit(job)
        return job.future

    def status(self) -> InferenceStatus:
        """Describe the present state."""
        return self._supervisor.status()

    def range_problems(self, defocus_um: float | None, coherence: float | None = None) -> list[str]:
        """Say what lies outside the model's valid range; see ``ModelCard.range_problems``."""
        return self.card.range_problems(
            defocus_um=defocus_um,
            lr_pixel_um=self.lr_pixel_um,
            wavelength_um=self.wavelength_um,
            coherence=coherence,
        )
