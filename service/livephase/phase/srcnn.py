"""SRCNN, the classic super-resolution network that the paper compares with (Dong et al. 2015; paper section 3.1).

::

    intensity (B,1,H,W) ── bicubic x4 ── conv9x9 (w) ── conv5x5 (w/2) ── conv5x5 ── phase (B,1,4H,4W)

ReLU after the first two. At width 64 it has 57 k parameters and takes 57 GMAC for each megapixel of phase: all on the
HR grid. Its receptive field is 17 HR pixels, less than a cell, which is why it cannot find low spatial frequencies.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SRCNN(nn.Module):
    """The network of the module's diagram, in the 9-5-5 form.

    Parameters
    ----------
    width : int
        Filters of the first layer, even; 64 in the original.
    """

    stride = 1
    scale = 4

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width // 2, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 2, 1, 5, padding=2),
        )

    def forward(self, intensity: Tensor, conditions: Tensor) -> Tensor:
        """Estimate the phase (B, 1, 4H, 4W) in rad from intensity (B, 1, H, W).

        Parameters
        ----------
        intensity : Tensor
            As in ``SubpixelUNet.forward``; any H and W.
        conditions : Tensor
            (B, 3); not used.
        """
        del conditions
        return self.layers(
            functional.interpolate(intensity, scale_factor=self.scale, mode="bicubic", align_corners=False)
        )
