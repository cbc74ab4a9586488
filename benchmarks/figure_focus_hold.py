"""Focus hold over a simulated 72 h: a lens that drifts by 0.5 um/h under a growing culture; makes the docs' figure.

``python -m benchmarks.figure_focus_hold OUT.png [--hours 72] [--every 3]``. Time is compressed: between two frames the
specimen ages and the lens drifts by what 10 min would bring. Everything else is what a run does: the real run, the real
core, frames of the simulated microscope.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from livephase.acquisition.plan import AcquisitionPlan
from livephase.acquisition.progress import Counters
from livephase.acquisition.runner import Run
from livephase.errors import InferenceError
from livephase.evaluation.drawing import COLOURS, new_figure
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from livephase.acquisition.focus import FocusAttempt
    from livephase.acquisition.lamp import FrameLight
    from livephase.acquisition.ports import Observer
    from livephase.acquisition.progress import RunState
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame

INTERVAL_S = 600.0
DEFOCUS_UM = 6.0
START_H = 8.0
SIDE_PX = 128
CFG = f"""
#py pyDevice,Camera,livephase_devices.twin.camera,TwinCamera
#py pyDevice,Lens,livephase_devices.twin.lens,TwinLens
#py Property,Camera,OnCameraCCDXSize,{SIDE_PX}
#py Property,Camera,OnCameraCCDYSize,{SIDE_PX}
#py Property,Camera,StartTime-h,{START_H:g}
#py Property,Lens,Range,60
Property,Core,Initialize,1
#py Property,Camera,Coherence,0.3
#py Property,Camera,AbsorptionPerRad,0.02
#py Property,Camera,Exposure,20
#py Property,Lens,SettlingTime-ms,0
"""


@dataclass
class DriftingSink:
    """Keeps the true defocus of every frame, and lets 10 min pass after it."""

    microscope: Microscope
    um_per_h: float
    total: int
    true_um: list[float] = field(default_factory=list[float])
    offset_um: list[float] = field(default_factory=list[float])
    problems: list[str] = field(default_factory=list[str])
    attempts: list[FocusAttempt] = field(default_factory=list[Any])
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def counters(self) -> Counters:
        """Frames so far."""
        return Counters(self.total, raw_written=len(self.true_um), phase_missing=len(self.true_um))

    def write_raw(self, index: int, frame: CameraFrame, *, time_utc_ns: int, late_s: float, light: FrameLight) -> None:
        """Keep what the simulation knows, then age the culture and the lens."""
        self.true_um.append(frame.properties["Camera.TrueDefocus-um"])
        self.offset_um.append(frame.properties["Focus.offset_um"])
        hours = (index + 1) * INTERVAL_S / 3600.0
        self.microscope.set_property("Lens", "Drift-um", -self.um_per_h * hours)
        if (index + 1) % 6 == 0:  # once an hour: rendering a culture costs more than imaging it
            self.microscope.set_property("Camera", "SpecimenTime-s-Set", (START_H + hours) * 3600.0)
        if (index + 1) % 60 == 0:
            print(f"{hours:5.1f} h, {time.monotonic() - self.begun_s:.0f} s", file=sys.stderr, flush=True)

    def note_focus(self, attempt: FocusAttempt, *, utc_ns: int) -> None:
        """Keep it."""
        self.attempts.append(attempt)

    def mark_raw_missing(self, index: int, reason: str) -> None:
        """A frame is missing: the simulation has no reason for that."""
        self.problems.append(f"{index}: {reason}")

    def read_raw(self, index: int) -> NDArray[np.uint8]:
        """No engine, no phase: nobody reads a frame back."""
        raise AssertionError(index)

    def write_phase(self, index: int, result: PhaseResult, *, backfilled: bool) -> None:
        """No engine, no phase."""
        raise AssertionError(index)

    def mark_phase_missing(self, index: int, reason: str) -> None:
        """There is no engine."""

    def finish(self, state: RunState, reason: str | None, *, raw_reason: str, phase_reason: str) -> None:
        """Note a run that did not complete."""
        if state != "completed":
            self.problems.append(f"{state}: {reason}")


class NoEngine:
    """Phase is not what is judged here."""

    def status(self) -> Any:
        """It never starts."""
        return SimpleNamespace(state="stopped")

    def submit(self, pixels: NDArray[Any], defocus_um: float, *, bit_depth: int) -> Future[PhaseResult]:
        """Refuse."""
        raise InferenceError("no engine in this simulation")


class Silent:
    """An observer that nobody looks through; faults go to stderr."""

    def fault(self, message: str) -> None:
        """Print it."""
        print(message, file=sys.stderr)

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None


def simulate(hours: float, every: int, um_per_h: float) -> DriftingSink:
    """Run the time-lapse; return what was kept of it."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = Path(folder) / "soak.cfg"
        cfg.write_text(CFG, encoding="utf-8")
        config = MicroscopeConfig.load("twin.toml").model_copy(
            update={"cfg": cfg, "z_drive": None, "recorded_properties": ("Camera.TrueDefocus-um",)}
        )
        plan = AcquisitionPlan(
            time_points=round(hours * 3600 / INTERVAL_S), interval_s=0.0, defocus_um=DEFOCUS_UM, focus_every=every
        )
        with Microscope(config) as microscope:
            sink = DriftingSink(microscope, um_per_h, plan.time_points)
            run = Run(
                "soak",
                plan,
                sink,
                microscope=microscope,
                engine=NoEngine(),
                observer=cast("Observer", Silent()),
                frame_shape=(SIDE_PX, SIDE_PX),
                bit_depth=8,
            )
            run.execute()
    return sink


def main() -> int:
    """Simulate, print the figures and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, default=72.0)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--um-per-h", type=float, default=0.5)
    parser.add_argument("--kept", type=Path, help="JSON with the figures, to draw again without simulating")
    arguments = parser.parse_args()
    if arguments.kept is not None and arguments.kept.exists():
        kept: dict[str, Any] = json.loads(arguments.kept.read_text(encoding="utf-8"))
    else:
        sink = simulate(arguments.hours, arguments.every, arguments.um_per_h)
        kept = {
            "true_um": sink.true_um,
            "offset_um": sink.offset_um,
            "failed": [one.time_point for one in sink.attempts if one.problem is not None],
            "attempts": len(sink.attempts),
            "problems": sink.problems,
        }
        if arguments.kept is not None:
            arguments.kept.write_text(json.dumps(kept), encoding="utf-8")
    error_um = np.array(kept["true_um"]) - DEFOCUS_UM
    within = float(np.mean(np.abs(error_um) <= 0.5))
    print(
        f"{len(error_um)} frames, {kept['attempts']} measurements ({len(kept['failed'])} failed), lens moved by "
        f"{np.ptp(kept['offset_um']):.1f} um; |error| <= 0.5 um in {100 * within:.1f} % of frames, "
        f"largest {np.abs(error_um).max():.2f} um, mean {error_um.mean():+.3f} um, problems {kept['problems']}"
    )
    hours = np.arange(len(error_um)) * INTERVAL_S / 3600.0
    figure = new_figure(10, 5.5)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(hours, DEFOCUS_UM - arguments.um_per_h * hours, color=COLOURS[1], label="without focus hold")
    above.plot(hours, kept["true_um"], color=COLOURS[0], label="with focus hold")
    above.set(ylabel="true defocus (um)")
    above.set_title(
        f"lens drifts by {arguments.um_per_h:g} um/h; measured every {arguments.every} time points of 10 min",
        fontsize=10,
    )
    above.legend(frameon=False)
    below.axhspan(-0.5, 0.5, color="#eeeeee", lw=0)
    below.plot(hours, error_um, color=COLOURS[0], lw=1)
    below.set(xlabel="h", ylabel="error (um)", ylim=(-0.8, 0.8))
    below.margins(x=0)
    figure.savefig(arguments.out, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
