"""The training recipe: one TOML file that fixes everything a training run depends on."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from livephase.errors import ConfigurationError
from livephase.phase.modelfile import Architecture, ValidRange
from livephase.training.fields import COVERAGE, measured_field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PaperPart(_Part):
    """Training pairs from the paper's datasets (``paper_sets``): one set for each defocus and each S."""

    defocus_um: tuple[float, ...]
    coherence: tuple[float, ...] = (0.0,)
    pairs_of_each: int = Field(1300, ge=1, description="1300 is the whole training split of a set")


class DataPart(_Part):
    """Which fields are drawn, and how many pairs are made of them."""

    seed: int = 1
    paper: PaperPart | None = None
    simulated_fields: int = Field(120, ge=0, description="simulated cultures of 1152 x 1152 HR pixels")
    pairs_for_each_field: int = Field(24, ge=1)
    coverage: tuple[float, float] = Field(COVERAGE, description="area of all simulated cells over that of the field")
    real_folder: Path | None = Field(
        None, description="folder of qpi_cells .npz; relative to the recipe, $VARIABLES expand"
    )
    real_held_back: tuple[str, ...] = ()
    measured_folder: Path | None = Field(
        None,
        description="by livephase collect, or of measured objects; relative to the recipe, $VARIABLES expand",
    )
    measured_pairs: int = Field(1000, ge=0)
    real_pairs: int = Field(2000, ge=0)
    patch_lr_px: int = Field(96, ge=32, multiple_of=8)
    generated: bool = Field(
        default=False, description="make each batch on the network's device instead of storing pairs; for a GPU"
    )
    background_rad: float = Field(0.0, ge=0, description="largest sd of a texture under half of the simulated pairs")

    @model_validator(mode="after")
    def _generated_from_phase_only(self) -> Self:
        if self.generated and (self.paper or self.measured_folder):
            msg = "generated batches come from simulated_fields and real_folder; paper and measured_folder are stored"
            raise ValueError(msg)
        return self


class OpticsPart(_Part):
    """Ranges that the forward model draws from; uniform but for noise, and for defocus and kappa: more small values."""

    defocus_um: tuple[float, float] = (1.0, 13.0)
    coherence: tuple[float, float] = (0.0, 0.6)
    objective_na: float = 0.4
    wavelength_um: tuple[float, float] = (0.52, 0.58)
    hr_pixel_um: tuple[float, float] = (0.63, 0.67)
    kappa_per_rad: tuple[float, float] = (0.0, 0.05)
    noise_sd: tuple[float, float] = Field((0.001, 0.03), description="of the binned frame, log-uniform")
    shading: float = Field(0.02, description="largest residual shading over a patch after flat-fielding")
    coherence_unknown: float = Field(0.15, description="share of pairs whose S the network is not told")


class TrainingPart(_Part):
    """The loop."""

    seed: int = 1
    steps: int = Field(gt=0)
    batch: int = 4
    learning_rate: float = 1.2e-3
    ema: float = 0.999
    loss: Literal["l1+ssim", "mse"] = Field("l1+ssim", description="L1 + 0.5 (1 - SSIM), or the paper's eq. 4")
    initial_model: Path | None = Field(None, description="model file to start from; relative to the recipe")
    bf16: bool = True
    checkpoint_every: int = 500
    validate_every: int = 1000


class Recipe(_Part):
    """The whole recipe."""

    name: str
    version: str
    architecture: Architecture
    data: DataPart
    optics: OpticsPart
    training: TrainingPart
    valid: ValidRange

    @property
    def data_digest(self) -> str:
        """SHA-256 of what the training pairs depend on, the measured files included."""
        digest = hashlib.sha256(self.data.model_dump_json(exclude={"real_folder", "measured_folder"}).encode())
        digest.update(self.optics.model_dump_json().encode())
        for path in (*self.real_files(), *self.measured_files()):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def real_files(self, *, held_back: bool = False) -> list[Path]:
        """List the measured phase images that train, or those that are held back."""
        if self.data.real_folder is None:
            return []
        paths = sorted(self.data.real_folder.glob("*.npz"))
        return [path for path in paths if (path.stem in self.data.real_held_back) == held_back]

    def real_fields(self) -> list[NDArray[np.float32]]:
        """Read the measured phase images that train, at the recipe's pixel."""
        return [measured_field(path) for path in self.real_files()]

    def measured_files(self) -> list[Path]:
        """List the measured objects."""
        return sorted(self.data.measured_folder.glob("*.npz")) if self.data.measured_folder else []


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises
    ------
    ConfigurationError
        The file is absent, not TOML, or a field is wrong or missing.
    """
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        msg = f"recipe {path} cannot be read: {error.strerror}"
        raise ConfigurationError(msg) from error
    except tomllib.TOMLDecodeError as error:
        msg = f"recipe {path} is not valid TOML: {error}"
        raise ConfigurationError(msg) from error
    except ValidationError as error:
        first = error.errors()[0]
        msg = f"recipe {path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise ConfigurationError(msg) from error
    if recipe.training.initial_model is not None:
        initial = _resolve(path, recipe.training.initial_model)
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"initial_model": initial})})
    folders: dict[str, Path] = {}
    for name in ("real_folder", "measured_folder"):
        given: Path | None = getattr(recipe.data, name)
        if given is None:
            continue
        folders[name] = _resolve(path, given)
        if not any(folders[name].glob("*.npz")):
            msg = f"recipe {path}: data.{name} {folders[name]} holds no .npz files; see docs/data.md"
            raise ConfigurationError(msg)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=folders)})


def _resolve(recipe: Path, given: Path) -> Path:
    return (recipe.parent / os.path.expandvars(given)).resolve()
