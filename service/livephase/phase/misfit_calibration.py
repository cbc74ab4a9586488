"""What is usual for a model: the features of matched frames, and the distance of a frame from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from livephase.phase.consistency import Comparison
    from livephase.phase.propagation import ImagingOptics

FALSE_ALARMS = 0.01
"""Share of matched frames above the threshold."""

_RIDGE = 1e-2
_SHRINKAGE = 0.05
"""Of the covariance towards its diagonal: a hundred frames do not fix twelve dimensions."""

_LEAST_DEFOCUS_NUMBER = 0.01

Row = tuple[float, ...]


def covariates(comparison: Comparison, optics: ImagingOptics) -> NDArray[np.float64]:
    """What the features of matched frames depend on: (1, ln |defocus number|, S, ln noise)."""
    number = max(abs(optics.defocus_number), _LEAST_DEFOCUS_NUMBER)
    return np.array([1.0, np.log(number), optics.coherence, np.log(comparison.noise_sd)])


class MisfitCalibration(BaseModel):
    """The features of matched frames of one model; part of its card.

    A feature's expected value is linear in the covariates (``covariates``), and what is left has one
    covariance. The misfit is the Mahalanobis distance over that of the median matched frame.

    Attributes
    ----------
    model_error : tuple of float
        (BANDS,) power of the residual over power of the predicted contrast where noise has no part.
    expected : tuple of tuple of float
        (features, covariates) coefficients.
    precision : tuple of tuple of float
        (features, features) inverse covariance, in units that make the median misfit of matched frames 1.
    lowest, highest : tuple of float
        (covariates,) of the matched frames; a frame outside is judged as one at the limit.
    threshold : float
        Misfit that 1 % of matched frames exceed, each judged without the frames of its own specimen.
    objective_na : float
        Of the matched frames; what a recording that states none is judged with.
    frames : int
        Matched frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model_error: Row
    expected: tuple[Row, ...]
    precision: tuple[Row, ...]
    lowest: Row
    highest: Row
    threshold: float
    objective_na: float
    frames: int

    def distance(self, features: NDArray[np.float64], covariates: NDArray[np.float64]) -> float:
        """Return the misfit of a frame's features (``Comparison.features``)."""
        known = np.clip(covariates, self.lowest, self.highest)
        difference = features - np.asarray(self.expected) @ known
        return float(np.sqrt(difference @ np.asarray(self.precision) @ difference))

    @classmethod
    def fit(cls, comparisons: Sequence[Comparison], optics: Sequence[ImagingOptics], specimens: Sequence[int]) -> Self:
        """Fit a calibration to matched frames.

        Parameters
        ----------
        comparisons : sequence of Comparison
            Of matched frames.
        optics : sequence of ImagingOptics
            With which each was made.
        specimens : sequence of int
            Which specimen each shows; at least three.

        Raises
        ------
        ValueError
            There are fewer than three specimens.
        """
        shown = np.asarray(specimens)
        if len(set(specimens)) < 3:
            msg = "a misfit calibration needs matched frames of at least three specimens"
            raise ValueError(msg)
        known = np.stack([covariates(*pair) for pair in zip(comparisons, optics, strict=True)])
        objective_na = float(np.median([one.objective_na for one in optics]))
        held_out = np.zeros(len(comparisons))
        for specimen in sorted(set(specimens)):
            others = [c for c, of in zip(comparisons, specimens, strict=True) if of != specimen]
            fitted = cls._fit(others, known[shown != specimen], objective_na)
            for index in np.flatnonzero(shown == specimen).tolist():
                features = comparisons[index].features(np.asarray(fitted.model_error))
                held_out[index] = fitted.distance(features, known[index])
        usual = float(np.median(held_out))
        fitted = cls._fit(comparisons, known, objective_na)
        precision = tuple(tuple(value / usual**2 for value in row) for row in fitted.precision)
        threshold = float(np.quantile(held_out, 1 - FALSE_ALARMS)) / usual
        return fitted.model_copy(update={"precision": precision, "threshold": threshold})

    @classmethod
    def _fit(cls, comparisons: Sequence[Comparison], known: NDArray[np.float64], objective_na: float) -> Self:
        excess = [np.maximum(c.residual - c.noise_sd**2, 0) / np.maximum(c.predicted, 1e-12) for c in comparisons]
        model_error = np.median(excess, axis=0)
        features = np.stack([c.features(model_error) for c in comparisons])
        ridge = _RIDGE * np.eye(known.shape[1])
        coefficients = np.linalg.solve(known.T @ known + ridge, known.T @ features)
        left = features - known @ coefficients
        covariance = left.T @ left / len(left)
        covariance += _SHRINKAGE * np.diag(np.diag(covariance)) + 1e-9 * np.eye(len(covariance))
        return cls(
            model_error=_row(model_error),
            expected=tuple(_row(row) for row in coefficients.T),
            precision=tuple(_row(row) for row in np.linalg.inv(covariance)),
            lowest=_row(known.min(axis=0)),
            highest=_row(known.max(axis=0)),
            threshold=np.inf,
            objective_na=objective_na,
            frames=len(comparisons),
        )


def _row(values: NDArray[np.float64]) -> Row:
    return tuple(float(value) for value in values)
