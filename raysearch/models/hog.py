"""Histograms of oriented gradients, computed on the images' device.

Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection", 2005, section 6, in the
variant of scikit-image's `hog`: central differences, unsigned orientations, each pixel voting with
its magnitude for one orientation of one cell, overlapping blocks normalized by L2-Hys. Shapes: N
images, C channels, S pixels a side, O orientations, H x H cells, B x B blocks.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysearch.errors import ConfigError

_EPSILON = 1e-5
_CLIP = 0.2
_LEAST = 1e-30


class Hog(nn.Module):
    """Images ``[N, C, S, S]`` of any float type and range to features ``[N, F]`` float32 in [0, 1].

    The features are those of scikit-image's `hog` and in its order: block row, block column, cell
    row, cell column, orientation. Of several channels, each pixel takes the one with the largest
    gradient. Pixels beyond the last whole cell count only as neighbours. A gradient within float32
    rounding of the border between two orientations may vote for either.

    Computed elementwise in float32, so that neither autocast nor TF32 rounds it.

    Args:
        orientations: bins that half a turn is divided into.
        cell: side of a cell in pixels.
        block: side of a block in cells; blocks are one cell apart.

    Raises:
        ConfigError: where an image holds no whole block.
    """

    def __init__(self, image_size: int, orientations: int = 9, cell: int = 8, block: int = 2):
        super().__init__()
        if min(orientations, cell, block) < 1:
            raise ConfigError(
                f"hog: orientations, cell and block must be at least 1, but got {orientations}, "
                f"{cell} and {block}."
            )
        if image_size < cell * block:
            raise ConfigError(
                f"hog: a block of {block} x {block} cells of {cell} pixels needs image_size >= "
                f"{cell * block}, but got {image_size}. Make cell or block smaller."
            )
        self.cell = cell
        self.block = block
        self.blocks = image_size // cell - block + 1
        """Blocks along each side."""
        self.channels = block * block * orientations
        """Values of each block."""
        self.features = self.channels * self.blocks**2
        """Values of each image."""
        borders = [1 / math.tan(math.pi * k / orientations) for k in range(1, orientations)]
        cotangent_O11 = torch.tensor([math.inf, *borders])[:, None, None]
        self.register_buffer("cotangent_O11", cotangent_O11, persistent=False)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        return self.cells(x_NCSS).permute(0, 2, 3, 1).flatten(1)

    def cells(self, x_NCSS: Tensor) -> Tensor:
        """The same values as a map ``[N, block * block * O, B, B]``; channels are a block's."""
        histogram_NOHH = self._histogram(*_gradient(x_NCSS.float()))
        end = self.blocks
        shifts = [(row, column) for row in range(self.block) for column in range(self.block)]
        parts = [histogram_NOHH[:, :, r : r + end, c : c + end] for r, c in shifts]
        return _normalized(_normalized(torch.cat(parts, dim=1)).clamp(max=_CLIP))

    def _histogram(self, right_N1SS: Tensor, down_N1SS: Tensor) -> Tensor:
        """Mean vote for each orientation in each cell, ``[N, O, H, H]``.

        Over half a turn the cotangent falls from infinity, so that comparing it says which
        orientations a gradient has reached, without an angle. The votes for orientation k are
        those that reach k less those that reach k + 1.
        """
        magnitude_N1SS = (right_N1SS.square() + down_N1SS.square()).sqrt()
        down = (down_N1SS > 0) | ((down_N1SS == 0) & (right_N1SS > 0))
        right_N1SS = torch.where(down, right_N1SS, -right_N1SS)
        cotangent_N1SS = right_N1SS / down_N1SS.abs().clamp(min=_LEAST)
        votes_NOSS = (cotangent_N1SS <= self.cotangent_O11) * magnitude_N1SS
        reaching_NOHH = F.avg_pool2d(votes_NOSS, self.cell)
        beyond_NOHH = F.pad(reaching_NOHH[:, 1:], (0, 0, 0, 0, 0, 1))
        return (reaching_NOHH - beyond_NOHH).clamp(min=0)


def _gradient(x_NCSS: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and down, ``[N, 1, S, S]``; 0 across an edge of the image."""
    right_NCSS = F.pad(x_NCSS[:, :, :, 2:] - x_NCSS[:, :, :, :-2], (1, 1, 0, 0))
    down_NCSS = F.pad(x_NCSS[:, :, 2:] - x_NCSS[:, :, :-2], (0, 0, 1, 1))
    if x_NCSS.shape[1] == 1:
        return right_NCSS, down_NCSS
    energy_NCSS = right_NCSS.square() + down_NCSS.square()
    steepest_N1SS = energy_NCSS.argmax(dim=1, keepdim=True)
    return right_NCSS.gather(1, steepest_N1SS), down_NCSS.gather(1, steepest_N1SS)


def _normalized(blocks_NOBB: Tensor) -> Tensor:
    """``x / sqrt(sum(x**2) + epsilon**2)``, in units of epsilon: ONNX's optimizer takes a term as
    small as epsilon**2 for 0 and drops it, which makes a constant image NaN."""
    scaled_NOBB = blocks_NOBB / _EPSILON
    return scaled_NOBB / (scaled_NOBB.square().sum(dim=1, keepdim=True) + 1).sqrt()
