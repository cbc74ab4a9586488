"""The engine of the worker: one frame of counts in, one finite phase out."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.errors import InferenceError, ModelError
from livephase.inference.runtimes import DeviceMemoryError, Runtime, open_runtime
from livephase.phase.conditions import Conditions
from livephase.phase.consistency import compare, judge
from livephase.phase.preprocess import prepare
from livephase.phase.propagation import ImagingOptics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.frames import Misfit
    from livephase.inference.protocol import RuntimeName, WorkerSettings
    from livephase.phase.modelfile import ModelCard
    from livephase.phase.preprocess import Prepared

_COHERENCES = 4
"""Where S is not known, so many values of the model's range are tried."""


class PhaseEngine:
    """Preprocessing, network and check of its output.

    Parameters
    ----------
    settings : WorkerSettings
        Model, runtime, optics and threads.

    Attributes
    ----------
    runtime : Runtime
        What computes at present.

    Raises
    ------
    ModelError
        The file is not a usable model, or not the one that the service knows.
    InferenceError
        The runtime is not available on this machine.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self.runtime: Runtime
        self.runtime, self.card = self._open(settings.runtime)

    def compute(
        self, pixels: NDArray[Any], defocus_um: float, bit_depth: int, out: NDArray[np.float32]
    ) -> tuple[float, Misfit | None]:
        """Compute one phase.

        Parameters
        ----------
        pixels : NDArray[uint8 or uint16]
            Counts (Y, X).
        defocus_um : float
            Defocus of the frame.
        bit_depth : int
            Bits of the camera.
        out : NDArray[float32]
            Receives the phase (scale Y, scale X) in rad; NaN outside a field stop. Untouched on an error.

        Returns
        -------
        float
            Wall time of preprocessing and network in ms.
        Misfit or None
            Whether the phase explains the frame; None without a calibration, or with nothing to judge.

        Raises
        ------
        InferenceError
            The frame cannot be used, or the network's output is not finite.
        """
        began = time.perf_counter()
        if not math.isfinite(defocus_um):
            msg = f"the defocus is {defocus_um} um; a phase needs a finite one"
            raise InferenceError(msg)
        settings = self._settings
        if settings.reference_bits not in (None, bit_depth):
            msg = (
                f"the frame has {bit_depth} bits, dark frame and flat field have {settings.reference_bits}; "
                "measure new ones, or set the camera back"
            )
            raise InferenceError(msg)
        prepared = prepare(
            pixels,
            bit_depth=bit_depth,
            stride=self.runtime.stride,
            flat_field=settings.flat_field,
            dark=settings.dark,
        )
        conditions = Conditions(defocus_um, settings.wavelength_um, settings.lr_pixel_um, settings.coherence)
        phase = self._run(prepared.intensity, conditions.vector())
        if not np.isfinite(phase).all():
            msg = (
                f"model {self.card.name} gave values that are not finite for defocus {defocus_um:g} um "
                f"on {self.runtime.name}; the frame has no phase"
            )
            raise InferenceError(msg)
        prepared.crop(phase, self.card.scale, out)
        inference_ms = (time.perf_counter() - began) * 1e3
        return inference_ms, self._misfit(prepared, phase, defocus_um)

    def _misfit(self, prepared: Prepared, phase: NDArray[np.float32], defocus_um: float) -> Misfit | None:
        settings, calibration = self._settings, self.card.misfit
        if calibration is None:
            return None
        lowest, highest = self.card.valid.coherence
        known = settings.coherence
        candidates = np.linspace(lowest, highest, _COHERENCES).tolist() if known is None else [known]
        misfits: list[Misfit] = []
        for coherence in candidates:
            optics = ImagingOptics(
                defocus_um,
                settings.wavelength_um,
                settings.lr_pixel_um,
                coherence,
                settings.objective_na or calibration.objective_na,
            )
            comparison = compare(prepared, phase, optics, settings.threads)
            if comparison is not None:
                misfits.append(judge(comparison, optics, calibration))
        return min(misfits, key=lambda misfit: misfit.value, default=None)

    def _run(self, intensity: NDArray[np.float32], conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return self.runtime.run(intensity, conditions)
        except DeviceMemoryError:
            if self._settings.runtime != "auto":
                raise
            # The GPU is shared with other programs; a slower phase is better than none.
            self.runtime, self.card = self._open("openvino")
            return self.runtime.run(intensity, conditions)

    def _open(self, name: RuntimeName) -> tuple[Runtime, ModelCard]:
        settings = self._settings
        runtime, card = open_runtime(name, settings.model_path, settings.threads)
        if card.sha256 != settings.model_sha256:
            # The service checks ranges and writes provenance by the card that it has read.
            msg = f"model file {settings.model_path} changed while the service was running; restart the service"
            raise ModelError(msg)
        return runtime, card
