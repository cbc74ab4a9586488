"""Runtimes and engine against each other: OpenVINO and torch, whole field and tile, lack of memory, bad weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from livephase.errors import InferenceError, ModelError
from livephase.inference.engine import PhaseEngine
from livephase.inference.protocol import WorkerSettings
from livephase.inference.runtimes import OpenVinoRuntime, TorchRuntime, open_runtime
from livephase.phase.conditions import Conditions
from livephase.phase.modelfile import bundled_models, read_card
from livephase.phase.weights import load_network, save_network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase.inference.protocol import RuntimeName


@pytest.fixture(scope="module")
def model(untrained_model: Path) -> Path:
    """Take the bundled model; the untrained one where the checkout carries none."""
    return bundled_models()[0] if bundled_models() else untrained_model


TOLD = Conditions(6.0, 0.55, 2.6, 0.3).vector()


def normalised(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Make a smooth random network input with a few per cent of contrast and sensor noise."""
    rng = np.random.default_rng(seed)
    y, x = (np.fft.fftfreq(n) for n in shape)
    low_pass = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.08**2))
    contrast = np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * low_pass).real
    return (0.5 * contrast / contrast.std() + 0.1 * rng.standard_normal(shape)).astype(np.float32)


def engine(model: Path, runtime: RuntimeName) -> PhaseEngine:
    """Make an engine of one thread."""
    return PhaseEngine(WorkerSettings(model, read_card(model).sha256, runtime, 2.6, 0.55, 0.3, 0.4, "none", 1))


@pytest.mark.parametrize(
    ("precision", "most_rad", "all_rad"),
    [
        ("f32", 0.001, 0.001),
        # The largest differences are single pixels at the border, where half of what a convolution sees is padding.
        (None, 0.03, 0.06),
    ],
)
def test_openvino_agrees_with_torch(model: Path, precision: str | None, most_rad: float, all_rad: float) -> None:
    """``most_rad`` holds for 99.9 % of the pixels; a phase is wrong by 0.1 rad rms against the truth."""
    network, _ = load_network(model)
    reference = TorchRuntime(network, "cpu", 1)
    openvino = OpenVinoRuntime(network, 1, precision)
    assert openvino.name.startswith("openvino-")
    for shape in ((128, 160), (96, 96)):
        intensity = normalised(shape)
        expected = reference.run(intensity, TOLD)
        phase = openvino.run(intensity, TOLD)
        assert phase.shape == (4 * shape[0], 4 * shape[1])
        difference = np.abs(phase - expected)
        assert np.quantile(difference, 0.999) < most_rad
        assert difference.max() < all_rad


def test_openvino_forgets_old_shapes(untrained_model: Path) -> None:
    network, _ = load_network(untrained_model)
    runtime = OpenVinoRuntime(network, 1)
    first = runtime.run(normalised((64, 64)), TOLD).copy()
    for side in (72, 80, 88, 96):
        runtime.run(normalised((side, side)), TOLD)
    np.testing.assert_array_equal(runtime.run(normalised((64, 64)), TOLD), first)


def test_interior_of_a_tile_equals_the_whole_field(model: Path) -> None:
    runtime, card = open_runtime("torch-cpu", model, 1)
    field = normalised((256, 256))
    whole = runtime.run(field, TOLD)
    tile = runtime.run(np.ascontiguousarray(field[64:192, 64:192]), TOLD)
    margin = 48 * card.scale
    inner = whole[64 * card.scale : 192 * card.scale, 64 * card.scale : 192 * card.scale]
    difference = np.abs(tile - inner)[margin:-margin, margin:-margin]
    assert difference.size
    assert difference.max() < 0.05


def test_bit_for_bit_repeatable(untrained_model: Path) -> None:
    pixels = np.random.default_rng(3).integers(90, 150, (80, 96)).astype(np.uint8)
    outs = [np.empty((320, 384), np.float32) for _ in range(2)]
    for out in outs:
        engine(untrained_model, "openvino").compute(pixels, 6.0, 8, out)
    np.testing.assert_array_equal(outs[0], outs[1])


@pytest.mark.parametrize("runtime", ["torch-cpu", "openvino"])
@pytest.mark.parametrize("fault", ["nan", "overflow"])
def test_weights_that_give_no_finite_phase_are_refused(
    untrained_model: Path, tmp_path: Path, runtime: RuntimeName, fault: str
) -> None:
    network, card = load_network(untrained_model)
    with torch.no_grad():
        for index, weight in enumerate(network.parameters()):
            if fault == "overflow":
                weight.mul_(2e4 / weight.abs().max())
            elif index == 20:
                weight.view(-1)[0] = float("nan")
    broken = tmp_path / "broken.safetensors"
    save_network(broken, network, card)
    with pytest.raises(ModelError, match="not finite"):
        engine(broken, runtime)


class _DividingNetwork(torch.nn.Module):
    """Divides by zero wherever the frame is brighter than its mean."""

    stride = 8

    def forward(self, intensity: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        del conditions
        return (1 / (intensity < 0)).repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_output_that_is_not_finite_is_an_error_and_no_phase(untrained_model: Path) -> None:
    pixels = np.random.default_rng(3).integers(90, 150, (64, 64)).astype(np.uint8)
    out = np.zeros((256, 256), np.float32)
    broken = engine(untrained_model, "torch-cpu")
    broken.runtime = TorchRuntime(_DividingNetwork(), "cpu", 1)
    with pytest.raises(InferenceError, match="gave values that are not finite for defocus 6 um on torch-cpu"):
        broken.compute(pixels, 6.0, 8, out)
    assert not out.any()
    with pytest.raises(InferenceError, match="needs a finite one"):
        engine(untrained_model, "openvino").compute(pixels, float("nan"), 8, out)


class _GreedyNetwork(torch.nn.Module):
    """Runs out of accelerator memory, with torch's own error."""

    stride = 8

    def forward(self, intensity: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError


def test_full_accelerator_falls_back_to_the_processor(untrained_model: Path) -> None:
    pixels = np.random.default_rng(3).integers(90, 150, (80, 96)).astype(np.uint8)
    out = np.empty((320, 384), np.float32)
    automatic = engine(untrained_model, "auto")
    automatic.runtime = TorchRuntime(_GreedyNetwork(), "cpu", 1)
    automatic.compute(pixels, 6.0, 8, out)
    assert automatic.runtime.name.startswith("openvino")
    expected = np.empty_like(out)
    engine(untrained_model, "openvino").compute(pixels, 6.0, 8, expected)
    np.testing.assert_array_equal(out, expected)
    chosen = engine(untrained_model, "torch-cpu")
    chosen.runtime = TorchRuntime(_GreedyNetwork(), "cpu", 1)
    with pytest.raises(InferenceError, match="graphics memory"):
        chosen.compute(pixels, 6.0, 8, out)


def test_fallback_refuses_a_model_file_that_was_replaced(untrained_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(untrained_model.read_bytes())
    automatic = engine(path, "auto")
    automatic.runtime = TorchRuntime(_GreedyNetwork(), "cpu", 1)
    path.write_bytes(untrained_model.read_bytes().replace(b"untrained", b"different", 1))
    with pytest.raises(ModelError, match="changed while the service was running"):
        automatic.compute(np.full((80, 96), 120, np.uint8), 6.0, 8, np.empty((320, 384), np.float32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_absent_gpu_is_said(untrained_model: Path) -> None:
    with pytest.raises(InferenceError, match="no CUDA GPU"):
        open_runtime("torch-cuda", untrained_model, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")
def test_cuda_agrees_with_the_processor(model: Path) -> None:
    cuda, _ = open_runtime("auto", model, 1)
    assert cuda.name == "torch-cuda-bf16"
    processor, _ = open_runtime("torch-cpu", model, 1)
    intensity = normalised((128, 160))
    assert np.abs(cuda.run(intensity, TOLD) - processor.run(intensity, TOLD)).max() < 0.05


def test_paper_network_runs_on_every_processor_runtime(tmp_path: Path, untrained_model: Path) -> None:
    from livephase.phase.modelfile import Architecture
    from livephase.phase.weights import build_network

    torch.manual_seed(0)
    architecture = Architecture(name="paper-unet", width=8)
    path = tmp_path / "paper.safetensors"
    card = read_card(untrained_model).model_copy(update={"architecture": architecture})
    save_network(path, build_network(architecture), card)
    intensity = normalised((64, 72))
    phases = [open_runtime(name, path, 1)[0].run(intensity, TOLD) for name in ("torch-cpu", "openvino")]
    assert phases[0].shape == (256, 288)
    assert np.abs(phases[0] - phases[1]).max() < 0.03
