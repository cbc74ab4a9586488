"""Storage benchmark: what one time point of the default microscope costs on disk, in time and in memory.

One raw frame (490, 647) uint8 and one phase image (1960, 2588) float32 with its pyramid, smooth with 7 mrad of noise,
each committed and synced on its own as in a run.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import psutil
from scipy import ndimage

from livephase.storage import FrameRecord, PhaseRecord, RunSpec, RunWriter, read_phase_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FRAMES: Final = 24
WARM_UP: Final = 4
LR_SHAPE: Final = (490, 647)
NOISE_RAD: Final = 0.007

Row = tuple[str, float, str]


def _phase_images(shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    smooth = np.asarray(ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 12)) * np.float32(20)
    noise = [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]
    return [np.asarray(smooth + np.float32(NOISE_RAD) * one, np.float32) for one in noise]


def _ms(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start_s)


def main(folder: Path | None = None) -> list[Row]:
    """Write a run and read it back.

    Parameters
    ----------
    folder : Path or None
        Where to write; a temporary folder by default. The figures are those of its disk.

    Returns
    -------
    list of (str, float, str)
        Name, value and unit of every figure.
    """
    spec = RunSpec(
        run_id="bench",
        name="bench",
        frames=FRAMES,
        interval_s=0,
        lr_shape=LR_SHAPE,
        dtype="uint8",
        lr_pixel_um=2.6,
        defocus_um=6.0,
    )
    images = _phase_images(spec.hr_shape)
    rng = np.random.default_rng(2)
    raws = [rng.normal(120, 5, LR_SHAPE).astype(np.uint8) for _ in range(3)]
    raw_ms: list[float] = []
    phase_ms: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        writer = RunWriter.create(Path(temporary) / "bench.ome.zarr", spec)
        wall_s = cpu_s = 0.0
        for index in range(FRAMES):
            if index == WARM_UP:
                wall_s, cpu_s = time.perf_counter(), time.process_time()
            record = FrameRecord(time.time_ns(), time.monotonic_ns(), 6.0, 10.0)
            raw, image = raws[index % 3], images[index % 3]
            raw_ms.append(_ms(lambda index=index, raw=raw, record=record: writer.write_raw(index, raw, record)))
            done = PhaseRecord(0.0, "bench")
            phase_ms.append(_ms(lambda index=index, image=image, done=done: writer.write_phase(index, image, done)))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        writer.finish("completed")
        stored = sum(path.stat().st_size for path in writer.path.rglob("*") if path.is_file())
        read_ms = [_ms(lambda index=index: read_phase_frame(writer.path, index)) for index in range(6)]
    measured = FRAMES - WARM_UP
    frame_bytes = raws[0].nbytes + images[0].nbytes
    return [
        ("time points per second", measured / wall_s, "1/s"),
        ("pixels written", measured * frame_bytes / wall_s / 1e6, "MB/s"),
        ("CPU per time point", 1e3 * cpu_s / measured, "ms"),
        ("raw durable, median", float(np.median(raw_ms[WARM_UP:])), "ms"),
        ("raw durable, slowest", max(raw_ms[WARM_UP:]), "ms"),
        ("phase durable, median", float(np.median(phase_ms[WARM_UP:])), "ms"),
        ("phase durable, slowest", max(phase_ms[WARM_UP:]), "ms"),
        ("phase read, median", float(np.median(read_ms)), "ms"),
        ("on disk per time point", stored / FRAMES / 1e6, "MB"),
        ("memory of the process", psutil.Process().memory_info().rss / 1e6, "MB"),
    ]


if __name__ == "__main__":
    for name, value, unit in main():
        print(f"{name:40} {value:10.1f} {unit}")
