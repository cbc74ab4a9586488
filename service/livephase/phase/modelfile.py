"""The model file: a safetensors file whose header says what the network is and where it is valid.

Only the header is read here, without torch, so that the service process can show and check a model that the worker
process runs. Pickles are refused by name: they can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from livephase.errors import ModelError
from livephase.phase.misfit_calibration import MisfitCalibration

HEADER_KEY = "livephase"
INPUT_GAIN = 10.0
"""The network sees ``INPUT_GAIN * (I / mean(I) - 1)``: defocus contrast of a few per cent becomes order one."""
_NOT_PARAMETERS = ("__metadata__", "running_mean", "running_var", "num_batches_tracked")
_MAX_HEADER_BYTES = 16 * 1024 * 1024

Range = tuple[float, float]


class ValidRange(BaseModel):
    """Inclusive ranges (min, max) within which the model was trained and judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    defocus_um: Range
    wavelength_um: Range
    lr_pixel_um: Range
    coherence: Range
    noise_sd: Range


class Architecture(BaseModel):
    """Which network, and its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["subpixel-unet", "paper-unet", "srcnn"]
    width: int


class ModelCard(BaseModel):
    """What is known of a model.

    Attributes
    ----------
    figures : dict
        Figures on named test sets, e.g. ``{"synthetic z=6 um": {"ssim": 0.97, "rmse_rad": 0.07, "fields": 4}}``.
    misfit : MisfitCalibration or None
        What is usual when its phases are re-propagated (``phase.consistency``); None for a model that was not
        calibrated, whose phases are then not judged.
    sha256 : str
        Digest of the whole file; the model's identity. Empty while a card is being written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: str
    architecture: Architecture
    scale: int
    valid: ValidRange
    training: dict[str, Any]
    figures: dict[str, Any]
    licence: str = "BSD-3-Clause"
    misfit: MisfitCalibration | None = None
    sha256: str = ""

    @property
    def objective_na(self) -> float | None:
        """Aperture of the objective that the training simulated; None where the record of the training has none."""
        try:
            return float(self.training["recipe"]["optics"]["objective_na"])
        except (KeyError, TypeError, ValueError):
            return None

    def range_problems(
        self,
        *,
        defocus_um: float | None,
        lr_pixel_um: float,
        wavelength_um: float,
        coherence: float | None = None,
    ) -> list[str]:
        """Say which values lie outside the valid range.

        Parameters
        ----------
        defocus_um : float or None
            Defocus of the frame; None says that it is not known, which is a problem of its own.
        lr_pixel_um, wavelength_um : float
            Camera pixel at the specimen and wavelength, in um.
        coherence : float or None
            S = NA_condenser / NA_objective; None when it is not known, and then not judged.

        Returns
        -------
        list of str
            One sentence for each problem; empty inside the range.
        """
        values = {
            "defocus_um": defocus_um,
            "lr_pixel_um": lr_pixel_um,
            "wavelength_um": wavelength_um,
            "coherence": coherence,
        }
        problems: list[str] = []
        for key, value in values.items():
            low, high = getattr(self.valid, key)
            if value is None:
                if key == "defocus_um":
                    problems.append("defocus_um is not known (no lens); the model needs it.")
                continue
            if not low <= value <= high:
                problems.append(f"{key} = {value:g} is outside the model's valid range {low:g} to {high:g}.")
        return problems


def read_card(path: Path) -> ModelCard:
    """Read a model file's card and check that the file is what it claims to be.

    Parameters
    ----------
    path : Path
        A safetensors file written by ``weights.save_network``.

    Returns
    -------
    ModelCard
        The card, with the digest of the file.

    Raises
    ------
    ModelError
        The file is absent, a pickle, not safetensors, or not a livephase model.
    """
    path = Path(path)
    try:
        blob = path.read_bytes()
    except OSError as error:
        msg = f"model file {path} cannot be read ({error.strerror}); give the path of a .safetensors file"
        raise ModelError(msg) from error
    # A safetensors file begins with the length of its header, whose low byte may be the 0x80 of a pickle.
    if blob[8:9] != b"{" and (blob[:2] == b"PK" or blob[:1] == b"\x80"):
        msg = f"model file {path} is a Python pickle, which can run code and is never loaded; use safetensors"
        raise ModelError(msg)
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > min(_MAX_HEADER_BYTES, len(blob) - 8):
        msg = f"model file {path} is not a safetensors file (its header is missing or cut)"
        raise ModelError(msg)
    try:
        metadata = json.loads(blob[8 : 8 + length])["__metadata__"]
        fields = json.loads(metadata[HEADER_KEY])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"model file {path} carries no '{HEADER_KEY}' header, so its valid range is unknown"
        raise ModelError(msg) from error
    try:
        return ModelCard.model_validate({**fields, "sha256": hashlib.sha256(blob).hexdigest()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"model file {path}: header field '{where}' is wrong: {first['msg']}"
        raise ModelError(msg) from error


def count_parameters(path: Path) -> int:
    """Count the weights in a model file that ``read_card`` has accepted, from its header alone.

    The running statistics of a batch normalisation are not counted.
    """
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if not name.endswith(_NOT_PARAMETERS))


def bundled_models() -> list[Path]:
    """List the model files that come with livephase, sorted by name."""
    folder = Path(str(files("livephase") / "models"))
    return sorted(folder.glob("*.safetensors"))
