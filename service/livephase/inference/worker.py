"""The inference worker: the main function of the spawned process.

It takes frames from shared memory one after the other and answers over the control pipe. It ends when told, when the
pipe closes, and when its parent has died (a thread watches that, so that a stuck computation cannot outlive the
service). torch and OpenVINO are imported inside ``main``: the service imports this module to name its target.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING

import numpy as np

from livephase.inference.protocol import Done, Failed, Ready, Request, StartFailed
from livephase.inference.shared import AttachedSlots, ControlBlock, view
from livephase_devices.errors import LivephaseError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from livephase.inference.engine import PhaseEngine
    from livephase.inference.protocol import Answer, WorkerSettings

HEARTBEAT_S = 0.2


def main(pipe: Connection[Answer, Request | None], control_name: str, settings: WorkerSettings) -> None:
    """Serve requests until told to end.

    Parameters
    ----------
    pipe : Connection
        To the service.
    control_name : str
        Shared-memory name of the ``ControlBlock``.
    settings : WorkerSettings
        What to load.
    """
    # Ctrl-C reaches the whole terminal group; the service decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = ControlBlock.attach(control_name)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(control, ended), name="heartbeat", daemon=True)
    heart.start()
    slots = AttachedSlots()
    try:
        # A closed pipe means that the service is gone or has given this worker up.
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            _serve(pipe, control, slots, settings)
    finally:
        ended.set()
        heart.join()
        slots.close()
        control.close()
    # Taking the interpreter and torch apart lasts over two seconds on a busy machine: the service would have killed it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve(
    pipe: Connection[Answer, Request | None],
    control: ControlBlock,
    slots: AttachedSlots,
    settings: WorkerSettings,
) -> None:
    try:
        from livephase.inference.engine import PhaseEngine

        engine = PhaseEngine(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the service has to hear of it
        pipe.send(StartFailed(_describe(error)))
        return
    pipe.send(Ready(engine.runtime.name))
    while (request := pipe.recv()) is not None:
        control.begin()
        answer = _answer(request, engine, slots)
        control.end()
        pipe.send(answer)


def _answer(request: Request, engine: PhaseEngine, slots: AttachedSlots) -> Done | Failed:
    try:
        segment = slots.segment(request.slot, request.segment)
        pixels = view(segment, request.shape, request.dtype)
        height, width = request.shape
        scale = engine.card.scale
        out = view(segment, (height * scale, width * scale), np.float32, request.phase_offset)
        inference_ms, misfit = engine.compute(pixels, request.defocus_um, request.bit_depth, out)
    except Exception as error:  # noqa: BLE001 - one frame's failure must not end the worker
        return Failed(request.sequence, _describe(error))
    return Done(request.sequence, inference_ms, engine.runtime.name, misfit)


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, LivephaseError) else f"{type(error).__name__}: {text}"


def _beat(control: ControlBlock, ended: threading.Event) -> None:
    parent = parent_process()
    while not ended.is_set():
        control.beat()
        if parent is None:
            ended.wait(HEARTBEAT_S)
        elif connection.wait([parent.sentinel], HEARTBEAT_S):
            # The main thread may be inside the network and cannot be interrupted; nothing is left to save.
            sys.stderr.flush()
            os._exit(1)
