"""A narrow ResNet for small images.

After He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2016: basic blocks, with
the 3x3 stem of section 4.2, a last stage that is as narrow as the one before it, and whole channels
dropped inside the blocks, two changes for which the public project fer-loopai reports 72 instead of
67 % on FER2013. Each block's last norm starts at zero, so that the block starts as the identity
(Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1).
"""

from pydantic import PositiveInt
from timm.layers import DropPath
from torch import Tensor, nn

from raysearch.config import Fraction
from raysearch.models.layers import he_


class BasicBlock(nn.Module):
    """``[N, C, H, W]`` to ``[N, D, H / stride, W / stride]`` (rounded up)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, dropout: float, drop_path: float
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout2d(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.drop_path = DropPath(drop_path)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            conv = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels_out))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = self.dropout(self.norm1(self.conv1(x_NCHW)).relu())
        y_NCHW = self.norm2(self.conv2(y_NCHW))
        return (self.shortcut(x_NCHW) + self.drop_path(y_NCHW)).relu()


def resnet(
    channels: int,
    classes: int,
    image_size: int,
    *,
    width: PositiveInt = 64,
    blocks: PositiveInt = 2,
    dropout: Fraction = 0.0,
    block_dropout: Fraction = 0.2,
    drop_path: Fraction = 0.0,
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]`` for any ``S``: four stages of 1, 2, 4 and 4 times
    ``width`` channels at ``S``, ``S/2``, ``S/4`` and ``S/8`` pixels, then the mean over all places.

    Args:
        blocks: residual blocks in each stage.
        dropout: before the classifier.
        block_dropout: whole channels, between a block's two convolutions.
        drop_path: largest probability of skipping a residual branch; it rises from 0 evenly.
    """
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    channels_in = width
    for index in range(4 * blocks):
        stage, first = index // blocks, index % blocks == 0
        channels_out = width * (1, 2, 4, 4)[stage]
        stride = 2 if stage and first else 1
        skipped = drop_path * index / (4 * blocks - 1)
        layers += [BasicBlock(channels_in, channels_out, stride, block_dropout, skipped)]
        channels_in = channels_out
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    network = he_(nn.Sequential(*layers, *head, nn.Linear(channels_in, classes)))
    for layer in layers:
        if isinstance(layer, BasicBlock):
            nn.init.zeros_(layer.norm2.weight)
    return network
