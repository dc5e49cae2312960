"""mini_XCEPTION and tiny_XCEPTION: small residual networks of depthwise separable convolutions.

After Arriaga, Valdenegro-Toro & Plöger, "Real-time Convolutional Neural Networks for Emotion and
Gender Classification", arXiv 1710.07557 (2017), section 3, which follows Chollet, "Xception", 2017.
"""

from pydantic import PositiveInt
from torch import Tensor, nn

from raysearch.config import Fraction


class SeparableResidual(nn.Module):
    """``[N, C, H, W]`` to ``[N, D, H/2, W/2]`` (rounded up): two separable 3x3 convolutions and a
    pooling, added to a strided 1x1 convolution of the input."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.body = nn.Sequential(
            *_separable(channels_in, channels_out),
            nn.ReLU(inplace=True),
            *_separable(channels_out, channels_out),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.body(x_NCHW) + self.shortcut(x_NCHW)


def _separable(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
    ]


def mini_xception(
    channels: int, classes: int, image_size: int, *, width: PositiveInt = 8, dropout: Fraction = 0.0
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]``, for any ``S`` of 8 or more.

    The published network (``width`` 8, one channel, seven classes) has 58,423 values as Keras
    counts them, running means and variances included; 56,951 of them are trained.

    Args:
        width: channels of the two stem convolutions; the four modules have 2, 4, 8 and 16 times
            as many.
        dropout: whole channels, before the last convolution.
    """
    modules = [2 * width, 4 * width, 8 * width, 16 * width]
    return _xception(channels, classes, width, modules, dropout)


def tiny_xception(
    channels: int, classes: int, image_size: int, *, dropout: Fraction = 0.0
) -> nn.Sequential:
    """As `mini_xception`, with stem convolutions of 5 channels and modules of 8, 16, 32 and 64."""
    return _xception(channels, classes, 5, [8, 16, 32, 64], dropout)


def _xception(
    channels: int, classes: int, stem: int, modules: list[int], dropout: float
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels_in in (channels, stem):
        layers += [nn.Conv2d(channels_in, stem, 3, bias=False), nn.BatchNorm2d(stem)]
        layers += [nn.ReLU(inplace=True)]
    for channels_in, channels_out in zip([stem, *modules], modules, strict=False):
        layers += [SeparableResidual(channels_in, channels_out)]
    return nn.Sequential(
        *layers,
        nn.Dropout2d(dropout),
        nn.Conv2d(modules[-1], classes, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
