"""The service's configuration: a TOML with one table for each part.

They are ``[microscope]``, ``[service]``, ``[model]``, ``[live]`` and ``[illumination]``.

Only ``[microscope]`` is required; it belongs to ``livephase_devices.config``. Relative paths are resolved
against the folder of the TOML.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from livephase.errors import ConfigurationError
from livephase_devices.config import CONFIG_FOLDER, MicroscopeConfig

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_STRICT = ConfigDict(frozen=True, extra="forbid")


class ServerTable(BaseModel):
    """Table ``[service]``: where it listens and where runs are stored.

    Attributes
    ----------
    host : str
        Address to listen on; only loopback addresses are served.
    port : int
        TCP port; 0 chooses a free one.
    data : Path
        Folder of the runs; made if it does not exist.
    """

    model_config = _STRICT

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data: Path = Path("livephase-data")


class ModelTable(BaseModel):
    """Table ``[model]``: which network, computed by what.

    Without ``name`` and ``path`` a model is chosen whose valid range fits the microscope (``phase.choice``).

    Attributes
    ----------
    name : str or None
        Name of a bundled or imported model.
    path : Path or None
        A model file.
    runtime : str
        ``"auto"``, ``"openvino"``, ``"torch-cpu"`` or ``"torch-cuda"``.
    """

    model_config = _STRICT

    name: str | None = None
    path: Path | None = None
    runtime: Literal["auto", "openvino", "torch-cpu", "torch-cuda"] = "auto"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.name is not None and self.path is not None:
            raise ValueError("give name or path, not both")
        return self


class LiveTable(BaseModel):
    """Table ``[live]``: what the microscope does when the service starts.

    Attributes
    ----------
    on_start : bool
        Whether live mode starts with the service.
    defocus_um : float or None
        Defocus that is set at the start; None leaves the lens where it is.
    """

    model_config = _STRICT

    on_start: bool = False
    defocus_um: float | None = Field(default=None, allow_inf_nan=False)


class IlluminationTable(BaseModel):
    """Table ``[illumination]``: reference frames of the camera, as made by ``livephase illumination``.

    Attributes
    ----------
    dark, flat : Path or None
        Dark frame and flat field. Without a flat field the light is estimated from every frame.
    """

    model_config = _STRICT

    dark: Path | None = None
    flat: Path | None = None


class ServiceConfig(BaseModel):
    """Everything that the service is started with."""

    model_config = _STRICT

    microscope: MicroscopeConfig
    service: ServerTable = ServerTable()
    model: ModelTable = ModelTable()
    live: LiveTable = LiveTable()
    illumination: IlluminationTable = IlluminationTable()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file, or a bundled one by its name, such as ``demo.toml``.

        Raises
        ------
        ConfigurationError
            The file cannot be read, is no TOML, or one of the service's tables is wrong; one line.
        MicroscopeConfigError
            The table ``[microscope]``, or the cfg that it names, is wrong; one line.
        """
        microscope = MicroscopeConfig.load(path)
        is_bundled = not path.exists()
        folder = Path.cwd() if is_bundled else path.parent
        source = CONFIG_FOLDER / path if is_bundled else path
        document: dict[str, Any] = tomllib.loads(source.read_text(encoding="utf-8"))
        document["microscope"] = microscope
        try:
            config = cls.model_validate(document)
        except ValidationError as error:
            raise ConfigurationError(f"{path}: {'; '.join(map(_problem, error.errors()))}") from error
        service = config.service.model_copy(update={"data": folder / config.service.data})
        model = config.model
        if model.path is not None:
            model = model.model_copy(update={"path": folder / model.path})
        named = {"dark": config.illumination.dark, "flat": config.illumination.flat}
        found = {kind: None if path is None else folder / path for kind, path in named.items()}
        illumination = config.illumination.model_copy(update=found)
        return config.model_copy(update={"service": service, "model": model, "illumination": illumination})


def _problem(detail: ErrorDetails) -> str:
    """Return one validation problem as one short sentence."""
    *table, key = [str(part) for part in detail["loc"]]
    where = f"[{'.'.join(table)}] " if table else ""
    if detail["type"] == "extra_forbidden":
        return f"{where}unknown {'key' if table else 'table or key'} {key!r}"
    return f"{where}{key}: {detail['msg']} (found {detail['input']!r})"
