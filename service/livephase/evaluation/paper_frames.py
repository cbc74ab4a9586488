"""The test frames of the suite ``paper``: fields and patches of the paper's datasets, at either noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from livephase.evaluation.dry_mass import renumber, segment_cells
from livephase.training.paper_fields import MeasuredPhase, phase_field
from livephase.training.paper_sets import PAPER_COUNTS, Counts, PaperSet
from livephase.training.paper_specs import COHERENCE_SETS, DEFOCUS_SETS, HR_PIXEL_UM, NOISE_SD, SCALE, SetSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase.training.paper_fields import Source
    from livephase_devices.optics import OpticalSetup

    Floats = NDArray[np.float32]

Noise = Literal["paper", "frame"]
"""``paper``: noise of that sd before the 4 x 4 binning, a quarter of it on the frame. ``frame``: on the frame."""

NOISE_TEXT: dict[Noise, str] = {
    "paper": "noise as in the paper: sd 0.01 before the binning, 0.0025 on the camera frame",
    "frame": "four times harder: noise sd 0.01 on the binned camera frame",
}
Z6 = DEFOCUS_SETS[5]
IN_FOCUS = SetSpec("z = 0 um", 0.0)
"""The second plane of the two-plane methods."""


def frame_noise_sd(noise: Noise, sd: float = NOISE_SD) -> float:
    """Noise sd of the camera frame."""
    return sd / SCALE if noise == "paper" else sd


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame with its truth.

    Attributes
    ----------
    intensity : NDArray[float32]
        (Y, X) relative intensity.
    phase_rad : NDArray[float32]
        (4Y, 4X).
    labels : NDArray[int32]
        (4Y, 4X) cells.
    defocus_um : float
    setup : OpticalSetup
    noise_sd : float
        Of the frame.
    """

    intensity: Floats
    phase_rad: Floats
    labels: NDArray[np.int32]
    defocus_um: float
    setup: OpticalSetup
    noise_sd: float


@dataclass
class PaperFrames:
    """Gives the test frames of one source of phase.

    Attributes
    ----------
    source : Source
        Its test split is used.
    cache : Path
        Folder of the fields and frames.
    counts : Counts
        Number of test patches.
    """

    source: Source
    cache: Path
    counts: Counts = PAPER_COUNTS
    _labels: dict[int, NDArray[np.int32]] = field(default_factory=dict[int, "NDArray[np.int32]"])

    @property
    def fields(self) -> int:
        """Number of test fields."""
        return self.source.count("test")

    def build(self, spec: SetSpec) -> None:
        """Make the test frames of a set, so that later calls only read."""
        for index in range(self.fields):
            self._set(spec).test_field(index)

    def labels(self, index: int) -> NDArray[np.int32]:
        """Whole cells of a test field: segmented by its true phase, or as the data have them."""
        if index not in self._labels:
            if isinstance(self.source, MeasuredPhase):
                self._labels[index] = self._measured_labels(self.source, index)
            else:
                phase = self._set(Z6).test_field(index)[1]
                self._labels[index] = segment_cells(phase, HR_PIXEL_UM, Z6.setup.wavelength_um)
        return self._labels[index]

    def _measured_labels(self, source: MeasuredPhase, index: int) -> NDArray[np.int32]:
        with np.load(source.files("test")[index], allow_pickle=False) as archive:
            whole = archive["labels"].astype(np.int32)
        field = phase_field(source, "test", index, self.cache)
        rows, columns = field.inner.shape
        m = field.margin_px
        cut = whole[m : m + rows, m : m + columns]
        sizes = np.bincount(whole.ravel(), minlength=int(whole.max()) + 1)
        kept = (np.bincount(cut.ravel(), minlength=len(sizes)) == sizes) & (sizes > 0)
        edge = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
        kept[edge] = False
        return renumber(cut, kept[1:])

    def field(self, spec: SetSpec, index: int, noise: Noise = "paper", sd: float = NOISE_SD) -> Frame:
        """Return a whole test field.

        Parameters
        ----------
        spec : SetSpec
            The set, with the paper's noise.
        index : int
            Which field.
        noise, sd
            The frame's noise: where it is added, and its standard deviation there.
        """
        intensity, phase = self._set(spec).test_field(index)
        noisy = _raise_noise(intensity, spec, frame_noise_sd(noise, sd), index)
        return Frame(noisy, phase, self.labels(index), spec.defocus_um, spec.setup, frame_noise_sd(noise, sd))

    def patches(
        self, spec: SetSpec, noise: Noise = "paper", sd: float = NOISE_SD
    ) -> tuple[Floats, NDArray[np.float16]]:
        """Return the test patches, intensity (N, 64, 64) and phase (N, 256, 256).

        Each is cut from a frame that was divided by its mean, as a frame of the service is.
        """
        one = self._set(spec)
        means = np.array([one.test_field(index)[0].mean() for index in range(self.fields)], np.float32)
        patches = one.cut("test")
        noisy = _raise_noise(patches.intensity, spec, frame_noise_sd(noise, sd), self.fields)
        return np.asarray(noisy / means[patches.field][:, None, None], np.float32), patches.phase_rad

    def _set(self, spec: SetSpec) -> PaperSet:
        return PaperSet(spec, self.source, self.cache, self.counts)


def _raise_noise(intensity: Floats, spec: SetSpec, noise_sd: float, salt: int) -> Floats:
    """Add what is missing from the paper's noise to another: independent Gaussian noises add in variance."""
    have = frame_noise_sd("paper", spec.noise_sd)
    if noise_sd <= have:
        return intensity
    digest = hashlib.sha256(f"{spec.digest} {noise_sd:g} {salt}".encode()).hexdigest()
    rng = np.random.default_rng(int(digest, 16))
    extra = np.float32(np.sqrt(noise_sd**2 - have**2))
    return np.asarray(intensity + extra * rng.standard_normal(intensity.shape, dtype=np.float32), np.float32)


def paper_specs() -> list[SetSpec]:
    """List the sets that the suite needs: the paper's, and the in-focus plane."""
    return [IN_FOCUS, *DEFOCUS_SETS, *COHERENCE_SETS[1:]]
