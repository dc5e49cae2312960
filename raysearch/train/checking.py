"""What of a training run depends on its network, or on what is installed, beside the network."""

from torch import nn

from raysearch.config import TrainConfig
from raysearch.models.freeze import freeze
from raysearch.train.optim import muon
from raysearch.train.penalty import strengths


def check_recipe(config: TrainConfig, network: nn.Module) -> None:
    """Raises `FieldError` where ``config`` cannot train ``network``, which needs no values and is
    frozen as deep as it says."""
    freeze(network, config.freeze_depth, config.model.name)
    strengths(config.l2, network)
    if config.optimizer == "muon":
        muon()
