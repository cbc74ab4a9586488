"""Runtimes: by what a network is computed. OpenVINO (bf16), torch on the CPU, torch on CUDA (bf16).

Every runtime takes the padded, normalised intensity and gives the padded phase; padding stays outside, because an
exported graph freezes it. Weights come from safetensors only (``phase.weights``).
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from livephase.errors import InferenceError, ModelError
from livephase.phase.subpixel import CONDITIONS
from livephase.phase.weights import load_network

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from livephase.inference.protocol import RuntimeName
    from livephase.phase.modelfile import ModelCard

_COMPILED_SHAPES = 4
"""Compiled graphs kept by the OpenVINO runtime, one for each input shape; the oldest goes."""


class DeviceMemoryError(InferenceError):
    """The accelerator has not enough memory for the frame."""

    slug = "device-memory"
    title = "Accelerator is out of memory"


class Runtime(Protocol):
    """Computes one network."""

    name: str
    """What is reported with every phase, e.g. ``"openvino-bf16"``."""
    stride: int
    """H and W of the intensity are multiples of it."""

    def run(self, intensity: NDArray[np.float32], conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the phase (scale H, scale W) in rad of an intensity (H, W) under conditions (3,).

        The array belongs to the runtime and is valid until the next call.
        """
        ...


class TorchRuntime:
    """torch, float32 on the CPU; bfloat16 in channels-last order on CUDA.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    device : str
        ``"cpu"`` or ``"cuda"``.
    threads : int
        CPU threads.
    """

    def __init__(self, network: nn.Module, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.stride = cast("int", network.stride)
        self.name = "torch-cpu" if device == "cpu" else "torch-cuda-bf16"
        # torch's overloads leave memory_format out.
        self._network: nn.Module = cast("Any", network).to(self.device, memory_format=torch.channels_last)

    def run(self, intensity: NDArray[np.float32], conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute; see ``Runtime.run``.

        Raises
        ------
        DeviceMemoryError
            CUDA is out of memory.
        """
        try:
            return self._run(intensity, conditions)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            msg = f"the graphics memory is not enough for {intensity.shape[0]} x {intensity.shape[1]} pixels"
            raise DeviceMemoryError(msg) from error

    def _run(self, intensity: NDArray[np.float32], conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        on_cuda = self.device.type == "cuda"
        image = torch.from_numpy(intensity)[None, None].to(self.device)
        told = torch.from_numpy(conditions)[None].to(self.device)
        # Autocast instead of bfloat16 weights: the Fourier features of the defocus stay in float32.
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=on_cuda):
            image = image.contiguous(memory_format=torch.channels_last)
            phase: torch.Tensor = self._network(image, told)
        return phase[0, 0].float().cpu().numpy()


class OpenVinoRuntime:
    """OpenVINO on the CPU, in bfloat16 where the processor has it, else in float32.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; converted once.
    threads : int
        CPU threads.
    precision : str, optional
        ``"bf16"`` or ``"f32"``; chosen by the processor's capabilities when it is not given.
    """

    def __init__(self, network: nn.Module, threads: int, precision: str | None = None) -> None:
        import openvino

        self._core = openvino.Core()
        capabilities = cast("list[str]", self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        self._precision = precision or ("bf16" if "BF16" in capabilities else "f32")
        self.name = f"openvino-{self._precision}"
        self.stride = cast("int", network.stride)
        self._threads = threads
        self._model = _convert(network)
        self._requests: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def run(self, intensity: NDArray[np.float32], conditions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute; see ``Runtime.run``."""
        height, width = intensity.shape
        request = self._requests.get((height, width)) or self._compile(height, width)
        inputs = [intensity[None, None], conditions[None]]
        outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
        return cast("NDArray[np.float32]", outputs[0])[0, 0]

    def _compile(self, height: int, width: int) -> Any:
        model = self._model.clone()
        model.reshape({model.inputs[0]: [1, 1, height, width], model.inputs[1]: [1, CONDITIONS]})
        compiled = self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self._precision,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self._threads,
            },
        )
        request = compiled.create_infer_request()
        self._requests[(height, width)] = request
        while len(self._requests) > _COMPILED_SHAPES:
            self._requests.popitem(last=False)
        return request


def open_runtime(name: RuntimeName, model_path: Path, threads: int) -> tuple[Runtime, ModelCard]:
    """Load a model and make the runtime that computes it.

    Parameters
    ----------
    name : str
        ``"auto"`` takes CUDA when a GPU is present, else OpenVINO, else torch on the CPU.
    model_path : Path
        A livephase safetensors file.
    threads : int
        CPU threads.

    Raises
    ------
    ModelError
        The file is not a usable model, or gives values that are not finite.
    InferenceError
        The runtime is not available on this machine.
    """
    network, card = load_network(model_path)
    _probe(network, model_path)
    if name == "torch-cpu":
        return TorchRuntime(network, "cpu", threads), card
    if name == "torch-cuda" or (name == "auto" and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            msg = "runtime torch-cuda: torch finds no CUDA GPU; choose openvino or torch-cpu"
            raise InferenceError(msg)
        return TorchRuntime(network, "cuda", threads), card
    torch.set_num_threads(threads)
    try:
        return OpenVinoRuntime(network, threads), card
    except (ImportError, RuntimeError) as error:
        if name == "auto":
            return TorchRuntime(network, "cpu", threads), card
        msg = f"runtime openvino cannot be started: {str(error).splitlines()[0]}"
        raise InferenceError(msg) from error


def _probe(network: nn.Module, model_path: Path) -> None:
    """Refuse a network whose arithmetic breaks; only torch shows it, OpenVINO's ReLU turns NaN into zero."""
    side = 8 * cast("int", network.stride)
    with torch.inference_mode():
        phase: torch.Tensor = network(torch.ones(1, 1, side, side), torch.ones(1, CONDITIONS))
    if not bool(torch.isfinite(phase).all()):
        msg = f"model file {model_path} gives values that are not finite; it is damaged or its training diverged"
        raise ModelError(msg)


def _convert(network: nn.Module) -> Any:
    """Convert by the front end itself: ``openvino.convert_model`` would report its use over the network."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = (torch.zeros(1, 1, 64, 64), torch.zeros(1, CONDITIONS))
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO's other way in, torch.export, takes several times as long to start.
        warnings.filterwarnings("ignore", r".*torch\.jit\..* is deprecated", DeprecationWarning)
        decoder = TorchScriptPythonDecoder(network, example_input=example)
        front_end = FrontEndManager().load_by_framework("pytorch")
        return front_end.convert(front_end.load(decoder))
