"""The inference client with real worker processes: results, faults and shared memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from livephase.errors import InferenceError, ModelError, WorkerDiedError
from livephase.inference import supervisor
from livephase.inference.client import InferenceClient
from livephase.inference.process import Timeouts, WorkerProcess
from livephase.inference.protocol import WorkerSettings
from livephase.inference.shared import ControlBlock
from livephase.phase.modelfile import read_card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

DEADLINE_S = 200.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, polling; fail when the deadline passes."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def frame(seed: int = 0, shape: tuple[int, int] = (96, 120)) -> NDArray[np.uint8]:
    """Make a noisy frame of 120 counts with a blurred spot."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    spot = 20 * np.exp(-((y - shape[0] / 2) ** 2 + (x - shape[1] / 3) ** 2) / 200)
    noise = np.random.default_rng(seed).normal(0, 2, shape)
    return np.round(120 + spot + noise).astype(np.uint8)


def segments_of(pid: int | None) -> list[Path]:
    """List the shared-memory files that a process has mapped; empty where the system does not tell."""
    maps = Path(f"/proc/{pid}/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return sorted({Path(line[line.index("/dev/shm/") :]) for line in lines if "/dev/shm/psm_" in line})  # noqa: S108


@pytest.fixture(scope="module")
def client(untrained_model: Path) -> Iterator[InferenceClient]:
    """Run one worker for the tests that leave it alive, or that let it restart."""
    timeouts = Timeouts(heartbeat_s=4.0)
    with InferenceClient(
        untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1, timeouts=timeouts
    ) as client:
        client.wait_ready(DEADLINE_S)
        yield client


def phase_in_this_process(model: Path, pixels: NDArray[np.uint8], defocus_um: float) -> NDArray[np.float32]:
    """Compute the same phase without a worker."""
    from livephase.inference.engine import PhaseEngine

    engine = PhaseEngine(WorkerSettings(model, read_card(model).sha256, "torch-cpu", 2.6, 0.55, None, 0.4, "auto", 1))
    out = np.empty((pixels.shape[0] * 4, pixels.shape[1] * 4), dtype=np.float32)
    engine.compute(pixels, defocus_um, 8, out)
    return out


def test_worker_gives_the_phase_of_each_frame(client: InferenceClient, untrained_model: Path) -> None:
    frames = [frame(1), frame(2, (64, 72)), frame(3), frame(4, (200, 96))]
    futures = [client.submit(pixels, 6.0, bit_depth=8) for pixels in frames]
    for pixels, future in zip(frames, futures, strict=True):
        result = future.result(DEADLINE_S)
        assert result.phase_rad.dtype == np.float32
        assert result.runtime == "torch-cpu"
        assert result.inference_ms > 0
        expected = phase_in_this_process(untrained_model, pixels, 6.0)
        np.testing.assert_allclose(result.phase_rad, expected, atol=1e-4)
    status = client.status()
    assert (status.state, status.runtime, status.pending) == ("ready", "torch-cpu", 0)


def test_defocus_and_bit_depth_reach_the_network(client: InferenceClient) -> None:
    pixels = frame()
    near = client.submit(pixels, 2.0, bit_depth=8).result(DEADLINE_S).phase_rad
    far = client.submit(pixels, 12.0, bit_depth=8).result(DEADLINE_S).phase_rad
    wide = client.submit(pixels.astype(np.uint16) * np.uint16(256), 2.0, bit_depth=16).result(DEADLINE_S).phase_rad
    np.testing.assert_allclose(near, wide, atol=1e-4)
    assert np.abs(near - far).max() > 0.01
    with pytest.raises(InferenceError, match="dark"):
        client.submit(pixels.astype(np.uint16), 2.0, bit_depth=16).result(DEADLINE_S)


def test_frames_that_cannot_be_computed_fail_alone(client: InferenceClient) -> None:
    pid = client.status().pid
    with pytest.raises(InferenceError, match="sides need at least 32"):
        client.submit(np.full((16, 16), 100, np.uint8), 6.0, bit_depth=8).result(DEADLINE_S)
    with pytest.raises(InferenceError, match="dark"):
        client.submit(np.zeros((64, 64), np.uint8), 6.0, bit_depth=8).result(DEADLINE_S)
    with pytest.raises(InferenceError, match="float64"):
        client.submit(np.ones((64, 64)), 6.0, bit_depth=8).result(DEADLINE_S)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InferenceError, match="finite one"):
        client.submit(frame(), float("nan"), bit_depth=8).result(DEADLINE_S)
    assert client.submit(frame(), 6.0, bit_depth=8).result(DEADLINE_S).phase_rad.shape == (384, 480)
    assert client.status().pid == pid


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="the system keeps shared memory elsewhere")  # noqa: S108
def test_frame_larger_than_the_shared_memory_is_refused(client: InferenceClient) -> None:
    # Writing beyond what tmpfs holds would kill the service with SIGBUS. The frame itself takes one byte.
    side = int((shutil.disk_usage("/dev/shm").total / 16) ** 0.5)  # noqa: S108
    huge = np.broadcast_to(np.uint8(100), (side, side))
    with pytest.raises(InferenceError, match="MiB of shared memory and /dev/shm has"):
        client.submit(huge, 6.0, bit_depth=8).result(DEADLINE_S)
    assert client.submit(frame(), 6.0, bit_depth=8).result(DEADLINE_S).phase_rad.shape == (384, 480)


def test_cancelled_frame_is_not_computed(client: InferenceClient) -> None:
    futures = [client.submit(frame(seed, (400, 400)), 6.0, bit_depth=8) for seed in range(6)]
    cancelled = futures[-1].cancel()
    assert cancelled
    with pytest.raises(CancelledError):
        futures[-1].result(DEADLINE_S)
    for future in futures[:-1]:
        future.result(DEADLINE_S)


def test_killed_worker_fails_its_frames_at_once_and_is_replaced(client: InferenceClient) -> None:
    before = client.status()
    assert before.pid is not None
    futures = [client.submit(frame(seed, (400, 400)), 6.0, bit_depth=8) for seed in range(8)]
    psutil.Process(before.pid).kill()
    errors = [future.exception(DEADLINE_S) for future in futures]
    died = [error for error in errors if isinstance(error, WorkerDiedError)]
    assert died
    assert all(error is None or isinstance(error, WorkerDiedError) for error in errors)
    assert str(before.pid) in str(died[0])
    again = client.submit(frame(), 6.0, bit_depth=8).result(DEADLINE_S)
    assert np.isfinite(again.phase_rad).all()
    after = client.status()
    assert after.restarts == before.restarts + 1
    assert after.pid != before.pid
    assert after.error is None


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the system has no SIGSTOP")
def test_stopped_worker_is_noticed_killed_and_replaced(client: InferenceClient) -> None:
    client.wait_ready(DEADLINE_S)
    before = client.status()
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    future = client.submit(frame(), 6.0, bit_depth=8)
    with pytest.raises(WorkerDiedError, match="no heartbeat"):
        future.result(DEADLINE_S)
    wait_until(lambda: not psutil.pid_exists(before.pid or 0), "the end of the stopped worker")
    assert client.submit(frame(), 6.0, bit_depth=8).result(DEADLINE_S).phase_rad.shape == (384, 480)


def test_stuck_computation_is_noticed_though_the_heart_beats(untrained_model: Path) -> None:
    timeouts = Timeouts(frame_s=0.05)
    with InferenceClient(
        untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1, timeouts=timeouts
    ) as client:
        client.wait_ready(DEADLINE_S)
        large = np.tile(frame(shape=(512, 512)), (4, 4))
        with pytest.raises(WorkerDiedError, match="stuck: no progress"):
            client.submit(large, 6.0, bit_depth=8).result(DEADLINE_S)


def test_worker_that_does_not_start_in_time_is_replaced(untrained_model: Path) -> None:
    # No interpreter has imported torch and loaded a model by then.
    timeouts = Timeouts(start_s=0.05)
    with InferenceClient(
        untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1, timeouts=timeouts
    ) as client:
        future = client.submit(frame(), 6.0, bit_depth=8)
        with pytest.raises(WorkerDiedError, match=r"did not start within 0\.05 s"):
            future.result(DEADLINE_S)
        wait_until(lambda: client.status().restarts >= 2, "the second attempt")


def test_close_fails_open_frames_and_leaves_nothing_behind(untrained_model: Path) -> None:
    mapped = segments_of(os.getpid())
    client = InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1)
    client.start()
    client.wait_ready(DEADLINE_S)
    client.submit(frame(), 6.0, bit_depth=8).result(DEADLINE_S)
    pid = client.status().pid
    files = sorted(set(segments_of(os.getpid())) - set(mapped))
    assert len(files) >= 2 or sys.platform != "linux"
    futures = [client.submit(frame(seed, (400, 400)), 6.0, bit_depth=8) for seed in range(20)]
    client.close()
    client.close()
    assert all(future.done() for future in futures)
    assert isinstance(futures[-1].exception(), InferenceError)
    assert client.status().state == "stopped"
    assert not psutil.pid_exists(pid or 0)
    assert not set(files) & set(segments_of(os.getpid()))
    assert not any(file.exists() for file in files)
    with pytest.raises(InferenceError, match="stopped"):
        client.submit(frame(), 6.0, bit_depth=8).result(DEADLINE_S)


def test_close_returns_though_a_callback_does_not(
    untrained_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_CLOSE_S", 0.5)
    entered, let_go = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        entered.set()
        let_go.wait(DEADLINE_S)

    client = InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1)
    client.start()
    client.submit(frame(), 6.0, bit_depth=8).add_done_callback(wait)
    assert entered.wait(DEADLINE_S)
    worker = psutil.Process(client.status().pid)
    client.close()
    assert "stuck in a callback" in caplog.text
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the end of the worker")
    let_go.set()
    wait_until(lambda: client.status().state == "stopped", "the end of the supervision")


def test_worker_that_cannot_start_says_why(untrained_model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    with pytest.raises(ModelError, match="cannot be read"):
        InferenceClient(damaged, lr_pixel_um=2.6, wavelength_um=0.55)
    # The header is whole, so that only the worker, which reads the weights, finds the damage.
    damaged.write_bytes(untrained_model.read_bytes()[:-1000])
    with InferenceClient(damaged, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1) as client:
        future = client.submit(frame(), 6.0, bit_depth=8)
        with pytest.raises(InferenceError, match="weights do not fit"):
            future.result(DEADLINE_S)
        with pytest.raises(InferenceError, match="weights do not fit"):
            client.wait_ready(DEADLINE_S)


def test_model_file_that_was_replaced_is_refused(untrained_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(untrained_model, model)
    with InferenceClient(model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1) as client:
        client.wait_ready(DEADLINE_S)
        # A usable model too, of another name.
        model.write_bytes(untrained_model.read_bytes().replace(b"untrained", b"different", 1))
        assert read_card(model).name == "different"
        psutil.Process(client.status().pid).kill()
        wait_until(lambda: "model.safetensors changed" in (client.status().error or ""), "the refusal")
        with pytest.raises(InferenceError, match="changed while the service was running; restart the service"):
            client.wait_ready(DEADLINE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="files are counted and limited as Linux does")
def test_worker_that_cannot_be_spawned_leaves_nothing_behind(untrained_model: Path) -> None:
    import resource

    settings = WorkerSettings(
        untrained_model, read_card(untrained_model).sha256, "torch-cpu", 2.6, 0.55, None, 0.4, "auto", 1
    )
    ControlBlock.create().unlink()  # starts the resource tracker, which stays
    process = psutil.Process()
    files, mapped = process.num_fds(), segments_of(process.pid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files + 64, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(1))
        # Enough for the control block and the pipe, not for the spawn.
        for _ in range(4):
            os.close(fillers.pop())
        # The traceback keeps what the failed start has made from being collected.
        with pytest.raises(OSError, match="Too many open files") as caught:
            WorkerProcess(settings, Timeouts())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
    assert any(entry.name == "_start_without_interrupts" for entry in caught.traceback)
    assert process.num_fds() <= files
    assert segments_of(process.pid) == mapped
