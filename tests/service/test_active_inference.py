"""The exchange of the model in use, with real workers: no frame is lost, and a failure changes nothing."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from livephase.errors import ConflictError, InferenceError, ModelError
from livephase.inference.active import ActiveInference
from livephase.inference.client import InferenceClient
from livephase.phase.modelfile import read_card
from livephase.phase.weights import load_network, save_network

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from livephase.frames import PhaseResult

DEADLINE_S = 200.0
FRAME = np.random.default_rng(3).integers(100, 140, (64, 72), dtype=np.uint8)


def client_of(path: Path) -> InferenceClient:
    """Make a client on one thread."""
    return InferenceClient(path, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1)


@pytest.fixture(scope="module")
def other_model(untrained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the untrained network once more, with other weights and another name."""
    import torch

    network, card = load_network(untrained_model)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_network(path, network, card.model_copy(update={"name": "other"}))
    return path


@pytest.fixture(scope="module")
def active(untrained_model: Path) -> Iterator[ActiveInference]:
    """Run an inference that may be switched, and leave no process behind."""
    active = ActiveInference(client_of, untrained_model)
    active.start()
    yield active
    last = active.status().pid
    active.close()
    active.close()
    assert last is not None
    assert not psutil.pid_exists(last)
    with pytest.raises(InferenceError, match="stopped"):
        active.submit(FRAME, 6.0, bit_depth=8).result(DEADLINE_S)
    with pytest.raises(ConflictError, match="stopping"):
        active.switch(untrained_model, contextlib.nullcontext)


def phase(active: ActiveInference) -> np.ndarray:
    """Compute the phase of the frame."""
    return active.submit(FRAME, 6.0, bit_depth=8).result(DEADLINE_S).phase_rad


def test_no_frame_is_lost_while_the_model_changes(
    active: ActiveInference, untrained_model: Path, other_model: Path
) -> None:
    """Frames that are submitted all the time get a phase, of the old model first and then of the new one."""
    old = phase(active)
    old_pid = active.status().pid
    assert old_pid is not None
    psutil.Process(old_pid).kill()
    with contextlib.suppress(InferenceError):
        phase(active)
    active._client.wait_ready(DEADLINE_S)
    old_pid = active.status().pid
    done = threading.Event()
    futures: list[Future[PhaseResult]] = []

    def submit() -> None:
        while not done.wait(0.01):
            if not futures or futures[-1].done():
                futures.append(active.submit(FRAME, 6.0, bit_depth=8))

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        active.switch(other_model, contextlib.nullcontext)
    finally:
        done.set()
        thread.join()
    new = phase(active)
    assert np.abs(new - old).max() > 0.01
    is_new = [bool(np.allclose(future.result(DEADLINE_S).phase_rad, new, atol=1e-4)) for future in futures]
    is_old = [bool(np.allclose(future.result(DEADLINE_S).phase_rad, old, atol=1e-4)) for future in futures]
    assert sum(is_old) >= 1
    assert is_old == [True] * sum(is_old) + [False] * (len(futures) - sum(is_old))
    assert is_new == [not one for one in is_old]
    assert active.card.name == "other"
    assert not psutil.pid_exists(old_pid or 0)
    status = active.status()
    assert (status.state, status.restarts, status.error) == ("ready", 1, None), "restarts are those of all workers"
    # The same model again: nothing happens.
    active.switch(other_model, contextlib.nullcontext)
    assert active.status().pid == status.pid


def test_a_model_that_cannot_be_used_or_is_not_permitted_changes_nothing(
    active: ActiveInference, untrained_model: Path, other_model: Path, tmp_path: Path
) -> None:
    in_use = active.card.name
    wanted = other_model if in_use == "untrained" else untrained_model
    old = phase(active)
    pid = active.status().pid
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(other_model.read_bytes()[:-1000])  # its header is whole, its weights are not
    assert read_card(broken).name == "other"
    (tmp_path / "text.safetensors").write_text("no model")

    @contextlib.contextmanager
    def refused() -> Generator[None]:
        # The new model is ready by now, and still coming: a third one has to wait.
        with pytest.raises(ConflictError, match="another change"):
            active.switch(broken, contextlib.nullcontext)
        raise ConflictError("a run has begun")
        yield

    with pytest.raises(InferenceError):
        active.switch(broken, contextlib.nullcontext)
    with pytest.raises(ModelError, match="not a safetensors file"):
        active.switch(tmp_path / "text.safetensors", contextlib.nullcontext)
    with pytest.raises(ConflictError, match="a run has begun"):
        active.switch(wanted, refused)
    assert active.card.name == in_use
    assert active.status().pid == pid
    np.testing.assert_array_equal(phase(active), old)


def test_closing_ends_a_worker_that_is_being_started(untrained_model: Path, other_model: Path, no_leaks: None) -> None:
    """The switch fails instead of leaving its worker behind."""
    active = ActiveInference(client_of, untrained_model)
    active.start()
    errors: list[Exception] = []
    began = threading.Event()

    def making(path: Path) -> InferenceClient:
        began.set()
        return client_of(path)

    active._make = making

    def switch() -> None:
        try:
            active.switch(other_model, contextlib.nullcontext)
        except (InferenceError, ConflictError) as error:
            errors.append(error)

    thread = threading.Thread(target=switch)
    thread.start()
    assert began.wait(DEADLINE_S)
    active.close()
    thread.join(DEADLINE_S)
    assert len(errors) == 1
    assert active.card.name == "untrained"
