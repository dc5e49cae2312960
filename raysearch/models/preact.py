"""Residual networks whose norms and activations come before their convolutions.

`se_resnet` after He et al., "Identity Mappings in Deep Residual Networks", 2016, section 4, with
squeeze-and-excitation at the end of each branch (Hu et al., "Squeeze-and-Excitation Networks",
2018, section 3). `wide_resnet` after Zagoruyko & Komodakis, "Wide Residual Networks", 2016, section
2, dropout between a block's convolutions included. Both keep the image's side in the first stage,
as these papers do for CIFAR.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import PositiveInt
from timm.layers import DropPath, SEModule
from torch import Tensor, nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError
from raysearch.models.layers import he_


class PreActBlock(nn.Module):
    """``[N, C, H, W]`` to ``[N, D, H / stride, W / stride]`` (rounded up).

    Where the shape changes, the shortcut is a 1x1 convolution of the already activated input.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        dropout: nn.Module,
        drop_path: float,
        excite: bool,
    ):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.dropout = dropout
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.excite = SEModule(channels_out, rd_ratio=1 / 16) if excite else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.shortcut: nn.Module | None = None
        if stride > 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        active_NCHW = self.norm1(x_NCHW).relu()
        branch_NCHW = self.dropout(self.norm2(self.conv1(active_NCHW)).relu())
        branch_NCHW = self.excite(self.conv2(branch_NCHW))
        kept_NCHW = x_NCHW if self.shortcut is None else self.shortcut(active_NCHW)
        return kept_NCHW + self.drop_path(branch_NCHW)


def se_resnet(
    channels: int,
    classes: int,
    image_size: int,
    *,
    width: PositiveInt = 64,
    depth: Literal[18, 34] = 18,
    dropout: Fraction = 0.0,
    block_dropout: Fraction = 0.0,
    drop_path: Fraction = 0.0,
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]`` for any ``S``: four stages of 1, 2, 4 and 8 times
    ``width`` channels at ``S``, ``S/2``, ``S/4`` and ``S/8`` pixels.

    Args:
        depth: layers, as ResNets are named.
        dropout: before the classifier.
        block_dropout: whole channels, between a block's two convolutions.
        drop_path: largest probability of skipping a residual branch; it rises from 0 evenly.
    """

    def block(channels_in: int, channels_out: int, stride: int, share: float) -> PreActBlock:
        drop = nn.Dropout2d(block_dropout)
        return PreActBlock(channels_in, channels_out, stride, drop, share * drop_path, excite=True)

    blocks = (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
    stages = [(width * 2**stage, count) for stage, count in enumerate(blocks)]
    return _preact(channels, classes, width, stages, block, dropout)


def wide_resnet(
    channels: int,
    classes: int,
    image_size: int,
    *,
    depth: int = 16,
    width: PositiveInt = 8,
    dropout: Fraction = 0.0,
    block_dropout: Fraction = 0.3,
    drop_path: Fraction = 0.0,
) -> nn.Sequential:
    """WRN-``depth``-``width``: ``[N, C, S, S]`` to logits ``[N, K]`` for any ``S``.

    Three stages of 16, 32 and 64 times ``width`` channels at ``S``, ``S/2`` and ``S/4`` pixels.

    Args:
        depth: layers: 4 and 6 for each block of a stage, so 10, 16, 22, 28, ...
        width: how many times as many channels as a ResNet for CIFAR has.
        dropout: before the classifier.
        block_dropout: single values, between a block's two convolutions.
        drop_path: largest probability of skipping a residual branch; it rises from 0 evenly.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ConfigError(
            f"wide_resnet: depth must be 4 and a multiple of 6, at least 10, but got {depth}."
        )

    def block(channels_in: int, channels_out: int, stride: int, share: float) -> PreActBlock:
        drop = nn.Dropout(block_dropout)
        return PreActBlock(channels_in, channels_out, stride, drop, share * drop_path, excite=False)

    stages = [(16 * width * 2**stage, blocks) for stage in range(3)]
    return _preact(channels, classes, 16, stages, block, dropout)


def _preact(
    channels: int,
    classes: int,
    stem: int,
    stages: Sequence[tuple[int, int]],
    block: Callable[[int, int, int, float], PreActBlock],
    dropout: float,
) -> nn.Sequential:
    """A 3x3 stem, ``stages`` of (channels, blocks), the last norm, and the mean over all places.

    ``block`` takes channels in and out, stride, and how far along the network it stands, from 0 to
    1. All stages but the first halve the side.
    """
    shapes = [
        (wide, 2 if stage and index == 0 else 1)
        for stage, (wide, blocks) in enumerate(stages)
        for index in range(blocks)
    ]
    layers: list[nn.Module] = [nn.Conv2d(channels, stem, 3, padding=1, bias=False)]
    width = stem
    for index, (wide, stride) in enumerate(shapes):
        layers += [block(width, wide, stride, index / (len(shapes) - 1))]
        width = wide
    head = [nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return he_(nn.Sequential(*layers, *head, nn.Dropout(dropout), nn.Linear(width, classes)))
