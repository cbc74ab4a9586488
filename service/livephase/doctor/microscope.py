"""Checks that a configuration loads with all its devices and roles, and that a model fits the microscope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from livephase.doctor.finding import Finding
from livephase.doctor.process import ChildDiedError, results
from livephase.errors import ModelError
from livephase.phase.choice import Optics, choose, problems_of
from livephase.phase.library import find_model, known_models
from livephase_devices.session import LOAD_FACTOR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from livephase.config import ServiceConfig

_CLOSE: Final = (
    "end other programs that use the devices (Micro-Manager, a running livephase), check power and cables, and correct "
    "the file that is named"
)


def check_microscope(path: Path, config: ServiceConfig, states: list[dict[str, Any]]) -> Iterator[Finding]:
    """Load the microscope in a child, and unload it.

    Parameters
    ----------
    path : Path
        The TOML, or the name of a bundled one.
    config : ServiceConfig
        What is in it.
    states : list
        Gets the microscope's state, where it loads.
    """
    # A device may take its time to initialise, and unloading one call time-out more.
    silence_s = (LOAD_FACTOR + 2) * config.microscope.call_timeout_s + 60.0
    try:
        for result in results("microscope", str(path), silence_s=silence_s):
            if "error" in result:
                doing = "unload" if states else "load"
                yield Finding.wrong("microscope", f"{path} does not {doing}: {result['error']}", _CLOSE)
            if "state" in result:
                states.append(result["state"])
                yield from _described(result["state"], result["devices"], config)
    except ChildDiedError as error:
        doing = "unloading" if states else "loading"
        words = f": {error.last_words}" if error.last_words else ""
        yield Finding.wrong(
            "microscope",
            f"{doing} {config.microscope.cfg.name} {error.how}{words}",
            "take devices out of the cfg until it loads; the last one taken out is the one that fails",
        )


def _described(state: dict[str, Any], devices: list[str], config: ServiceConfig) -> Iterator[Finding]:
    if state["fault"] is not None:
        yield Finding.wrong("microscope", f"it loads, but then: {state['fault']}", _CLOSE)
        return
    height, width = state["sensor_shape"]
    text = f"{state['name']}: {len(devices)} devices initialise ({', '.join(devices)})"
    yield Finding.ok("microscope", text)
    exposure = f"{state['bit_depth']} bit, exposure {state['exposure_ms']:g} ms"
    yield Finding.ok("microscope", f"camera {state['camera']}: {width} x {height} pixels, {exposure}")
    if state["lens"] is None:
        yield Finding.note("microscope", "no lens: the defocus is what its user states")
        return
    limits = state["defocus_limits_um"]
    span = "states no limits" if limits is None else f"reaches {limits[0]:g} to {limits[1]:g} um"
    yield Finding.ok("microscope", f"lens {state['lens']}: defocus {state['defocus_um']:g} um, {span}")
    start_um = config.live.defocus_um
    if limits is not None and start_um is not None and not limits[0] <= start_um <= limits[1]:
        yield Finding.wrong(
            "microscope",
            f"[live] defocus_um = {start_um:g} is outside the range of the lens",
            "correct it, or lens_um_per_unit and lens_focus_position",
        )


def check_models(config: ServiceConfig | None) -> Iterator[Finding]:
    """Look whether models are there, and whether one fits the configured microscope."""
    try:
        known, problems = known_models()
    except ModelError as error:
        yield Finding.wrong("models", str(error), "install livephase again")
        return
    for problem in problems:
        yield Finding.wrong("models", problem, "remove that file, or import the model again: livephase models import")
    if not known:
        yield Finding.wrong("models", "no model is there", "install livephase again")
        return
    yield Finding.ok("models", ", ".join(f"{one.card.name} {one.card.version} ({one.source})" for one in known))
    if config is None:
        return
    microscope = config.microscope
    optics = Optics(microscope.lr_pixel_um, microscope.wavelength_um, config.live.defocus_um, microscope.coherence)
    best = choose(known, optics)
    named = config.model.name or config.model.path
    try:
        model = best.model if named is None else find_model(named)
    except ModelError as error:
        yield Finding.wrong("models", str(error), "correct the table [model]")
        return
    outside = problems_of(model.card, optics)
    if outside:
        text = f"model '{model.card.name}': {' '.join(outside)}"
        yield Finding.wrong("models", text, best.advice(optics, microscope.objective_na))
    else:
        yield Finding.ok("models", f"'{model.card.name}' fits the microscope")
