"""The service's runs: judged, started, found again, cancelled; those in the data folder and the present one."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import shutil
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from livephase.acquisition.focus import OFFSET, SWEEP_UM
from livephase.acquisition.progress import ENDED
from livephase.acquisition.runner import Run
from livephase.api.provenance import provenance
from livephase.api.recording import LATE, StoreSink
from livephase.api.schemas import CountersOut, Estimate, RunOut
from livephase.clock import iso_utc
from livephase.errors import ConflictError, PlanError, RunNotFoundError, StorageError
from livephase.storage.catalogue import list_runs, read_run
from livephase.storage.layout import SUFFIX, estimated_bytes
from livephase.storage.recovery import mark_interrupted
from livephase.storage.spec import RunSpec
from livephase.storage.writer import RunWriter
from livephase_devices.errors import DeviceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from livephase.acquisition.plan import AcquisitionPlan
    from livephase.acquisition.thread import AcquisitionThread
    from livephase.api.illumination import Illumination
    from livephase.api.models import Models
    from livephase.api.publisher import Publisher
    from livephase.inference.active import ActiveInference
    from livephase.storage.catalogue import RunInfo
    from livephase_devices.microscope import Microscope, MicroscopeState

log = logging.getLogger(__name__)

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
TURN_S: Final = 120.0
"""Longest wait for the acquisition thread; a device call within it has its own, shorter time-out."""
RESTARTED: Final = "the service ended while the run was going on; this was found at its next start"


class Runs:
    """All runs of one data folder.

    Parameters
    ----------
    data : Path
        Folder of the stores; exists.
    microscope, models, engine, thread, publisher, illumination
        What a new run uses.
    """

    def __init__(
        self,
        data: Path,
        microscope: Microscope,
        models: Models,
        engine: ActiveInference,
        thread: AcquisitionThread,
        publisher: Publisher,
        illumination: Illumination,
    ) -> None:
        self._data = data
        self._microscope = microscope
        self._models = models
        self._engine = engine
        self._thread = thread
        self._publisher = publisher
        self._illumination = illumination
        self._starting = threading.Lock()
        self._newest: Run | None = None
        self._keys: dict[str, tuple[str, str]] = {}

    def recover(self) -> list[str]:
        """Close runs that an earlier service left running; return what could not be read or closed."""
        catalogue = list_runs(self._data)
        problems = [f"{broken.path.name}: {broken.problem}" for broken in catalogue.broken]
        for run in catalogue.runs:
            known = run.provenance.get("idempotency")
            if isinstance(known, dict):
                self._keys[str(known["key"])] = (str(known["body_sha256"]), _id_of(run.path))
            if run.state in ENDED:
                continue
            try:
                if mark_interrupted(run.path, RESTARTED):
                    log.warning("run %s was interrupted; its store is closed", _id_of(run.path))
            except StorageError as error:
                problems.append(str(error))
        return problems

    def estimate(self, plan: AcquisitionPlan) -> Estimate:
        """Say what a plan needs, and what speaks against it, without doing anything."""
        state = self._ready_state()
        self._refuse_unreachable(plan, state)
        self._illumination.refuse_misfit(state)
        return Estimate(
            bytes=estimated_bytes(self._spec("dry-run", plan, state, {})),
            duration_s=plan.duration_s if plan.interval_s > 0 else None,
            warnings=self._warnings(plan, state),
            disk_free_bytes=self.disk_free_bytes,
        )

    def start(self, plan: AcquisitionPlan, key: str | None) -> RunOut:
        """Create the store of a run and give it the microscope.

        Parameters
        ----------
        plan : AcquisitionPlan
            What to record.
        key : str or None
            Idempotency key: a second request with the same key and plan gets the run of the first one.

        Raises
        ------
        ConflictError
            Another run has the microscope, or the key was used for another plan.
        PlanError
            The plan cannot be carried out on this microscope or does not fit on the disk.
        StorageError
            The store cannot be created.
        """
        digest = hashlib.sha256(plan.model_dump_json().encode()).hexdigest()
        with self._starting:
            if key is not None and key in self._keys:
                known_digest, run_id = self._keys[key]
                if known_digest != digest:
                    raise ConflictError(f"the Idempotency-Key {key!r} was used for another plan (run {run_id})")
                return self.get(run_id)
            self._thread.refuse_during_run("a second run cannot start")
            run = self._create(plan, None if key is None else {"key": key, "body_sha256": digest})
            if key is not None:
                self._keys[key] = (digest, run.run_id)
            return self._out(run)

    @contextlib.contextmanager
    def between_runs(self, what: str) -> Generator[None]:
        """Let no run start within the context; ConflictError, whose message ``what`` begins, while one is going on."""
        with self._starting:
            self._thread.refuse_during_run(what)
            yield

    def list(self) -> list[RunOut]:
        """Return all runs, the newest first."""
        return [self._stored(info) for info in list_runs(self._data).runs]

    def get(self, run_id: str) -> RunOut:
        """Return one run; RunNotFoundError when there is none of that id."""
        newest = self._newest
        if newest is not None and newest.run_id == run_id:
            return self._out(newest)
        return self._stored(read_run(self.store(run_id)))

    def cancel(self, run_id: str) -> RunOut:
        """Ask a run to end; ConflictError when it has ended."""
        newest = self._newest
        if newest is None or newest.run_id != run_id or newest.progress.state in ENDED:
            state = self.get(run_id).state
            raise ConflictError(f"run {run_id} has ended already ({state}); it cannot be cancelled")
        newest.stop("cancelled", "cancelled by the user")
        return self._out(newest)

    def store(self, run_id: str) -> Path:
        """Return the store of a run; RunNotFoundError when there is none of that id."""
        path = self.path(run_id)
        if not _ID.fullmatch(run_id) or not path.is_dir():
            raise RunNotFoundError(f"no run has the id {run_id[:100]!r}; GET /api/v1/acquisitions lists them")
        return path

    def path(self, run_id: str) -> Path:
        """Return where the store of a run is, or would be."""
        return self._data / f"{run_id}{SUFFIX}"

    @property
    def disk_free_bytes(self) -> int:
        """Free space in the data folder."""
        return shutil.disk_usage(self._data).free

    def _create(self, plan: AcquisitionPlan, idempotency: dict[str, str] | None) -> Run:
        state = self._ready_state()
        self._refuse_unreachable(plan, state)
        self._illumination.refuse_misfit(state)
        warnings = self._warnings(plan, state)
        self._refuse_without_room(plan, state)
        self._apply(plan)
        created_ns = time.time_ns()
        run_id = datetime.fromtimestamp(created_ns / 1e9, UTC).strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
        described = provenance(
            plan,
            self._microscope,
            self._engine.card,
            runtime=self._engine.status().runtime,
            preprocessing=self._illumination.in_use.described(),
            warnings=warnings,
            range_problems=self._publisher.range_problems(plan.defocus_um),
            created_utc=iso_utc(created_ns),
            idempotency=idempotency,
        )
        spec = self._spec(run_id, plan, state, described)
        sink = StoreSink(RunWriter.create(self.path(run_id), spec))
        run = Run(
            run_id,
            plan,
            sink,
            microscope=self._microscope,
            engine=self._engine,
            observer=self._publisher,
            frame_shape=spec.lr_shape,
            bit_depth=cast("int", state.bit_depth),
            warnings=tuple(warnings),
            dark=self._illumination.dark_image,
        )
        self._publisher.run_changed(run.progress)
        self._newest = run
        try:
            self._thread.start_run(run)
        except ConflictError as error:  # the service is stopping: the store must not stay open
            run.abandon("interrupted", str(error))
            raise
        return run

    def _apply(self, plan: AcquisitionPlan) -> None:
        """Set exposure and defocus of the plan, so that the state kept with the run is that of its frames."""
        defocus_um = None if self._microscope.config.lens is None else plan.defocus_um
        future = self._thread.apply(exposure_ms=plan.exposure_ms, defocus_um=defocus_um)
        try:
            future.result(TURN_S)
        except TimeoutError:
            future.cancel()
            raise DeviceTimeoutError(
                f"the microscope had no time to prepare the run within {TURN_S:g} s; see GET /api/v1/health",
                self._microscope.config.camera,
            ) from None

    def _refuse_without_room(self, plan: AcquisitionPlan, state: MicroscopeState) -> None:
        needed, free = estimated_bytes(self._spec("no-room", plan, state, {})), self.disk_free_bytes
        if needed > free:
            raise PlanError(
                f"the run needs about {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in {self._data};"
                " record fewer time points or free some space"
            )

    def _ready_state(self) -> MicroscopeState:
        state = self._microscope.state()
        if state.fault is not None or state.sensor_shape is None or state.bit_depth is None:
            raise PlanError(f"the microscope cannot be used at present: {state.fault or 'it is not open'}")
        return state

    def _refuse_unreachable(self, plan: AcquisitionPlan, state: MicroscopeState) -> None:
        uncalibrated = self._microscope.config.uncalibrated_range_problem(plan.defocus_um)
        if uncalibrated is not None and self._microscope.config.lens is not None:
            raise PlanError(uncalibrated)
        limits = state.defocus_limits_um
        if plan.focus_every is not None:
            self._refuse_without_focus(limits)
        if limits is not None and not limits[0] <= plan.defocus_um <= limits[1]:
            raise PlanError(
                f"defocus_um = {plan.defocus_um:g} is outside the range of the lens, {limits[0]:g} to {limits[1]:g} um"
            )

    def _refuse_without_focus(self, limits: tuple[float, float] | None) -> None:
        """Refuse to hold the focus where it cannot be swept through."""
        if self._microscope.config.lens is None:
            raise PlanError("focus_every needs a lens that the service can move; leave it out")
        if limits is not None and not limits[0] <= SWEEP_UM[0] < SWEEP_UM[-1] <= limits[1]:
            raise PlanError(
                f"focus_every sweeps the lens through the focus, from {SWEEP_UM[0]:g} to {SWEEP_UM[-1]:g} um; its "
                f"range is only {limits[0]:.3g} to {limits[1]:.3g} um"
            )

    def _warnings(self, plan: AcquisitionPlan, state: MicroscopeState) -> list[str]:
        warnings = self._publisher.range_problems(plan.defocus_um)
        warnings += self._models.advice(self._engine.card, plan.defocus_um)
        exposure_ms = state.exposure_ms if plan.exposure_ms is None else plan.exposure_ms
        warnings += self._illumination.warnings(exposure_ms)
        warnings += self._publisher.exposure_problems(exposure_ms, self._illumination.offset_counts)
        last_ms = self._engine.status().last_ms
        if last_ms is not None and plan.time_points > 1 and plan.interval_s < last_ms / 1000:
            warnings.append(
                f"interval_s = {plan.interval_s:g} is shorter than one inference ({last_ms / 1000:.2f} s): every raw"
                " frame is stored in time, phase follows later."
            )
        return warnings

    def _spec(self, run_id: str, plan: AcquisitionPlan, state: MicroscopeState, described: dict[str, Any]) -> RunSpec:
        dtype: Literal["uint8", "uint16"] = "uint8" if cast("int", state.bit_depth) <= 8 else "uint16"
        return RunSpec(
            run_id=run_id,
            name=plan.name,
            frames=plan.time_points,
            interval_s=plan.interval_s,
            lr_shape=cast("tuple[int, int]", state.sensor_shape),
            dtype=dtype,
            scale=self._engine.card.scale,
            lr_pixel_um=state.lr_pixel_um,
            defocus_um=plan.defocus_um,
            recorded=(
                *self._microscope.config.recorded_properties,
                LATE,
                *(() if plan.focus_every is None else (OFFSET,)),
            ),
            provenance=described,
        )

    def _out(self, run: Run) -> RunOut:
        return RunOut.of_progress(run.progress, str(self.path(run.run_id)))

    def _stored(self, info: RunInfo) -> RunOut:
        run_id = _id_of(info.path)
        newest = self._newest
        if newest is not None and newest.run_id == run_id:
            return self._out(newest)
        warnings = info.provenance.get("warnings")
        return RunOut(
            id=run_id,
            name=info.spec.name,
            state=info.state,
            reason=info.reason,
            time_points=info.spec.frames,
            interval_s=info.spec.interval_s,
            defocus_um=info.spec.defocus_um,
            created_utc=info.created_utc,
            started_utc=info.started_utc,
            ended_utc=info.ended_utc,
            counters=CountersOut.of(info.counters),
            remaining_s=None,
            misfit=info.misfit,
            path=str(info.path),
            warnings=[str(one) for one in warnings] if isinstance(warnings, list) else [],
        )


def _id_of(store: Path) -> str:
    return store.name.removesuffix(SUFFIX)
