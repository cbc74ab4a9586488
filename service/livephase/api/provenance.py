"""Where a run comes from: everything that is needed to judge it years later, as JSON kept in its store."""

from __future__ import annotations

import getpass
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from livephase.api.problems import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from livephase.acquisition.plan import AcquisitionPlan
    from livephase.phase.modelfile import ModelCard
    from livephase_devices.microscope import Microscope

PACKAGES: Final = (
    "livephase",
    "numpy",
    "openvino",
    "pymmcore",
    "pymmcore-plus",
    "tensorstore",
    "torch",
    "zarr",
)


def provenance(
    plan: AcquisitionPlan,
    microscope: Microscope,
    card: ModelCard,
    *,
    runtime: str | None,
    preprocessing: dict[str, Any],
    warnings: Sequence[str],
    range_problems: Sequence[str],
    created_utc: str,
    idempotency: dict[str, str] | None,
) -> dict[str, Any]:
    """Describe plan, microscope, model, software, computer and user.

    Parameters
    ----------
    plan, microscope, card
        Of the run; the devices are asked for all their properties.
    runtime : str or None
        What the inference worker computes with, if it has said so yet.
    preprocessing : dict
        Dark frame and flat field in use.
    warnings : sequence of str
        All that was said to the user before the start.
    range_problems : sequence of str
        Those of them that say why the run lies outside the model's valid range.
    created_utc : str
        ISO 8601.
    idempotency : dict or None
        Key and body digest with which a retry of the request finds this run again.
    """
    properties: dict[str, dict[str, Any]] = {}
    for info in microscope.properties():
        properties.setdefault(info.device, {})[info.name] = info.value
    return finite(
        {
            "created_utc": created_utc,
            "started_by": _user(),
            "plan": plan.model_dump(mode="json"),
            "warnings": list(warnings),
            "outside_valid_range": list(range_problems),
            "microscope": {
                "configuration": microscope.config.model_dump(mode="json"),
                "lens_calibration": _calibration(microscope),
                "state": microscope.state().model_dump(mode="json"),
                "properties": properties,
            },
            "model": {
                "name": card.name,
                "version": card.version,
                "sha256": card.sha256,
                "architecture": card.architecture.model_dump(mode="json"),
                "scale": card.scale,
                "valid": card.valid.model_dump(mode="json"),
            },
            "preprocessing": preprocessing,
            "runtime": runtime,
            "software": {"python": platform.python_version(), **_versions()},
            "host": {
                "name": platform.node(),
                "platform": platform.platform(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
            },
            "idempotency": idempotency,
        }
    )


def _calibration(microscope: Microscope) -> dict[str, str] | None:
    """Name the calibration by which a lens position is a defocus; its content is part of the configuration."""
    active = microscope.config.lens_calibration
    if active is None:
        return None
    return {"file": active.file, "date_utc": active.calibration.date_utc, "sha256": active.sha256}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may run under a number without a name
        return None
