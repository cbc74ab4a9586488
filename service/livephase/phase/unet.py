"""The paper's U-Net (Zhou et al. 2023, section 2.3 and figure 2a), kept exactly for comparison.

::

    intensity (B,1,H,W) ── bilinear x4 ── 2 conv (w) ─────────────────────────────── 2 conv (w) ── conv1x1 ── phase
                                            pool │                                    │ up conv
                                          2 conv (2w) ───────────────────────── 2 conv (2w)
                                            pool │                                │ up conv
                                          2 conv (4w) ───────────────────── 2 conv (4w)
                                            pool │                            │ up conv
                                          2 conv (8w) ───────────────── 2 conv (8w)
                                            pool └──── 2 conv (16w) ──────┘ up conv

MACs for each megapixel of phase: 734 G at width 64 (31 M parameters), 184 G at 32, 46 G at 16.

Every 3x3 convolution is followed by batch normalisation and ReLU. The text gives the 3x3 convolutions a "stride of 2"
beside a 2x2 max pooling; both together would halve the size twice a level, which figure 2a does not show, so the
stride is 1 and the pooling halves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class PaperUNet(nn.Module):
    """The network of the module's diagram.

    Parameters
    ----------
    width : int
        Channels at the first level; the figure's network has 64.
    """

    stride = 4
    scale = 4

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        widths = [width * 2**level for level in range(5)]
        self.encoder = nn.ModuleList([_double(i, o) for i, o in zip([1, *widths[:-1]], widths, strict=True)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1])])
        self.decoder = nn.ModuleList([_double(2 * w, w) for w in reversed(widths[:-1])])
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, intensity: Tensor, conditions: Tensor) -> Tensor:
        """Estimate the phase (B, 1, 4H, 4W) in rad from intensity (B, 1, H, W).

        Parameters
        ----------
        intensity : Tensor
            As in ``SubpixelUNet.forward``; H and W are multiples of ``stride``.
        conditions : Tensor
            (B, 3); not used: the paper's networks know defocus only from their training set.
        """
        del conditions
        x = functional.interpolate(intensity, scale_factor=self.scale, mode="bilinear", align_corners=False)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.last(x)
