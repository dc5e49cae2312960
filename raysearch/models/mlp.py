"""A multilayer perceptron on the raw pixels: the floor that every convolution must beat."""

from torch import nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError


def mlp(
    channels: int,
    classes: int,
    image_size: int,
    *,
    hidden: list[int] | tuple[int, ...] | int = (512, 128),
    dropout: Fraction = 0.2,
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]`` through ``hidden`` layers of ReLU units.

    Args:
        hidden: units of each hidden layer.
        dropout: after each hidden layer.
    """
    sizes = [hidden] if isinstance(hidden, int) else list(hidden)
    if not sizes or any(size < 1 for size in sizes):
        raise ConfigError(f"mlp: hidden must list layer sizes of at least 1, but got {hidden!r}.")
    layers: list[nn.Module] = [nn.Flatten()]
    features = channels * image_size * image_size
    for size in sizes:
        layers += [nn.Linear(features, size), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, classes))
