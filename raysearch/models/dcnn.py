"""DCNN: three pairs of convolutions with ELU units, on pixels or on oriented gradients.

The layout is one that many public notebooks for FER2013 copy from each other: 5x5 convolutions of
64 channels, then 3x3 ones of 128 and of 256, BatchNorm after each activation, a pooling and
dropout after each pair, and one fully connected layer of 128 units. Weights start normal, of
variance 2 / fan-in.
"""

from pydantic import PositiveInt
from torch import Tensor, nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError
from raysearch.models.hog import Hog
from raysearch.models.layers import Rates, he_, per_layer

_PAIRS = ((64, 5), (128, 3), (256, 3))
_HIDDEN = 128


def dcnn(
    channels: int,
    classes: int,
    image_size: int,
    *,
    block_dropout: Rates = (0.4, 0.4, 0.5),
    dropout: Fraction = 0.6,
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]``; 2,395,591 values as Keras counts them (running means
    and variances included) for one channel, 48 pixels and seven classes; 2,393,543 are trained.

    Args:
        block_dropout: after each pair of convolutions; a list has three.
        dropout: before the classifier.
    """
    if image_size < 8:
        raise ConfigError(
            "The network 'dcnn' halves the image three times and needs image_size >= 8, "
            f"but got {image_size}."
        )
    return _dcnn(channels, classes, image_size, block_dropout, dropout)


def hog_dcnn(
    channels: int,
    classes: int,
    image_size: int,
    *,
    cell: PositiveInt = 4,
    orientations: PositiveInt = 9,
    block_dropout: Rates = (0.4, 0.4, 0.5),
    dropout: Fraction = 0.6,
) -> nn.Sequential:
    """`dcnn` on a map of histograms of oriented gradients instead of pixels.

    ``[N, C, S, S]`` becomes ``[N, 4 * orientations, B, B]``: the normalized blocks of 2 x 2 cells,
    of which 48 pixels and cells of 4 make 11 x 11. Nothing of that learns.

    Args:
        cell: side of a cell in pixels.
        orientations: bins that half a turn is divided into.
        block_dropout, dropout: as in `dcnn`.
    """
    smallest = 9 * cell
    if image_size < smallest:
        raise ConfigError(
            f"The network 'hog_dcnn' with cells of {cell} pixels needs image_size >= {smallest}, "
            f"but got {image_size}. Make cell smaller."
        )
    cells = HogCells(image_size, orientations=orientations, cell=cell)
    body = _dcnn(cells.hog.channels, classes, cells.hog.blocks, block_dropout, dropout)
    return nn.Sequential(cells, *body)


class HogCells(nn.Module):
    """`Hog.cells` as a layer: images ``[N, C, S, S]`` to the map of blocks."""

    def __init__(self, image_size: int, orientations: int, cell: int):
        super().__init__()
        self.hog = Hog(image_size, orientations=orientations, cell=cell)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        return self.hog.cells(x_NCSS)


def _dcnn(
    channels: int, classes: int, side: int, block_dropout: Rates, dropout: float
) -> nn.Sequential:
    layers: list[nn.Module] = []
    rates = per_layer("block_dropout", block_dropout, len(_PAIRS))
    for (width, kernel), rate in zip(_PAIRS, rates, strict=True):
        for channels_in in (channels, width):
            conv = nn.Conv2d(channels_in, width, kernel, padding=kernel // 2)
            layers += [conv, nn.ELU(inplace=True), nn.BatchNorm2d(width)]
        layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
        channels = width
    layers += [nn.Flatten(), nn.Linear(channels * (side // 8) ** 2, _HIDDEN), nn.ELU(inplace=True)]
    layers += [nn.BatchNorm1d(_HIDDEN), nn.Dropout(dropout), nn.Linear(_HIDDEN, classes)]
    return he_(nn.Sequential(*layers))
