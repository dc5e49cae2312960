"""A multilayer perceptron on the raw pixels: the floor that every convolution must beat."""

from torch import nn

from raysearch.models.layers import (
    Activation,
    Rates,
    Sizes,
    activation_layer,
    glorot_,
    per_layer,
)


def mlp(
    channels: int,
    classes: int,
    image_size: int,
    *,
    hidden: Sizes = (512, 128),
    dropout: Rates = 0.2,
    activation: Activation = "relu",
) -> nn.Sequential:
    """``[N, C, S, S]`` to logits ``[N, K]`` through ``hidden`` layers.

    For one channel, 48 pixels and seven classes, layers of 128, 64 and 32 units make 305,607
    parameters; 256 and 64 make 606,983; 512 and 64 make 1,213,447.

    Args:
        hidden: units of each hidden layer.
        dropout: after each hidden layer.
        activation: of the hidden layers.
    """
    features = channels * image_size * image_size
    dense = dense_layers(features, classes, hidden, dropout, activation)
    return glorot_(nn.Sequential(nn.Flatten(), *dense))


def dense_layers(
    features: int, classes: int, hidden: Sizes, dropout: Rates, activation: Activation
) -> list[nn.Module]:
    """``[N, features]`` to logits ``[N, classes]``: a linear layer, the activation and dropout for
    each of ``hidden``, then the classifier. Raises `ConfigError` for other than one rate a layer.
    """
    sizes = [hidden] if isinstance(hidden, int) else hidden
    layers: list[nn.Module] = []
    for size, rate in zip(sizes, per_layer("dropout", dropout, len(sizes)), strict=True):
        layers += [nn.Linear(features, size), activation_layer(activation), nn.Dropout(rate)]
        features = size
    return [*layers, nn.Linear(features, classes)]
