"""Load and save networks as safetensors; never pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from livephase.errors import ModelError
from livephase.files import replace
from livephase.phase.modelfile import HEADER_KEY, Architecture, ModelCard, read_card
from livephase.phase.srcnn import SRCNN
from livephase.phase.subpixel import SubpixelUNet
from livephase.phase.unet import PaperUNet

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

_NETWORKS = {"subpixel-unet": SubpixelUNet, "paper-unet": PaperUNet, "srcnn": SRCNN}


def build_network(architecture: Architecture) -> nn.Module:
    """Make an untrained network of that architecture."""
    return _NETWORKS[architecture.name](architecture.width)


def save_network(path: Path, network: nn.Module, card: ModelCard) -> ModelCard:
    """Write weights (bfloat16, in which they are computed) and card in one file, atomically.

    Parameters
    ----------
    path : Path
        Where; replaced if it exists.
    network : nn.Module
        A network that ``build_network(card.architecture)`` can make.
    card : ModelCard
        Its card; ``sha256`` is left out of the header, since the header is part of the file.

    Returns
    -------
    ModelCard
        The card with the digest of the written file.
    """
    tensors = {
        key: value.detach().to(torch.bfloat16 if value.is_floating_point() else value.dtype).contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    blob = save(tensors, metadata={HEADER_KEY: card.model_dump_json(exclude={"sha256"})})
    partial = path.with_suffix(".partial")
    partial.write_bytes(blob)
    replace(partial, path)
    return read_card(path)


def load_network(path: Path) -> tuple[nn.Module, ModelCard]:
    """Load a network in evaluation mode, float32 on the CPU.

    Raises
    ------
    ModelError
        The file is not a usable model; see ``modelfile.read_card``.
    """
    card = read_card(path)
    network = build_network(card.architecture)
    try:
        tensors = load_file(path)
        floats = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
        network.load_state_dict(floats)
    except (SafetensorError, RuntimeError) as error:
        msg = f"model file {path}: weights do not fit a {card.architecture.name}: {str(error).splitlines()[0]}"
        raise ModelError(msg) from error
    return network.eval(), card
