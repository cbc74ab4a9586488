"""Metadata: the attributes of the groups, OME-Zarr 0.5 and livephase's own, written and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from livephase.acquisition.progress import Counters, RunState
from livephase.errors import StorageError
from livephase.storage.durable import write_atomically
from livephase.storage.layout import LAYOUT_VERSION, SERVICE_FOLDER, ZARR_JSON, group_document, phase_arrays, to_json
from livephase.storage.spec import RunSpec

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

    from livephase.storage.layout import Document

PHASE_WINDOW_RAD: Final = {"min": -10.0, "max": 20.0, "start": -0.5, "end": 4.0}
"""What a viewer shows at first: adherent and rounded cells in one window."""


class RunDocument(BaseModel):
    """The ``livephase`` attribute of the root group.

    Attributes
    ----------
    layout : int
        Version of the layout.
    state, reason : str, str or None
        ``"running"`` until the run is closed; why it ended, when it did not complete.
    created_utc, ended_utc : str
        ISO 8601.
    counters : Counters or None
        Set when the run is closed; until then they follow from the journal.
    run : RunSpec
        As given at the start, with the provenance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: int
    state: RunState
    reason: str | None
    created_utc: str
    ended_utc: str | None
    counters: Counters | None
    run: RunSpec


def write_root(store: Path, document: RunDocument) -> None:
    """Replace the root's zarr.json. OSError when it cannot be written, ValueError when the provenance is not JSON."""
    fields = document.model_dump(mode="json")
    fields["provenance"] = fields["run"].pop("provenance")  # beside the state, where one looks for it
    attributes: Document = {"ome": phase_image(document.run), "livephase": fields}
    write_atomically(store / ZARR_JSON, to_json(group_document(attributes)), store / SERVICE_FOLDER)


def read_root(store: Path) -> RunDocument:
    """Read the root's ``livephase`` attribute.

    Raises
    ------
    StorageError
        When the store is not there, is not livephase's, or is damaged.
    """
    try:
        text = (store / ZARR_JSON).read_bytes()
    except OSError as error:
        raise StorageError(f"{store}: not a readable run: {error.strerror or error}") from error
    try:
        found = json.loads(text)["attributes"]["livephase"]
        version = found["layout"]
        if version == LAYOUT_VERSION:
            found["run"]["provenance"] = found.pop("provenance")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{store}: {ZARR_JSON} is damaged or not of a livephase run") from error
    if version != LAYOUT_VERSION:
        raise StorageError(
            f"{store}: layout version {version}; this livephase reads {LAYOUT_VERSION}. Use the livephase that wrote it"
        )
    try:
        return RunDocument.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{store}: {ZARR_JSON} is damaged: livephase.{where}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class _Level:
    path: str
    pixel_um: float
    offset_um: float


def phase_image(spec: RunSpec) -> Document:
    """Return the ``ome`` attribute of the root.

    Coordinates are those of the HR pixels' centres: level 0 begins at 0, and the first pixel of level k, a mean of
    2^k pixels, lies (2^k - 1) / 2 HR pixels further.
    """
    hr_um = spec.hr_pixel_um
    levels = [_Level(array.path, hr_um * 2**k, hr_um * (2**k - 1) / 2) for k, array in enumerate(phase_arrays(spec))]
    document = _image(spec, "phase", levels)
    document["omero"] = {
        "channels": [
            {"label": "phase (rad)", "color": "FFFFFF", "active": True, "window": dict(PHASE_WINDOW_RAD)},
        ],
        "rdefs": {"model": "greyscale"},
    }
    return document


def raw_image(spec: RunSpec) -> Document:
    """Return the ``ome`` attribute of ``raw/``, in the same coordinates as the phase."""
    offset_um = spec.hr_pixel_um * (spec.scale - 1) / 2
    return _image(spec, "raw", [_Level("0", spec.lr_pixel_um, offset_um)])


def _image(spec: RunSpec, name: str, levels: list[_Level]) -> Document:
    # A run without a fixed interval has its times in frames/ only: its axis t counts time points and has no unit.
    fixed_interval = spec.interval_s > 0
    t_scale = spec.interval_s if fixed_interval else 1.0
    t_axis: Document = {"name": "t", "type": "time"}
    if fixed_interval:
        t_axis["unit"] = "second"
    datasets: list[JsonValue] = [
        {
            "path": level.path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [t_scale, 1.0, level.pixel_um, level.pixel_um]},
                {"type": "translation", "translation": [0.0, 0.0, level.offset_um, level.offset_um]},
            ],
        }
        for level in levels
    ]
    multiscale: Document = {
        "name": name,
        "axes": [
            t_axis,
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": datasets,
    }
    if len(levels) > 1:
        multiscale["type"] = "mean"
        multiscale["metadata"] = {"description": "mean over 2x2 pixels, level by level"}
    return {"version": "0.5", "multiscales": [multiscale]}
