"""A folder of pairs collected on a microscope: its format, written by ``livephase collect``, read by training.

``dataset.json`` describes the microscope and lists the fields; ``field-0000.npz`` and following hold

- ``stack`` (P, Y, X) float32: mean counts of each plane, and ``plane_um`` (P,) its confirmed defocus;
- ``label_rad`` (Y, X) float32: the TIE phase;
- ``frames`` (D, Y / 4, X / 4) float32: counts of ONE exposure at each training defocus, binned 4 x 4, and
  ``defocus_um`` (D,) its confirmed defocus.

The stack is kept, so that labels can be solved again. A field is complete, with its SHA-256 in the list, or not there.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from livephase.errors import ConfigurationError
from livephase.files import replace
from livephase.phase.illumination import estimate_background
from livephase.training.experimental import SCALE, LabelledField
from livephase.training.measured import MeasuredObject, read_measured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

DATASET_FILE = "dataset.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CollectedOptics(_Part):
    """Optics of all pairs."""

    wavelength_um: float
    objective_na: float
    coherence: float
    hr_pixel_um: float


class FieldEntry(_Part):
    """One field in the list.

    Attributes
    ----------
    file : str
        Name of the ``.npz``.
    sha256 : str
        Of that file.
    time_utc : str
        ISO time of the first exposure.
    saturated_fraction : float
        Of the worst frame.
    properties : dict
        The microscope's recorded properties at the first exposure.
    """

    file: str
    sha256: str
    time_utc: str
    saturated_fraction: float
    properties: dict[str, float]


class CollectedDataset(_Part):
    """Content of ``dataset.json``.

    Attributes
    ----------
    format : str
        Names this layout.
    created_utc : str
        ISO time.
    optics : CollectedOptics
        Optics of all pairs.
    border_um : float
        Cut from all sides when the pairs are read: TIE knows no phase gradient at the border.
    planes_um, defocus_um : tuple of float
        What was asked for.
    average : int
        Exposures averaged for a plane of the stack.
    solver : dict
        How labels were made.
    microscope : dict
        Full state of the microscope at the start.
    devices : dict
        Every Micro-Manager property at the start, by ``Device.Property``.
    software : dict
        Versions.
    fields : tuple of FieldEntry
        Complete fields.
    """

    format: Literal["livephase collected pairs 1"] = "livephase collected pairs 1"
    created_utc: str
    optics: CollectedOptics
    border_um: float
    planes_um: tuple[float, ...]
    defocus_um: tuple[float, ...]
    average: int
    solver: dict[str, Any]
    microscope: dict[str, Any]
    devices: dict[str, Any]
    software: dict[str, str]
    fields: tuple[FieldEntry, ...] = ()

    @property
    def border_px(self) -> int:
        """The border in HR pixels, a multiple of 4."""
        return int(np.ceil(self.border_um / self.optics.hr_pixel_um / SCALE)) * SCALE


def save_dataset(folder: Path, dataset: CollectedDataset) -> None:
    """Write ``dataset.json`` in one step."""
    partial = folder / f"{DATASET_FILE}.partial"
    partial.write_text(dataset.model_dump_json(indent=2), encoding="utf-8")
    replace(partial, folder / DATASET_FILE)


def save_field(folder: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write a field's arrays as ``name`` in one step and return the file's SHA-256."""
    partial = folder / f"{name}.partial"
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    replace(partial, folder / name)
    return digest


def read_dataset(folder: Path) -> CollectedDataset:
    """Read what a folder of collected pairs holds.

    Raises
    ------
    ConfigurationError
        It is no such folder, or its list is damaged.
    """
    path = folder / DATASET_FILE
    try:
        return CollectedDataset.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{folder} is no collected dataset: {path.name} cannot be read") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def load_collected(folder: Path) -> list[LabelledField]:
    """Read all pairs of a dataset.

    Frames are flattened by the smooth background and divided by their mean, as live frames are before a network
    sees them, and cut by the dataset's border.

    Parameters
    ----------
    folder : Path
        Made by ``livephase collect``.

    Returns
    -------
    list of LabelledField
        One for each field and training defocus, with a phase array that the pairs of a field share; ``name`` is
        the field's file.

    Raises
    ------
    ConfigurationError
        The folder is no dataset, has no field, or a file is missing or not the one that was written.
    """
    dataset = read_dataset(folder)
    return [pair for name, archive in _archives(folder, dataset) for pair in _pairs(dataset, name, archive)]


def _archives(folder: Path, dataset: CollectedDataset) -> Iterator[tuple[str, Mapping[str, NDArray[Any]]]]:
    """Open the fields one after the other, each once; name and arrays, which are read when they are asked for."""
    if not dataset.fields:
        raise ConfigurationError(f"{folder} holds no complete field; collect some first")
    for entry in dataset.fields:
        path = folder / entry.file
        try:
            file = path.open("rb")
        except OSError as error:
            raise ConfigurationError(f"{path}: the dataset lists this file and it cannot be read") from error
        with file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise ConfigurationError(f"{path}: not the file that was collected (its SHA-256 differs); restore it")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                yield entry.file, archive


def _pairs(dataset: CollectedDataset, name: str, archive: Mapping[str, NDArray[Any]]) -> list[LabelledField]:
    """Make the pairs of one field; they share its phase array."""
    optics, border = dataset.optics, dataset.border_px
    label = np.ascontiguousarray(_inner(archive["label_rad"], border))
    pairs: list[LabelledField] = []
    for frame, defocus_um in zip(archive["frames"], archive["defocus_um"], strict=True):
        flat = _inner(frame / estimate_background(frame, None), border // SCALE)
        pairs.append(
            LabelledField(
                name=name,
                intensity=(flat / flat.mean()).astype(np.float32),
                phase_rad=label,
                valid=None,
                defocus_um=float(defocus_um),
                wavelength_um=optics.wavelength_um,
                lr_pixel_um=optics.hr_pixel_um * SCALE,
                coherence=optics.coherence,
            )
        )
    return pairs


def _inner(image: NDArray[np.float32], border: int) -> NDArray[np.float32]:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def load_objects(folder: Path) -> list[MeasuredObject]:
    """Read the fields of a dataset as measured objects, which the forward model can image at any defocus.

    Parameters
    ----------
    folder : Path
        Made by ``livephase collect``, or any folder of files in the format of ``measured``.

    Returns
    -------
    list of MeasuredObject
        One for each field; the border of a collected field is not valid.

    Raises
    ------
    ConfigurationError
        See ``load_collected`` and ``measured.read_measured``.
    """
    if not (folder / DATASET_FILE).exists():
        return [read_measured(path) for path in sorted(folder.glob("*.npz"))]
    dataset = read_dataset(folder)
    optics, border = dataset.optics, dataset.border_px
    objects: list[MeasuredObject] = []
    for name, archive in _archives(folder, dataset):
        pairs = _pairs(dataset, name, archive)
        plane = archive["stack"][int(np.argmin(np.abs(archive["plane_um"])))]
        plane = _inner(plane / estimate_background(plane, None), border)
        phase = pairs[0].phase_rad
        objects.append(
            MeasuredObject(
                amplitude=np.sqrt(np.clip(plane, 0, None)).astype(np.float32),
                # TIE leaves the zero open; training wants it where the field is thinnest.
                phase_rad=(phase - np.percentile(phase, 5)).astype(np.float32),
                valid=np.ones(phase.shape, np.bool_),
                frames=np.stack([pair.intensity for pair in pairs]).astype(np.float32),
                defocus_um=np.array([pair.defocus_um for pair in pairs]),
                pixel_um=optics.hr_pixel_um,
                wavelength_um=optics.wavelength_um,
                coherence=optics.coherence,
            )
        )
    return objects
