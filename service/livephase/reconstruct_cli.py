"""The command ``livephase reconstruct``: recorded frames in, OME-Zarr with phase out."""

from __future__ import annotations

import hashlib
import platform
import time
import uuid
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from livephase.errors import ConfigurationError, InferenceError, ModelRangeError

if TYPE_CHECKING:
    from livephase.acquisition.lamp import FrameLight
    from livephase.frames import Misfit
    from livephase.inference.client import InferenceClient
    from livephase.inference.reconstruct import FramePlan, Pixels
    from livephase.phase.choice import Choice, Optics
    from livephase.phase.modelfile import ModelCard
    from livephase.recorded_references import References
    from livephase.storage import RunSpec, RunWriter
    from livephase_devices.recording import Recording

_START_TIMEOUT_S = 300.0
_SUFFIX = ".ome.zarr"


def reconstruct(
    recording: Annotated[Path, typer.Argument(metavar="IN", help="TIFF, folder of TIFFs, OME-TIFF or OME-Zarr.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New store, named *.ome.zarr.")],
    defocus_um: Annotated[float, typer.Option(help="Distance of the lens focus above the specimen, um.")],
    pixel_um: Annotated[float, typer.Option(min=0.001, help="Pixel of the frames at the specimen, um.")],
    wavelength_um: Annotated[float, typer.Option(min=0.1, max=2.0, help="Wavelength, um.")],
    coherence: Annotated[float | None, typer.Option(min=0, help="S = NA_condenser / NA_objective.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of a model, or a model file; by default one that fits.")
    ] = None,
    flat_field: Annotated[
        str,
        typer.Option(
            "--flat", "--flat-field", help="auto (estimated from each frame), none, or a flat field: .npz or images."
        ),
    ] = "auto",
    dark: Annotated[Path | None, typer.Option(help="Dark frame: .npz of 'livephase illumination', or images.")] = None,
    allow_out_of_range: Annotated[
        bool, typer.Option("--allow-out-of-range", help="Compute outside the model's valid range.")
    ] = False,
) -> None:
    """Compute the phase of recorded frames, one phase for each frame.

    Frames with pixels finer than the model's are averaged onto its pixels first.
    """
    from livephase.inference.client import InferenceClient
    from livephase.inference.reconstruct import plan_frames
    from livephase.phase.choice import Optics
    from livephase.recorded_references import read_references

    _check_out(out)
    optics = Optics(pixel_um, wavelength_um, defocus_um, coherence)
    choice, advice = _choose(model, optics)
    card, problems = choice.model.card, list(choice.problems)
    if problems and not allow_out_of_range:
        override = "--allow-out-of-range computes it all the same, at your own judgement."
        raise ModelRangeError(f"model '{card.name}': {' '.join(problems)} {advice} {override}")
    with closing(_open(recording)) as frames:
        plan = plan_frames(card, (frames.frame(index) for index in range(frames.count)), pixel_um)
        references = read_references(dark, flat_field, frames, plan)
        with InferenceClient(
            choice.model.path,
            lr_pixel_um=plan.lr_pixel_um,
            wavelength_um=wavelength_um,
            coherence=coherence,
            flat_field=references.flat_field,
            dark=references.dark,
        ) as client:
            client.wait_ready(_START_TIMEOUT_S)
            provenance = _provenance(frames, plan, card, optics, flat_field, problems, client.status().runtime)
            provenance["preprocessing"] = references.described
            spec = _spec(out, frames, plan, card, defocus_um, provenance)
            _reconstruct(client, frames, plan, references, spec, out)
    for problem in problems:
        print(f"outside the model's valid range: {problem}")


def _choose(model: str | None, optics: Optics) -> tuple[Choice, str]:
    """Return the model that is named or else chosen, and what to say where it does not fit."""
    from livephase.phase.choice import choose_for_recording
    from livephase.phase.library import find_model, known_models

    named = [] if model is None else [find_model(model)]
    known, _ = known_models()
    best = choose_for_recording(known or named, optics)
    return choose_for_recording(named or known, optics), best.advice(optics)


def _check_out(out: Path) -> None:
    if not out.name.endswith(_SUFFIX):
        raise ConfigurationError(f"{out}: the name of the output must end in {_SUFFIX}")
    if out.exists():
        raise ConfigurationError(f"{out} exists already and is not overwritten; choose another name")
    if not out.absolute().parent.is_dir():
        raise ConfigurationError(f"{out}: its folder does not exist; create it first")


def _open(path: Path) -> Recording:
    from livephase_devices.recording import Recording

    try:
        return Recording(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(error)) from error


def _spec(
    out: Path, frames: Recording, plan: FramePlan, card: ModelCard, defocus_um: float, provenance: dict[str, Any]
) -> RunSpec:
    from livephase.storage import RunSpec

    return RunSpec(
        run_id=uuid.uuid4().hex,
        name=out.name.removesuffix(_SUFFIX),
        frames=frames.count,
        interval_s=0.0,
        lr_shape=plan.lr_shape,
        dtype="uint8" if plan.dtype == "uint8" else "uint16",
        scale=card.scale,
        lr_pixel_um=plan.lr_pixel_um,
        defocus_um=defocus_um,
        provenance=provenance,
    )


def _reconstruct(
    client: InferenceClient, frames: Recording, plan: FramePlan, references: References, spec: RunSpec, out: Path
) -> None:
    from livephase.recorded_references import describe_light
    from livephase.storage import RunWriter

    writer = RunWriter.create(out, spec)
    try:
        failures, doubtful, lights = _write_frames(client, frames, plan, references, writer)
    except BaseException as error:
        cancelled = isinstance(error, KeyboardInterrupt)
        writer.finish("cancelled" if cancelled else "failed", "stopped by the user" if cancelled else str(error))
        raise
    writer.finish("completed")
    height, width = spec.hr_shape
    done = frames.count - len(failures)
    print(f"{out}: {done} of {frames.count} phases, {height} x {width} at {spec.hr_pixel_um:.4g} um, {spec.name}")
    if doubtful:
        worst = max(doubtful, key=lambda index: doubtful[index].value)
        print(
            f"misfit: {len(doubtful)} of {done} phases do not explain their frames "
            f"(above {doubtful[worst].threshold:.1f}); the worst is frame {worst} with {doubtful[worst].value:.1f}. "
            "Check defocus, pixel, coherence and dirt; frames/misfit_map in the store shows where"
        )
    for line in describe_light(lights):
        print(line)
    if failures:
        first, why = next(iter(failures.items()))
        raise InferenceError(f"{len(failures)} of {frames.count} frames have no phase; frame {first}: {why}")


def _write_frames(
    client: InferenceClient, frames: Recording, plan: FramePlan, references: References, writer: RunWriter
) -> tuple[dict[int, InferenceError], dict[int, Misfit], list[FrameLight]]:
    """Write every frame; return why frames have no phase, the misfits that are raised, and the light of all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from livephase.acquisition.lamp import LampMonitor
    from livephase.inference.reconstruct import reconstruct as compute
    from livephase.storage import FrameRecord, PhaseRecord

    failures: dict[int, InferenceError] = {}
    doubtful: dict[int, Misfit] = {}
    lights: list[FrameLight] = []
    lamp = LampMonitor(plan.recorded_bits, references.recorded_dark)

    def converted(index: int) -> Pixels:
        recorded = frames.frame(index)
        lights.append(lamp.judge(recorded)[0])  # of the counts as recorded: averages do not saturate
        return plan.convert(recorded)

    columns = (TextColumn("reconstructing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=frames.count)
        results = compute(client, map(converted, range(frames.count)), writer.spec.defocus_um, plan.bit_depth)
        for index, (pixels, result) in enumerate(results):
            record = FrameRecord(
                time_utc_ns=time.time_ns(),
                time_monotonic_ns=None,
                defocus_um=None,
                exposure_ms=None,
                light=lights[index],
            )
            writer.write_raw(index, pixels, record)
            if isinstance(result, InferenceError):
                failures[index] = result
                writer.mark_phase_missing(index, str(result))
            else:
                phase_record = PhaseRecord(result.inference_ms, result.runtime, misfit=result.misfit)
                writer.write_phase(index, result.phase_rad, phase_record)
                if result.misfit is not None and result.misfit.is_raised:
                    doubtful[index] = result.misfit
            bar.advance(task)
    return failures, doubtful, lights


def _provenance(
    frames: Recording,
    plan: FramePlan,
    card: ModelCard,
    optics: Optics,
    flat_field: str,
    problems: list[str],
    runtime: str | None,
) -> dict[str, Any]:
    resampling = {
        "from_um": plan.recorded_pixel_um,
        "to_um": plan.lr_pixel_um,
        "method": "area average",
        "counts_per_recorded_count": plan.gain,
    }
    return {
        "kind": "reconstruction",
        "created_utc": datetime.now(UTC).isoformat(),
        "source": {
            "name": frames.path.name,
            "sha256": _sha256(frames.path) if frames.path.is_file() else None,
            "frames": frames.count,
            "shape": list(frames.shape),
            "dtype": str(frames.dtype),
            "pixel_um": plan.recorded_pixel_um,
        },
        # A recording carries no times that could be trusted.
        "frame_times": (
            "time_utc_ns is the time of processing, when each phase was computed. The start and the length of the "
            "exposures, a confirmed defocus and the latency are not known: time_monotonic_ns is 0, exposure_ms, "
            "defocus_um and latency_ms are NaN. The stated defocus is in values."
        ),
        "resampling": resampling if plan.is_resampled else None,
        "values": {
            "defocus_um": optics.defocus_um,
            "lr_pixel_um": plan.lr_pixel_um,
            "wavelength_um": optics.wavelength_um,
            "coherence": optics.coherence,
            "flat_field": flat_field,
        },
        "outside_valid_range": problems,
        "model": card.model_dump(mode="json", include={"name", "version", "sha256", "architecture", "scale", "valid"}),
        "runtime": runtime,
        "software": {"livephase": version("livephase"), "python": platform.python_version()},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
