"""The process that holds an inference client: what it imports, what its death leaves, and Ctrl-C at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

DEADLINE_S = 200.0

SERVICE = """
import json, signal, sys, time
import numpy as np
from pathlib import Path
from livephase.inference.client import InferenceClient

if __name__ == "__main__":
    # Tests that run in the background of a shell inherit a Ctrl-C that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    client = InferenceClient(Path(sys.argv[1]), "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1)
    client.start()
    pixels = np.random.default_rng(0).integers(100, 140, (96, 120)).astype(np.uint8)
    result = client.submit(pixels, 6.0, bit_depth=8).result(200)
    loaded = sorted({"torch", "openvino"} & set(sys.modules))
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    files = sorted({line.split()[-1] for line in lines if "/dev/shm/psm_" in line})
    report = {"worker": client.status().pid, "shape": result.phase_rad.shape, "loaded": loaded, "files": files}
    try:
        print(json.dumps(report), flush=True)
        # Not one long sleep: an interrupt just before the system call would not end it, and be seen after it only.
        while sys.argv[2] == "wait":
            time.sleep(0.05)
    except KeyboardInterrupt:
        client.close()
"""

INTERRUPTED = """
import dis, os, signal, sys, threading
import numpy as np
from pathlib import Path
from livephase.inference.client import InferenceClient

FILES = {"client.py", "supervisor.py", "interrupts.py", "threading.py", "contextlib.py", "connection.py", "signal.py"}


class Interrupt:
    # Calls the handler of Ctrl-C at one of the places where the interpreter does: after a call, at the start of a
    # function, at the end of a loop's turn.
    def __init__(self, place):
        self.place, self.passed, self.done, self.last = place, 0, False, {}

    def __call__(self, frame, event, argument):
        if self.done or os.path.basename(frame.f_code.co_filename) not in FILES:
            return None
        frame.f_trace_opcodes = True
        return self.inside

    def inside(self, frame, event, argument):
        if event == "opcode" and not self.done:
            before = self.last.get(id(frame))
            self.last[id(frame)] = frame.f_lasti
            name = "" if before is None else dis.opname[frame.f_code.co_code[before]]
            self.passed += name.startswith("CALL") or name in ("RESUME", "JUMP_BACKWARD")
            if self.passed == self.place:
                self.done = True
                signal.getsignal(signal.SIGINT)(signal.SIGINT, frame)
        elif event == "return":
            self.last.pop(id(frame), None)
        return self.inside


def interrupted(work, place):
    # Whether there was such a place.
    interrupt = Interrupt(place)
    sys.settrace(interrupt)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return interrupt.done


def new():
    return InferenceClient(Path(sys.argv[1]), "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1)


def enter(client):
    with client:
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pixels = np.random.default_rng(0).integers(100, 140, (32, 32)).astype(np.uint8)
    with new() as client:
        client.wait_ready(200)
        used = 0
        for work in (client.status, lambda: client.wait_ready(200), lambda: client.submit(pixels, 6.0, bit_depth=8)):
            place = 1
            while interrupted(work, place):
                client.submit(pixels, 6.0, bit_depth=8).result(200)
                place += 1
            used += place - 1
    # Starting and ending cost a process each time: some places only, the first of them inside the first lock.
    entered = 0
    for place in (1, 5, 11, 16, 22, 28, 34, 45):
        client = new()
        entered += interrupted(lambda: enter(client), place)
        client.close()
        assert client.status().state == "stopped", place
    for place in (1, 12, 24, 36):
        client = new()
        client.start()
        assert interrupted(client.close, place), place
        client.close()
        assert client.status().state == "stopped", place
    print(used, entered)
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A process with a client, after its first frame."""

    process: subprocess.Popen[str]
    worker: int
    report: dict[str, Any]

    def wait_gone(self) -> None:
        """Wait until its worker and its shared memory are gone."""
        end = time.monotonic() + DEADLINE_S
        while psutil.pid_exists(self.worker) or any(Path(file).exists() for file in self.report["files"]):
            assert time.monotonic() < end, "the worker or its shared memory was left behind"
            time.sleep(0.01)


def script_process(folder: Path, script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a script in a session of its own."""
    path = folder / "service.py"
    path.write_text(script)
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_service(model: Path, folder: Path, mode: str) -> Service:
    """Start a process that computes one frame."""
    process = script_process(folder, SERVICE, model, mode)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    report = json.loads(line)
    assert report["shape"] == [384, 480]
    assert report["files"] or sys.platform != "linux"
    return Service(process, report["worker"], report)


def test_service_process_imports_no_network_library(untrained_model: Path, tmp_path: Path) -> None:
    service = start_service(untrained_model, tmp_path, "end")
    _, errors = service.process.communicate(timeout=DEADLINE_S)
    assert service.report["loaded"] == []
    # The script ends without closing its client: no warning, no worker, no memory may be left.
    assert (service.process.returncode, errors) == (0, "")
    service.wait_gone()


def test_worker_and_memory_go_when_the_service_is_killed(untrained_model: Path, tmp_path: Path) -> None:
    service = start_service(untrained_model, tmp_path, "wait")
    service.process.kill()
    service.process.communicate(timeout=DEADLINE_S)
    service.wait_gone()


@pytest.mark.skipif(os.name == "nt", reason="a console group is interrupted differently on Windows")
def test_interrupt_of_the_terminal_leaves_no_traceback(untrained_model: Path, tmp_path: Path) -> None:
    service = start_service(untrained_model, tmp_path, "wait")
    os.killpg(service.process.pid, signal.SIGINT)
    _, errors = service.process.communicate(timeout=DEADLINE_S)
    assert (service.process.returncode, errors) == (0, "")
    service.wait_gone()


def test_an_interrupt_at_any_moment_neither_breaks_the_client_nor_keeps_it_from_closing(
    untrained_model: Path, tmp_path: Path
) -> None:
    """A lock that an interrupt leaves taken stops the supervision for ever: no more phases, and no end."""
    process = script_process(tmp_path, INTERRUPTED, untrained_model)
    try:
        output, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    used, entered = map(int, output.split())
    assert used >= 60
    assert entered >= 6
