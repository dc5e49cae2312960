"""Fully connected layers between a timm backbone's pooled features and its classifier."""

from timm.models.vgg import VGG
from torch import nn

from raysearch.errors import ConfigError
from raysearch.models.layers import Rates, Sizes, glorot_
from raysearch.models.mlp import dense_layers


def add_hidden(network: nn.Module, name: str, hidden: Sizes, dropout: Rates) -> None:
    """Puts ReLU layers of ``hidden`` units before the classifier of ``network``, in place.

    VGG's own two layers of 4,096 units make way for them. The names of all other parameters stay
    as they are, so that published weights still fit. ``dropout`` follows each hidden layer.

    Raises `ConfigError` where the classifier is not one linear layer.
    """
    classifier = network.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ConfigError(
            f"The classifier of 'timm/{name}' is not one linear layer: leave head_hidden out."
        )
    features = classifier.in_features
    if isinstance(network, VGG):
        network.pre_logits = nn.Identity()
        features = network.num_features
    path = next(path for path, layer in network.named_modules() if layer is classifier)
    layers = dense_layers(features, classifier.out_features, hidden, dropout, "relu")
    network.set_submodule(path, glorot_(nn.Sequential(*layers)))
