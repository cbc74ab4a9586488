"""A process that writes a run until it is told to stop or killed, and says what is acknowledged.

Usage: ``storage_writer_process.py STORE SEED``. Every line on stdout is ``raw INDEX SHA256`` or ``phase INDEX SHA256``,
printed when the write has returned; the hash is that of the pixels as a reader must find them. It ends, with the run
cancelled, when its stdin is closed.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from pathlib import Path

import numpy as np

from livephase.storage import PHASE_STEP_RAD, FrameRecord, PhaseRecord, RunSpec, RunWriter

FRAMES = 5000


def main() -> None:
    """Write frames; every seventh phase comes five frames late, every eleventh never."""
    store, seed = Path(sys.argv[1]), int(sys.argv[2])
    spec = RunSpec(
        run_id="r-1", name="killed", frames=FRAMES, interval_s=1, lr_shape=(80, 96), dtype="uint16", lr_pixel_um=2.6,
        defocus_um=6.0, recorded=("Camera.SpecimenTime-s",),
    )  # fmt: skip
    writer = RunWriter.create(store, spec)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    rng = np.random.default_rng(seed)

    def say(image: str, index: int, pixels: np.ndarray) -> None:
        sys.stdout.write(f"{image} {index} {hashlib.sha256(pixels.tobytes()).hexdigest()}\n")
        sys.stdout.flush()

    def write_phase(index: int) -> None:
        phase_rad = rng.normal(0, 2, spec.hr_shape).astype(np.float32)
        writer.write_phase(index, phase_rad, PhaseRecord(1.0, "torch-cpu"))
        say("phase", index, np.rint(phase_rad / PHASE_STEP_RAD).astype(np.float32) * np.float32(PHASE_STEP_RAD))

    for index in range(FRAMES):
        if stop.is_set():
            break
        pixels = rng.integers(0, 4096, spec.lr_shape, dtype=np.uint16)
        record = FrameRecord(time.time_ns(), time.monotonic_ns(), 6.0, 10.0, {"Camera.SpecimenTime-s": float(index)})
        writer.write_raw(index, pixels, record)
        say("raw", index, pixels)
        if index % 11 == 10:
            writer.mark_phase_missing(index, "left out")
        elif index % 7 != 6:
            write_phase(index)
        if index % 7 == 4 and index >= 5 and (index - 5) % 11 != 10:
            write_phase(index - 5)
    writer.finish("cancelled", "told to stop")


if __name__ == "__main__":
    main()
