"""DeXpression: parallel feature extraction blocks for facial expressions.

After Burkert, Trier, Afzal, Dengel & Liwicki, "DeXpression: Deep Convolutional Neural Network for
Expression Recognition", arXiv 1509.05371 (2015), section 3, as it is commonly cut down from 224 to
48 pixels: convolutions without padding, BatchNorm for local response normalization, and no pooling
after the blocks. At 48 pixels: 21 x 21 x 64, pooled to 10 x 10, then 8 x 8 x 272 and 6 x 6 x 272.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError
from raysearch.models.layers import glorot_

_BLOCK_CHANNELS = 208 + 64


class FeatEx(nn.Module):
    """``[N, C, H, W]`` to ``[N, 272, H - 2, W - 2]``: a 3x3 convolution beside a 3x3 pooling."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolved = nn.Sequential(
            nn.Conv2d(channels, 96, 1), nn.ReLU(inplace=True), nn.Conv2d(96, 208, 3)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1), nn.Conv2d(channels, 64, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat((self.convolved(x_NCHW), self.pooled(x_NCHW)), dim=1).relu()


def dexpression(
    channels: int,
    classes: int,
    image_size: int,
    *,
    blocks: Literal[1, 2] = 2,
    dropout: Fraction = 0.5,
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]``; 485,671 parameters beside the norm's 128 for two
    blocks, one channel, seven classes and 48 pixels. Its parts have names: ``stem``, ``featex1``,
    ``featex2``, ``classifier``.

    Args:
        blocks: FeatEx blocks.
        dropout: before the classifier.
    """
    smallest = 11 + 8 * blocks
    if image_size < smallest:
        raise ConfigError(
            f"The network 'dexpression' with {blocks} block(s) needs image_size >= {smallest}, "
            f"but got {image_size}."
        )
    stem = nn.Sequential(
        nn.Conv2d(channels, 64, 7, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.BatchNorm2d(64),
    )
    pooled = ((image_size - 7) // 2 + 1 - 3) // 2 + 1
    features = _BLOCK_CHANNELS * (pooled - 2 * blocks) ** 2
    parts: dict[str, nn.Module] = {"stem": stem}
    for block in range(blocks):
        parts[f"featex{block + 1}"] = FeatEx(_BLOCK_CHANNELS if block else 64)
    parts |= {"flatten": nn.Flatten(), "dropout": nn.Dropout(dropout)}
    parts["classifier"] = nn.Linear(features, classes)
    return glorot_(nn.Sequential(OrderedDict(parts)))
