"""Plain convolutional networks, as they are usually made by hand: blocks of convolutions with a
pooling each, then fully connected layers (LeCun et al., "Gradient-Based Learning Applied to
Document Recognition", 1998; Krizhevsky et al., "ImageNet Classification", 2012).

``search_spaces/baselines`` writes six documented networks for facial expressions in these terms.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import nn

from raysearch.errors import ConfigError
from raysearch.models.layers import (
    Activation,
    Rates,
    Sizes,
    activation_layer,
    glorot_,
    per_layer,
)
from raysearch.models.mlp import dense_layers


def cnn(
    channels: int,
    classes: int,
    image_size: int,
    *,
    blocks: Annotated[Sequence[Sizes], Field(min_length=1)] = (
        32,
        (64, 64),
        (64, 64),
        (128, 128, 128),
    ),
    kernels: Sizes = 3,
    stride: PositiveInt = 1,
    pools: Sizes = 2,
    hidden: Sizes = 128,
    activation: Activation = "relu",
    hidden_activation: Activation | None = None,
    norm: Literal["none", "convolutions", "all"] = "none",
    block_dropout: Rates = 0.0,
    dropout: Rates = 0.5,
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]``.

    The default has 647,111 parameters for one channel, 48 pixels and seven classes. Names of
    parameters begin with ``blocks.`` or, fully connected ones, with ``dense.``. Convolutions are
    padded so that only ``stride`` and ``pools`` reduce the image: the first to ``S / stride``
    rounded up, the others to quotients rounded down.

    Args:
        blocks: channels of each convolution, by block; a number alone is a block of one.
        kernels: side of the convolutions' windows, odd; a list has one for each block.
        stride: of the first convolution.
        pools: side of each block's max pooling, which is also its stride; 1 is none.
        hidden: units of each fully connected layer before the classifier.
        activation: after each convolution.
        hidden_activation: of the fully connected layers; the same where left out.
        norm: BatchNorm after the convolutions, or after all layers, the classifier among them.
        block_dropout: after each block; a list has one for each.
        dropout: after each fully connected layer; a list has one for each.

    Raises `ConfigError` for lists of other lengths, even windows, or an image that is too small.
    """
    kernels, pools, rates = (
        per_layer(option, value, len(blocks))
        for option, value in (
            ("kernels", kernels),
            ("pools", pools),
            ("block_dropout", block_dropout),
        )
    )
    if any(kernel % 2 == 0 for kernel in kernels):
        raise ConfigError(f"cnn: kernels must be odd, but got {kernels!r}.")
    side = _side(image_size, stride, pools)
    layers: list[nn.Module] = []
    for block, kernel, pool, rate in zip(blocks, kernels, pools, rates, strict=True):
        for width in [block] if isinstance(block, int) else block:
            step = 1 if layers else stride
            layers += [nn.Conv2d(channels, width, kernel, step, padding=kernel // 2)]
            layers += [] if norm == "none" else [nn.BatchNorm2d(width)]
            layers += [activation_layer(activation)]
            channels = width
        layers += [nn.MaxPool2d(pool), nn.Dropout(rate)]
    features = channels * side * side
    dense = dense_layers(features, classes, hidden, dropout, hidden_activation or activation)
    dense = _with_norms(dense) if norm == "all" else dense
    parts = {"blocks": nn.Sequential(*layers), "flatten": nn.Flatten()}
    return glorot_(nn.Sequential(OrderedDict(parts, dense=nn.Sequential(*dense))))


def _side(image_size: int, stride: int, pools: Sequence[int]) -> int:
    """Side of the last map; `ConfigError` where nothing would be left."""
    side = -(-image_size // stride)
    reduced = 1
    for pool in pools:
        reduced *= pool
    if side < reduced:
        raise ConfigError(
            f"The network 'cnn' with stride {stride} and pools {pools!r} needs image_size >= "
            f"{(reduced - 1) * stride + 1}, but got {image_size}."
        )
    return side // reduced


def _with_norms(layers: list[nn.Module]) -> list[nn.Module]:
    return [
        part
        for layer in layers
        for part in (
            (layer, nn.BatchNorm1d(layer.out_features))
            if isinstance(layer, nn.Linear)
            else (layer,)
        )
    ]
