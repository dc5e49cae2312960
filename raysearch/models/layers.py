"""What several networks share: activations by name, options per layer, initial weights."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import PositiveInt
from torch import nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError

Activation = Literal["relu", "elu", "sigmoid", "tanh", "gelu"]
Sizes = Sequence[PositiveInt] | PositiveInt
"""One for all layers, or one for each."""
Rates = Sequence[Fraction] | Fraction
"""The same for probabilities."""

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}


def activation_layer(name: Activation) -> nn.Module:
    return _ACTIVATIONS[name]()


def per_layer(option: str, value: Any, layers: int) -> list[Any]:
    """``value`` for each of ``layers`` layers: one for all of them, or a list of one for each.

    Raises `ConfigError`, which calls it ``option``, for a list of another length.
    """
    if not isinstance(value, (list, tuple)):
        return [value] * layers
    if len(value) != layers:
        raise ConfigError(
            f"{option} must be one value or a list of {layers}, one a layer, but got {value!r}."
        )
    return list(value)


def glorot_(network: nn.Module) -> nn.Module:
    """Keras's default start, in place: Glorot & Bengio's (2010) uniform weights and zero biases."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def he_(network: nn.Module) -> nn.Module:
    """Normal weights of variance 2 / fan-in (He et al., "Delving Deep into Rectifiers", 2015) and
    zero biases, in place."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
