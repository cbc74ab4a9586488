"""Which microscope: roles, optics and limits, read from the ``[microscope]`` table of a TOML file."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from livephase_devices.errors import MicroscopeConfigError
from livephase_devices.lens_calibration import RANGE_TOLERANCE_UM, ActiveCalibration

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

CONFIG_FOLDER = Path(__file__).parent / "configs"
"""Folder of the bundled configurations (``twin.toml``, ``twin.cfg``, ``demo.toml`` and so on)."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


def bundled_names(suffix: str) -> list[str]:
    """Return the file names of the bundled configurations with this suffix, e.g. ``".toml"``."""
    return sorted(path.name for path in CONFIG_FOLDER.glob(f"*{suffix}"))


class MicroscopeConfig(BaseModel):
    """One microscope.

    Attributes
    ----------
    name : str
        Name shown to people and stored with every run.
    cfg : Path
        Micro-Manager configuration file, or the name of a bundled one such as ``twin.cfg``.
    camera, lens, z_drive, xy_stage : str
        Micro-Manager device labels of the roles. ``lens`` is any Micro-Manager stage, or a numeric property
        ``"Device.Property"``; ``z_drive`` a focus drive of known scale, with which the lens can be calibrated.
    wavelength_um : float
        Centre wavelength of the illumination in um.
    objective_na : float
        Numerical aperture of the objective.
    coherence : float
        Coherence parameter S = NA_condenser / NA_objective, 0 for a point source.
    lr_pixel_um : float
        Camera pixel at the specimen in um.
    lens_um_per_unit, lens_focus_position : float
        ``defocus_um = (position - lens_focus_position) * lens_um_per_unit``.
    lens_unit : str
        Unit of the lens' positions, e.g. ``"mA"`` or ``"dpt"``; for people.
    lens_calibration : ActiveCalibration or None
        A measured calibration, in the TOML the name of its file; it takes the place of the two numbers above.
    lens_temperature : str or None
        Property ``"Device.Property"`` that states the temperature of the lens in degrees C.
    z_drive_um_per_unit : float
        um of defocus for each unit of the drive, e.g. -1 where larger positions lower the lens focus.
    lens_settle_s : float
        Wait after the lens reports that it has arrived, in s.
    recorded_properties : tuple of str
        Numeric properties ``"Device.Property"`` that are read with every frame.
    call_timeout_s : float
        After this many seconds a call that did not return counts as hung; for a frame after 5 exposures, where that is
        longer. With the default a fault is noticed within max(5 s, 5 exposures).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cfg: Path
    camera: str
    lens: str | None = None
    z_drive: str | None = None
    xy_stage: str | None = None
    wavelength_um: PositiveFloat
    objective_na: Annotated[float, Field(gt=0, lt=2)]
    coherence: Annotated[float, Field(ge=0, le=1.5)]
    lr_pixel_um: PositiveFloat
    lens_um_per_unit: FiniteFloat = 1.0
    lens_focus_position: FiniteFloat = 0.0
    lens_unit: Annotated[str, Field(min_length=1, max_length=20)] = "um"
    lens_calibration: ActiveCalibration | None = None
    lens_temperature: str | None = None
    z_drive_um_per_unit: FiniteFloat = 1.0
    lens_settle_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    recorded_properties: tuple[str, ...] = ()
    call_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0

    @field_validator("cfg")
    @classmethod
    def _find_bundled(cls, cfg: Path) -> Path:
        bundled = CONFIG_FOLDER / cfg
        return bundled if not cfg.exists() and cfg.name == str(cfg) and bundled.is_file() else cfg

    @field_validator("lens_um_per_unit", "z_drive_um_per_unit")
    @classmethod
    def _not_zero(cls, value: float) -> float:
        if value == 0.0:
            raise ValueError("must not be 0: the device would have no effect")
        return value

    @field_validator("lens_temperature")
    @classmethod
    def _one_property(cls, name: str | None) -> str | None:
        return name if name is None else cls._device_dot_property((name,))[0]

    @field_validator("recorded_properties")
    @classmethod
    def _device_dot_property(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            label, dot, prop = name.partition(".")
            if not (label and dot and prop):
                raise ValueError(f"{name!r} is not of the form 'Device.Property'")
        if len(set(names)) != len(names):
            raise ValueError("names a property twice")
        return names

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the ``[microscope]`` table of a TOML file; other tables are left to their readers.

        Parameters
        ----------
        path : Path or str
            The TOML file, or the name of a bundled one such as ``"twin.toml"``. A relative ``cfg`` in it is
            looked for beside the TOML, then among the bundled configurations; ``lens_calibration`` beside the TOML.

        Raises
        ------
        MicroscopeConfigError
            File or cfg missing, no TOML, unknown key, value missing or of the wrong kind: one line each.
        """
        path = Path(path)
        if not path.exists() and path.name == str(path) and (CONFIG_FOLDER / path).is_file():
            path = CONFIG_FOLDER / path
        source = str(path)
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = ", ".join(bundled_names(".toml"))
            raise MicroscopeConfigError(
                f"this file does not exist; give a microscope TOML, or one of the bundled {known}", source
            ) from None
        except OSError as error:
            raise MicroscopeConfigError(f"cannot be read: {error.strerror}", source) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MicroscopeConfigError(f"is not valid TOML: {error}", source) from error
        table: Any = document.get("microscope")
        if not isinstance(table, dict):
            raise MicroscopeConfigError("has no table [microscope]", source)
        values = cast("dict[str, Any]", table)
        if isinstance(values.get("cfg"), str):
            values = {**values, "cfg": _resolve_cfg(Path(values["cfg"]), path)}
        if "lens_calibration" in values:
            values = {**values, **_calibrated(values, path)}
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(_problem(detail) for detail in error.errors())
            raise MicroscopeConfigError(f"[microscope] {problems}", source) from error
        active = config.lens_calibration
        return config if active is None else config.calibrated_by(active)

    def calibrated_by(self, active: ActiveCalibration) -> Self:
        """Return the configuration with a calibration in the place of the lens' two numbers.

        Raises
        ------
        MicroscopeConfigError
            The calibration is of another lens.
        """
        made = active.calibration
        if made.lens != self.lens:
            raise MicroscopeConfigError(
                f"this calibration is of the lens {made.lens!r} of {made.microscope!r}, the lens here is "
                f"{self.lens!r}; calibrate this one",
                active.file,
            )
        return self.model_copy(
            update={
                "lens_calibration": active,
                "lens_um_per_unit": made.um_per_unit,
                "lens_focus_position": made.focus_position,
                "lens_unit": made.unit,
            }
        )

    def uncalibrated_range_problem(self, defocus_um: float) -> str | None:
        """Say why a defocus lies outside what the lens was calibrated for; None where it does not."""
        active = self.lens_calibration
        if active is None:
            return None
        low, high = active.calibration.defocus_range_um
        if low - RANGE_TOLERANCE_UM <= defocus_um <= high + RANGE_TOLERANCE_UM:
            return None
        return (
            f"a defocus of {defocus_um:g} um is outside the calibrated range of the lens, {low:.4g} to {high:.4g} um "
            f"({active.file} of {active.calibration.date_utc[:10]}); calibrate over a wider range or stay within it"
        )

    def position_of(self, defocus_um: float) -> float:
        """Return the lens position, in the lens' own unit, that gives ``defocus_um``."""
        return self.lens_focus_position + defocus_um / self.lens_um_per_unit

    def defocus_of(self, position: float) -> float:
        """Return the defocus in um at a lens position in the lens' own unit."""
        # + 0.0 turns -0.0 into 0.0, which would print as "-0".
        return (position - self.lens_focus_position) * self.lens_um_per_unit + 0.0


def _resolve_cfg(cfg: Path, toml: Path) -> Path:
    """Return the absolute path of ``cfg`` as named in ``toml``; beside the TOML comes before bundled."""
    beside = toml.parent / cfg
    for candidate in (beside, cfg if cfg.is_absolute() else CONFIG_FOLDER / cfg):
        if candidate.is_file():
            return candidate.resolve()
    raise MicroscopeConfigError(
        f"cfg = {str(cfg)!r}: no such Micro-Manager configuration beside this file, nor among the bundled "
        f"{', '.join(bundled_names('.cfg'))}",
        str(toml),
    )


def _calibrated(values: dict[str, Any], toml: Path) -> dict[str, Any]:
    """Read the calibration that a TOML names beside it."""
    name = values["lens_calibration"]
    if not isinstance(name, str):
        raise MicroscopeConfigError(
            f"[microscope] lens_calibration = {name!r}: give the name of a file made by 'livephase calibrate'",
            str(toml),
        )
    both = [key for key in ("lens_um_per_unit", "lens_focus_position") if key in values]
    if both:
        raise MicroscopeConfigError(
            f"[microscope] gives both lens_calibration and {' and '.join(both)}; remove one or the other", str(toml)
        )
    return {"lens_calibration": ActiveCalibration.load(toml.parent / name)}


def _problem(detail: ErrorDetails) -> str:
    """Return one validation problem as one short sentence."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known keys: {', '.join(MicroscopeConfig.model_fields)}"
    if detail["type"] == "missing":
        return f"key {key!r} is missing"
    given: Any = detail["input"]
    shown = "nan" if isinstance(given, float) and math.isnan(given) else repr(given)
    return f"{key} = {shown}: {detail['msg']}"
