"""Sub-pixel U-Net: a phase network that works on the camera's own grid and upsamples last.

::

    intensity (B,1,H,W)                                         conditions (B,3)
        │ conv3x3                                                   │ Fourier features, MLP
        ▼                                                           ▼
      w, H ──block──────────────────────────────┐           FiLM scale and shift of every block
        │ conv2x2/2                             │
     2w, H/2 ──block──────────────────────┐     │
        │ conv2x2/2                       │     │
     4w, H/4 ──2 blocks─────────────┐     │     │
        │ conv2x2/2                 │     │     │
     4w, H/8 ──2 blocks──up──(+)──block──up──(+)──block──up──(+)──block── conv3x3, ReLU, conv3x3
                                                                              │
                                                             PixelShuffle x4 ▼  phase (B,1,4H,4W)

A block is two 3x3 convolutions with a residual path; FiLM (Perez et al. 2018) acts after the first one.
The paper's network interpolates its input by 4 first and convolves on the HR grid (``unet.py``): 16 times the pixels
at its first level. Sub-pixel convolution: Shi et al. 2016.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CONDITIONS = 3
"""Entries of ``conditions.Conditions.vector``."""
_FOURIER_ORDERS = (1.0, 2.0, 4.0)
_SMALL_DEFOCUS_NUMBER = 0.05
_LARGE_DEFOCUS_NUMBER = 10.0
_EMBEDDING = 64


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(_EMBEDDING, 2 * channels)
        # The block starts as the identity with neutral conditioning, which trains without normalisation layers.
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.zeros_(self.second.weight)
        if self.second.bias is not None:
            nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.relu(self.first(x) * (1 + scale) + shift)
        return functional.relu(x + self.second(hidden))


class SubpixelUNet(nn.Module):
    """The sub-pixel U-Net of the module's diagram, conditioned on defocus and coherence.

    It takes 11 GMAC for each megapixel of phase at width 32 (2.0 M parameters), 3.5 at 16 (0.5 M).

    Parameters
    ----------
    width : int
        Channels at the first level.
    """

    stride = 8
    scale = 4

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        w = width
        self.width = width
        self.embed = nn.Sequential(
            nn.Linear(CONDITIONS + 2 * len(_FOURIER_ORDERS), _EMBEDDING),
            nn.SiLU(),
            nn.Linear(_EMBEDDING, _EMBEDDING),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(1, w, 3, padding=1)
        self.encoder0 = _Block(w)
        self.down0 = nn.Conv2d(w, 2 * w, 2, stride=2)
        self.encoder1 = _Block(2 * w)
        self.down1 = nn.Conv2d(2 * w, 4 * w, 2, stride=2)
        self.encoder2 = nn.ModuleList([_Block(4 * w), _Block(4 * w)])
        self.down2 = nn.Conv2d(4 * w, 4 * w, 2, stride=2)
        self.middle = nn.ModuleList([_Block(4 * w), _Block(4 * w)])
        self.up2 = nn.ConvTranspose2d(4 * w, 4 * w, 2, stride=2)
        self.decoder2 = _Block(4 * w)
        self.up1 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2)
        self.decoder1 = _Block(2 * w)
        self.up0 = nn.ConvTranspose2d(2 * w, w, 2, stride=2)
        self.decoder0 = _Block(w)
        self.head = nn.Sequential(nn.Conv2d(w, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, self.scale**2, 3, padding=1))
        self.shuffle = nn.PixelShuffle(self.scale)

    def forward(self, intensity: Tensor, conditions: Tensor) -> Tensor:
        """Estimate the phase.

        Parameters
        ----------
        intensity : Tensor
            (B, 1, H, W) float: ``INPUT_GAIN * (I / mean(I) - 1)`` (``modelfile.INPUT_GAIN``). H and W are
            multiples of ``stride``; the caller pads.
        conditions : Tensor
            (B, 3) float, from ``conditions.Conditions.vector``: defocus number, S, whether S is known.

        Returns
        -------
        Tensor
            Phase (B, 1, 4H, 4W) in radians.
        """
        e = self.embed(self._features(conditions))
        x0 = self.encoder0(functional.relu(self.stem(intensity)), e)
        x1 = self.encoder1(self.down0(x0), e)
        x2 = self.down1(x1)
        for block in self.encoder2:
            x2 = block(x2, e)
        x = self.down2(x2)
        for block in self.middle:
            x = block(x, e)
        x = self.decoder2(self.up2(x) + x2, e)
        x = self.decoder1(self.up1(x) + x1, e)
        x = self.decoder0(self.up0(x) + x0, e)
        return self.shuffle(self.head(x))

    def _features(self, conditions: Tensor) -> Tensor:
        """Spread the defocus number, which spans two decades over the objectives, over (0, 1), and S beside it."""
        largest = math.asinh(_LARGE_DEFOCUS_NUMBER / _SMALL_DEFOCUS_NUMBER)
        # asinh is linear near focus, logarithmic beyond and odd: the other side of focus is another input.
        u = torch.asinh(conditions[:, :1] / _SMALL_DEFOCUS_NUMBER) / largest
        waves = [torch.sin(torch.pi * k * u) for k in _FOURIER_ORDERS]
        waves += [torch.cos(torch.pi * k * u) for k in _FOURIER_ORDERS]
        return torch.cat([u, *waves, conditions[:, 1:]], dim=1)
