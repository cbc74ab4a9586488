"""Dark frame and flat field of the service: which are in use, kept over restarts, measured on request.

::

    TOML [illumination] ─┐
                         ├─ in use ─▶ inference worker, provenance and light of every run
    chosen by REST ──────┘   (data folder: illumination/in-use.json)

A choice by REST holds until the TOML names other files than it did at the time of the choice. Measured files are kept
in ``illumination/`` of the data folder and are never deleted or overwritten by livephase.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from livephase import files
from livephase.errors import ConfigurationError, PlanError
from livephase.phase.reference import (
    NAMES,
    Sensor,
    exposure_warning,
    load_reference,
    net_reference,
    refuse_misfit,
    save_reference,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase.config import IlluminationTable
    from livephase.phase.reference import Kind, Reference, ReferenceInfo
    from livephase_devices.microscope import MicroscopeState

log = logging.getLogger(__name__)

FOLDER: Final = "illumination"
_CHOICE: Final = "in-use.json"


class _Pair(BaseModel):
    """SHA-256 of a dark frame and of a flat field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dark: str | None = None
    flat: str | None = None


class _Choice(_Pair):
    """What was chosen by REST, and what the TOML named at that time."""

    toml: _Pair = _Pair()


class ClientOptions(TypedDict):
    """What the inference client is told; see ``InferenceClient``."""

    flat_field: Literal["none", "auto"] | NDArray[np.float32]
    dark: NDArray[np.float32] | None
    reference_bits: int | None


@dataclass(frozen=True, slots=True)
class InUse:
    """The reference frames in use."""

    dark: Reference | None = None
    flat: Reference | None = None

    def references(self) -> list[Reference]:
        """Return those that there are."""
        return [reference for reference in (self.dark, self.flat) if reference is not None]

    def client_options(self) -> ClientOptions:
        """Return what the inference client is told."""
        dark = None if self.dark is None else self.dark.image
        # Without a flat field the light is estimated from every frame: see InferenceClient for what that is worth.
        flat = "auto" if self.flat is None else net_reference(self.flat.image, dark)
        bits = [reference.info.sensor.bit_depth for reference in self.references()]
        return ClientOptions(flat_field=flat, dark=dark, reference_bits=bits[0] if bits else None)

    def described(self) -> dict[str, Any]:
        """Return what a run's provenance keeps."""
        return {
            "flat_field": "auto" if self.flat is None else "measured",
            "dark": None if self.dark is None else self.dark.described(),
            "flat": None if self.flat is None else self.flat.described(),
        }


class Illumination:
    """The reference frames that the service knows, and the pair in use.

    Parameters
    ----------
    data : Path
        Data folder.
    table : IlluminationTable
        Files that the TOML names.

    Attributes
    ----------
    in_use : InUse
        What the inference worker has.
    wanted : InUse
        What its next worker gets; differs from ``in_use`` only while a change goes on.
    problems : list of str
        What was chosen earlier and is not in use, and why.

    Raises
    ------
    ConfigurationError
        A file of the TOML cannot be used.
    """

    def __init__(self, data: Path, table: IlluminationTable) -> None:
        self.folder = data / FOLDER
        self.problems: list[str] = []
        self._toml = InUse(
            None if table.dark is None else load_reference(table.dark, "dark"),
            None if table.flat is None else load_reference(table.flat, "flat"),
        )
        self.in_use = self._toml
        self.in_use = self.wanted = self._chosen()

    @property
    def dark_image(self) -> NDArray[np.float32] | None:
        """Dark frame (Y, X) in use, counts."""
        return None if self.in_use.dark is None else self.in_use.dark.image

    @property
    def offset_counts(self) -> float:
        """Offset of the camera by the dark frame in use; 0 without one."""
        return 0.0 if self.dark_image is None else float(np.median(self.dark_image))

    def drop_misfits(self, state: MicroscopeState) -> bool:
        """Compare with the microscope that was opened; True when an earlier choice had to be given up.

        Raises
        ------
        ConfigurationError
            A file of the TOML does not fit the camera.
        """
        if not self.in_use.references():
            return False
        sensor = Sensor.of(state)
        kept = {"dark": self.in_use.dark, "flat": self.in_use.flat}
        for reference in self.in_use.references():
            try:
                refuse_misfit(reference, sensor)
            except ConfigurationError as error:
                if reference in self._toml.references():
                    raise
                kept[reference.info.kind] = None
                self.problems.append(f"not in use: {error}")
        dropped = len(self.in_use.references())
        self.in_use = self.wanted = InUse(**kept)
        return len(self.in_use.references()) < dropped

    def refuse_misfit(self, state: MicroscopeState) -> None:
        """Refuse a run whose frames the reference frames do not fit; PlanError."""
        try:
            for reference in self.in_use.references():
                refuse_misfit(reference, Sensor.of(state))
        except ConfigurationError as error:
            raise PlanError(f"{error}, or take it out of use by PATCH /api/v1/calibrations/illumination") from error

    def present_problems(self, state: MicroscopeState) -> list[str]:
        """Say what does not fit at present."""
        found = list(self.problems)
        if state.fault is None and state.sensor_shape is not None:
            for reference in self.in_use.references():
                try:
                    refuse_misfit(reference, Sensor.of(state))
                except ConfigurationError as error:
                    found.append(str(error))
        return found

    def warnings(self, exposure_ms: float | None) -> list[str]:
        """Say what is doubtful for frames of an exposure."""
        found = list(self.problems)
        if self.in_use.dark is not None and exposure_ms is not None:
            doubt = exposure_warning(self.in_use.dark, exposure_ms)
            found += [] if doubt is None else [doubt]
        return found

    def known(self) -> list[Reference]:
        """Return every readable reference frame of TOML and data folder, the newest first."""
        found = {reference.sha256: reference for reference in (*self._toml.references(), *self.in_use.references())}
        for kind in NAMES:
            for path in self.folder.glob(f"{kind}-*.npz"):
                try:
                    reference = load_reference(path, kind)
                except ConfigurationError as error:
                    log.warning("%s", error)
                else:
                    found.setdefault(reference.sha256, reference)
        return sorted(found.values(), key=lambda reference: reference.info.created_utc, reverse=True)

    def find(self, kind: Kind, sha256: str | None) -> Reference | None:
        """Return the reference frame of that digest; None for None, ConfigurationError when there is none."""
        if sha256 is None:
            return None
        for reference in self.known():
            if reference.sha256 == sha256 and reference.info.kind == kind:
                return reference
        raise ConfigurationError(
            f"no {kind} has the SHA-256 {sha256[:80]!r}; GET /api/v1/calibrations/illumination lists them"
        )

    @contextmanager
    def changing(self, new: InUse, state: MicroscopeState) -> Generator[None]:
        """Let the next inference worker have other reference frames; taken back where the context fails.

        Raises
        ------
        ConfigurationError
            One of them does not fit the camera.
        """
        for reference in new.references():
            refuse_misfit(reference, Sensor.of(state))
        self.wanted = new
        try:
            yield
        finally:
            self.wanted = self.in_use

    def commit(self) -> None:
        """Take what is wanted as in use: the worker has it. Kept for the next start."""
        self.in_use = self.wanted
        self.problems.clear()
        choice = _Choice(**_digests(self.in_use).model_dump(), toml=_digests(self._toml))
        path = self.folder / _CHOICE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            partial.write_text(choice.model_dump_json(indent=1), encoding="utf-8")
            files.replace(partial, path)
        except OSError as error:
            self.problems.append(f"the choice could not be kept for the next start ({path}: {error.strerror})")
            log.warning("%s", self.problems[-1])

    def save(self, image: NDArray[np.float32], info: ReferenceInfo) -> Reference:
        """Keep a measured reference frame in the data folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        moment = info.created_utc.strftime("%Y%m%d-%H%M%S-%f")
        return save_reference(self.folder / f"{info.kind}-{moment}.npz", image, info)

    def _chosen(self) -> InUse:
        path = self.folder / _CHOICE
        try:
            choice = _Choice.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):  # the second: no data folder can be made; said elsewhere
            return self._toml
        except (OSError, ValidationError) as error:
            self.problems.append(f"{path} cannot be read; the TOML decides on dark frame and flat field")
            log.warning("%s: %s", self.problems[-1], error)
            return self._toml
        if choice.toml != _digests(self._toml):
            return self._toml
        kept: dict[Kind, Reference | None] = {"dark": None, "flat": None}
        digests: dict[Kind, str | None] = {"dark": choice.dark, "flat": choice.flat}
        for kind, sha256 in digests.items():
            try:
                kept[kind] = self.find(kind, sha256)
            except ConfigurationError as error:
                self.problems.append(f"not in use: {error}")
                log.warning("%s", self.problems[-1])
        return InUse(dark=kept["dark"], flat=kept["flat"])


def _digests(pair: InUse) -> _Pair:
    return _Pair(
        dark=None if pair.dark is None else pair.dark.sha256, flat=None if pair.flat is None else pair.flat.sha256
    )
