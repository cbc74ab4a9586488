"""Live preview end to end: from exposure to a decoded frame in a client of a real ``livephase demo``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np
import psutil
import websockets
from websockets.typing import Origin

FRAMES = 12
_CANVAS = (1024, 776)
_HR_SHAPE = (1960, 2588)
_START_LIMIT_S = 180.0


def _start(folder: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "livephase", "demo", "--no-browser", "--port", "0", "--data", folder]
    flags = subprocess.CREATE_NEW_PROCESS_GROUP if os.name == "nt" else 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, creationflags=flags)
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            return process, "http://" + line.split("http://", 1)[1].split()[0]
    msg = "livephase demo ended without printing its URL"
    raise RuntimeError(msg)


async def _receive(url: str) -> dict[str, list[float]]:
    """Take ``FRAMES`` frames of the whole field of view, acknowledging each."""
    seen: dict[str, list[float]] = {"age_s": [], "arrived_s": [], "mbytes": []}
    address = url.replace("http", "ws") + "/api/v1/stream"
    async with websockets.connect(address, max_size=None, origin=Origin(url)) as socket:
        view = {"type": "view", "kind": "phase", "x": 0, "y": 0, "width": _HR_SHAPE[1], "height": _HR_SHAPE[0]}
        await socket.send(json.dumps({**view, "canvas_width": _CANVAS[0], "canvas_height": _CANVAS[1]}))
        while len(seen["age_s"]) < FRAMES:
            message = await asyncio.wait_for(socket.recv(), _START_LIMIT_S)
            if isinstance(message, str):
                continue
            length = int.from_bytes(message[4:8], "little")
            header = json.loads(message[8 : 8 + length])
            pixels = np.frombuffer(message, "<f2", offset=8 + length).reshape(header["height"], -1)
            assert np.isfinite(pixels.astype(np.float32)).all()
            seen["age_s"].append(time.time() - int(header["time_utc_ns"]) * 1e-9)
            seen["arrived_s"].append(time.monotonic())
            seen["mbytes"].append(len(message) / 1e6)
            await socket.send(json.dumps({"type": "ack", "seq": header["seq"]}))
    return seen


def main() -> list[tuple[str, float, str]]:
    """Return rows (what, value, unit)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        process, url = _start(folder)
        try:
            seen = asyncio.run(_receive(url))
            first_s = seen["arrived_s"][0] - started
            with urllib.request.urlopen(url + "/api/v1/microscope", timeout=10) as answer:
                inference = json.load(answer)["inference"]
            service = psutil.Process(process.pid)
            resident = {
                "service": service.memory_info().rss / 1e6,
                "worker": psutil.Process(inference["pid"]).memory_info().rss / 1e6,
            }
        finally:
            process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGTERM)
            process.wait(60)
    interval_s = float(np.median(np.diff(seen["arrived_s"])))
    age_s = float(np.median(seen["age_s"][1:]))
    inference_s = inference["last_ms"] / 1e3
    return [
        ("start of livephase demo to first phase at a client", first_s, "s"),
        ("age of a frame on arrival, exposure to client, median", age_s, "s"),
        ("age over inference time", age_s / inference_s, "ratio"),
        ("phase frames", 1 / interval_s, "1/s"),
        ("frame interval over inference time", interval_s / inference_s, "ratio"),
        ("inference", inference_s, "s"),
        ("message, whole field on a 1024x776 canvas", float(np.mean(seen["mbytes"])), "MB"),
        ("resident memory, service", resident["service"], "MB"),
        ("resident memory, inference worker", resident["worker"], "MB"),
    ]
