"""Figures of merit of a phase image against its truth, all of a table's columns at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.evaluation.dry_mass import mass_bias_percent
from livephase.evaluation.environment import usable_cores
from livephase.training.metrics import nrmse_by_period, psnr_db, rmse_rad, ssim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BAND_NAMES = ("> 40", "40-20", "20-10", "10-5.2", "< 5.2")
"""Names of ``metrics.PERIOD_BANDS_UM``, um."""


@dataclass(frozen=True, slots=True)
class Merit:
    """Figures of one phase image.

    Attributes
    ----------
    ssim, psnr_db, rmse_rad : float
        See ``training.metrics``.
    nrmse : list of float
        One for each of ``BAND_NAMES``.
    mass_bias_percent : list of float
        One for each cell.
    """

    ssim: float
    psnr_db: float
    rmse_rad: float
    nrmse: list[float]
    mass_bias_percent: list[float]


def judge(
    estimate_rad: NDArray[np.float32], truth_rad: NDArray[np.float32], labels: NDArray[np.int32], pixel_um: float
) -> Merit:
    """Judge one phase image; see ``Merit``."""
    return Merit(
        ssim(estimate_rad, truth_rad),
        psnr_db(estimate_rad, truth_rad),
        rmse_rad(estimate_rad, truth_rad),
        nrmse_by_period(estimate_rad, truth_rad, pixel_um),
        mass_bias_percent(estimate_rad, truth_rad, labels).tolist(),
    )


def summarise(merits: Sequence[Merit]) -> dict[str, Any]:
    """Reduce the figures of several fields: means, the range of SSIM, the median over all cells.

    Returns
    -------
    dict
        ``fields``, ``ssim``, ``ssim_low``, ``ssim_high``, ``psnr_db``, ``rmse_rad``, ``nrmse`` (5), ``cells``,
        ``mass_bias_percent`` and ``mass_bias_abs_percent`` (medians; None without cells).
    """
    bias = np.concatenate([np.asarray(merit.mass_bias_percent) for merit in merits])
    similar = [merit.ssim for merit in merits]
    return {
        "fields": len(merits),
        "ssim": float(np.mean(similar)),
        "ssim_low": min(similar),
        "ssim_high": max(similar),
        "psnr_db": float(np.mean([merit.psnr_db for merit in merits])),
        "rmse_rad": float(np.mean([merit.rmse_rad for merit in merits])),
        "nrmse": np.mean([merit.nrmse for merit in merits], axis=0).tolist(),
        "cells": len(bias),
        "mass_bias_percent": float(np.median(bias)) if len(bias) else None,
        "mass_bias_abs_percent": float(np.median(np.abs(bias))) if len(bias) else None,
    }


def patch_ssim(estimates: NDArray[np.float32], truths: NDArray[np.float16]) -> NDArray[np.float64]:
    """SSIM of each patch (N, Y, X), computed by all cores."""

    def one(index: int) -> float:
        return ssim(estimates[index], truths[index].astype(np.float32))

    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.array(list(pool.map(one, range(len(estimates)))))


def to_json(merit: Merit) -> dict[str, Any]:
    """JSON-ready figures of one image."""
    return asdict(merit)
