"""VGG-style networks for small images, with a width and a depth.

After Simonyan & Zisserman, "Very Deep Convolutional Networks", 2015 (stacked 3x3 convolutions),
with BatchNorm, and two changes that pay on small images: pooling comes right after a stage's
first convolution and before its norm and activation, so that those touch a quarter of the values
(as in K. Jordan, "94% on CIFAR-10 in 3.29 Seconds", 2024, section 3), and the fully connected
layers are a global average pool.
"""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError


class ResidualConv(nn.Module):
    """``x + dropout(relu(bn(conv3x3(x))))``, ``[N, C, H, W]`` to the same shape."""

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.conv = nn.Sequential(*conv_bn_relu(channels, channels))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x_NCHW):
        return x_NCHW + self.dropout(self.conv(x_NCHW))


def conv_bn_relu(channels_in: int, channels_out: int, pool: bool = False) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    middle = [nn.MaxPool2d(2)] if pool else []
    return [conv, *middle, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def vgg(
    channels: int,
    classes: int,
    image_size: int,
    *,
    width: PositiveInt = 32,
    depth: int = 8,
    residual: bool = False,
    dropout: Fraction = 0.2,
    block_dropout: Fraction = 0.0,
) -> nn.Sequential:
    """Stem of ``width`` channels, three stages of 2, 4 and 8 times that, each halving the side.

    Args:
        depth: convolutions in all, 4 (the stem and one a stage) to 13 (four a stage); those
            beyond 4 are dealt out evenly, the last stage first.
        residual: the convolutions after a stage's first are residual.
        dropout: before the classifier.
        block_dropout: whole channels, inside residual convolutions.
    """
    if image_size < 16:
        raise ConfigError(
            f"The network 'vgg' halves the image three times and needs image_size >= 16, "
            f"but got {image_size}."
        )
    if not 4 <= depth <= 13:
        raise ConfigError(f"vgg: depth must be from 4 to 13, but got {depth}.")
    layers: list[nn.Module] = conv_bn_relu(channels, width)
    for stage, extra in enumerate(_extra_convolutions(depth - 4)):
        wide = width * 2 ** (stage + 1)
        layers += conv_bn_relu(wide // 2, wide, pool=True)
        for _ in range(extra):
            layers += [ResidualConv(wide, block_dropout)] if residual else conv_bn_relu(wide, wide)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, *head, nn.Linear(8 * width, classes))


def _extra_convolutions(count: int) -> Sequence[int]:
    """How many convolutions each of three stages gets beyond its first, the last stages first."""
    return [count // 3 + (stage >= 3 - count % 3) for stage in range(3)]
