"""The commands ``livephase illumination``: measure a dark frame or a flat field on a microscope."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.progress import Progress

    from livephase.acquisition.reference_frames import DarkRequest, FlatRequest
    from livephase.phase.reference import Reference

illumination = typer.Typer(help="Measure the camera's dark frame and the flat field.", no_args_is_help=True)

_Config = Annotated[Path, typer.Option(help="TOML with the table [microscope].")]
_Out = Annotated[Path, typer.Option(help="New file, named *.npz.")]
_Exposure = Annotated[float | None, typer.Option(min=0.001, help="Exposure, ms; by default that of the cfg.")]


@illumination.command("dark")
def measure_dark(
    config: _Config,
    out: _Out,
    frames: Annotated[int, typer.Option(min=2, max=500, help="Number of frames.")] = 32,
    exposure_ms: _Exposure = None,
) -> None:
    """Average frames without light: shut the lamp out first. A lit frame is refused."""
    from livephase.acquisition.reference_frames import DarkRequest

    _measure(config, out, DarkRequest(frames=frames), exposure_ms, None, ask=False)


@illumination.command("flat")
def measure_flat(
    config: _Config,
    out: _Out,
    dark: Annotated[Path | None, typer.Option(help="Dark frame; by default that of [illumination].")] = None,
    method: Annotated[
        Literal["empty", "fields"],
        typer.Option(help="empty: only medium in view; fields: cells in view, the dish is moved between frames."),
    ] = "empty",
    frames: Annotated[int, typer.Option(min=2, max=500, help="Number of frames.")] = 32,
    interval_s: Annotated[float, typer.Option(min=0, max=600, help="Time to move the dish, s.")] = 0.0,
    ask: Annotated[bool, typer.Option("--ask", help="Wait for Enter before each frame, to move the dish.")] = False,
    exposure_ms: _Exposure = None,
) -> None:
    """Take the light on the field: of an empty field, or of several fields with cells."""
    from pydantic import ValidationError

    from livephase.acquisition.reference_frames import FlatRequest
    from livephase.config import ServiceConfig
    from livephase.phase.reference import load_reference

    try:
        request = FlatRequest(frames=frames, method=method, interval_s=interval_s)
    except ValidationError as error:
        raise ConfigurationError(f"--frames {frames}: {error.errors()[0]['msg']}") from None
    path = dark if dark is not None else ServiceConfig.load(config).illumination.dark
    _measure(config, out, request, exposure_ms, None if path is None else load_reference(path, "dark"), ask=ask)


def _measure(
    config: Path,
    out: Path,
    request: DarkRequest | FlatRequest,
    exposure_ms: float | None,
    dark: Reference | None,
    *,
    ask: bool,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from livephase.acquisition.reference_frames import Measurement
    from livephase.phase.reference import save_reference
    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.microscope import Microscope

    if out.suffix != ".npz" or out.exists() or not out.absolute().parent.is_dir():
        raise ConfigurationError(f"{out}: the output is a new file named *.npz, in a folder that exists")
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Microscope(MicroscopeConfig.load(config)) as microscope,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        if exposure_ms is not None:
            microscope.set_exposure_ms(exposure_ms)
        task = bar.add_task("", total=request.frames)

        def wait(seconds: float) -> bool:
            if ask:
                _ask(bar)
            time.sleep(seconds)
            return False

        measurement = Measurement(request, microscope.state(), microscope.snap, wait, dark)
        image, info = measurement.run(lambda taken: bar.update(task, completed=taken))
    saved = save_reference(out, image, info)
    print(f"{out}: {info.kind} of {info.frames} frames at {info.exposure_ms:g} ms, sha256 {saved.sha256[:12]}")
    for name, value in info.figures.items():
        print(f"  {name}: {value:.4g}")
    if info.smoothing_px is not None:
        print(f"  smoothed over {info.smoothing_px:.3g} px (sigma); dust that stays in place is kept")
    for warning in info.warnings:
        print(f"  warning: {warning}")


def _ask(bar: Progress) -> None:
    try:
        bar.console.input("move the dish, then press Enter ")
    except EOFError:
        raise ConfigurationError("--ask needs a terminal to wait for Enter; use --interval-s without one") from None
