"""Fixtures of the service tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small sub-pixel U-Net with random weights: what the process machinery needs of a model."""
    import torch

    from livephase.phase.modelfile import Architecture, ModelCard, ValidRange
    from livephase.phase.weights import build_network, save_network

    torch.manual_seed(7)
    architecture = Architecture(name="subpixel-unet", width=8)
    card = ModelCard(
        name="untrained",
        version="0",
        architecture=architecture,
        scale=4,
        valid=ValidRange(
            defocus_um=(1, 13), wavelength_um=(0.5, 0.6), lr_pixel_um=(2.4, 2.8), coherence=(0, 0.6), noise_sd=(0, 0.03)
        ),
        training={},
        figures={},
    )
    network = build_network(architecture)
    with torch.no_grad():
        # Blocks start as the identity without conditioning; here every weight has to matter.
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    path = tmp_path_factory.mktemp("models") / "untrained.safetensors"
    save_network(path, network, card)
    return path
