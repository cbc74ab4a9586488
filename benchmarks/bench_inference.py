"""Inference through the worker process: ms, fraction of the matrix-multiply peak, memory, cost of the transport.

The paper's width-64 U-Net runs in the same way in the same run: 490 x 647 camera pixels to a phase of 1960 x 2588.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from livephase.inference.client import InferenceClient
from livephase.inference.process import Timeouts
from livephase.phase.modelfile import Architecture, ModelCard, ValidRange, bundled_models, read_card
from livephase.phase.preprocess import prepare
from livephase.phase.weights import build_network, save_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.inference.protocol import RuntimeName

Row = tuple[str, float, str]

SHAPE = (490, 647)
BUDGET_S = 10.0
"""After the first frame, frames are measured until this is used up; at least one, at most eight."""
START_TIMEOUT_S = 300.0


def main() -> list[Row]:
    """Return rows (what, value, unit)."""
    torch.set_num_threads(os.cpu_count() or 1)
    on_gpu = torch.cuda.is_available()
    rows: list[Row] = []
    peaks: dict[str, float] = {}
    for device in ("cpu", "cuda") if on_gpu else ("cpu",):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{device} {'f32' if dtype == torch.float32 else 'bf16'}"
            peaks[name] = matrix_multiply_peak(device, dtype)
            rows.append((f"matrix multiply, {name}", peaks[name] / 1e9, "GFLOP/s"))
    sub_pixel: tuple[RuntimeName, ...] = ("openvino", "torch-cpu")
    paper: tuple[RuntimeName, ...] = ("openvino",)
    if on_gpu:
        sub_pixel, paper = (*sub_pixel, "torch-cuda"), (*paper, "torch-cuda")
    milliseconds: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paper_model = untrained(Path(folder), Architecture(name="paper-unet", width=64))
        for network, runtimes, path in (
            ("sub-pixel U-Net", sub_pixel, sub_pixel_model(Path(folder))),
            ("paper's U-Net", paper, paper_model),
        ):
            for runtime in runtimes:
                measured, milliseconds[network, runtime] = measure(network, runtime, path, peaks)
                rows += measured
    for runtime in paper:
        ratio = milliseconds["paper's U-Net", runtime] / milliseconds["sub-pixel U-Net", runtime]
        rows.append((f"paper's U-Net 64 over sub-pixel U-Net, {runtime}", ratio, "times"))
    return rows


def measure(network: str, runtime: RuntimeName, path: Path, peaks: dict[str, float]) -> tuple[list[Row], float]:
    """Measure one network on one runtime; returns rows and the ms of a frame in the worker."""
    pixels = np.random.default_rng(1).integers(110, 140, SHAPE).astype(np.uint8)
    card = read_card(path)
    inside_ms: list[float] = []
    beyond_ms: list[float] = []
    began = time.perf_counter()
    patient = Timeouts(frame_s=600.0)
    with InferenceClient(path, runtime, lr_pixel_um=2.6, wavelength_um=0.55, timeouts=patient) as client:
        client.wait_ready(START_TIMEOUT_S)
        ready_s = time.perf_counter() - began
        name = client.submit(pixels, 6.0, bit_depth=8).result().runtime
        end = time.perf_counter() + BUDGET_S
        while not inside_ms or (time.perf_counter() < end and len(inside_ms) < 8):
            start = time.perf_counter()
            result = client.submit(pixels, 6.0, bit_depth=8).result()
            inside_ms.append(result.inference_ms)
            beyond_ms.append((time.perf_counter() - start) * 1e3 - result.inference_ms)
        memory = psutil.Process(client.status().pid).memory_info().rss / 2**20
    elapsed_ms = float(np.median(inside_ms))
    precision = "bf16" if name.endswith("bf16") else "f32"
    peak = peaks[f"{'cuda' if 'cuda' in name else 'cpu'} {precision}"]
    fraction = operations(card.architecture, pixels) / (elapsed_ms / 1e3) / peak
    name = f"{network} {card.architecture.width}, {name}"
    rows: list[Row] = [
        (f"{name}: 490x647 to 1960x2588", elapsed_ms, "ms"),
        (f"{name}: of the matrix-multiply peak", fraction, "ratio"),
        (f"{name}: transport there and back", float(np.median(beyond_ms)), "ms"),
        (f"{name}: worker memory", memory, "MiB"),
        (f"{name}: from spawn to ready", ready_s, "s"),
    ]
    return rows, elapsed_ms


def operations(architecture: Architecture, pixels: NDArray[np.uint8]) -> float:
    """Count the floating-point operations of one frame: two for each multiplication of the convolutions."""
    with torch.device("meta"):
        network = build_network(architecture).eval()
    stride = 8 if architecture.name == "subpixel-unet" else 4
    padded = prepare(pixels, bit_depth=8, stride=stride).intensity.shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 1, *padded, device="meta"), torch.empty(1, device="meta"))
    return float(counter.get_total_flops())


def matrix_multiply_peak(device: str, dtype: torch.dtype) -> float:
    """Measure the best of several large square products, in operations per second."""
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device).to(dtype)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        product = a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
        del product
    return best


def sub_pixel_model(folder: Path) -> Path:
    """Take the bundled model, or one of its size without training where none is bundled."""
    return bundled_models()[0] if bundled_models() else untrained(folder, Architecture(name="subpixel-unet", width=48))


def untrained(folder: Path, architecture: Architecture) -> Path:
    """Save a network as it is before training; it computes as fast as after it."""
    torch.manual_seed(0)
    valid = ValidRange(
        defocus_um=(1, 13), wavelength_um=(0.5, 0.6), lr_pixel_um=(2.5, 2.7), coherence=(0, 0.6), noise_sd=(0, 0.03)
    )
    card = ModelCard(
        name="untrained", version="0", architecture=architecture, scale=4, valid=valid, training={}, figures={}
    )
    path = folder / f"{architecture.name}.safetensors"
    save_network(path, build_network(architecture), card)
    return path
