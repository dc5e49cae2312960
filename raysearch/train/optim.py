"""Optimizer, learning-rate schedule, and the moving average of the weights."""

import copy
import math
from itertools import compress

import torch
from torch import nn

from raysearch.config import TrainConfig
from raysearch.models.freeze import frozen_tensors


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; biases and norms are never decayed."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``steps``.

    Cosine: Loshchilov & Hutter, "SGDR", 2017, equation 5, without restarts. One-cycle: after
    Smith & Topin, "Super-Convergence", 2018: a linear rise from 1/25 of the peak, then cosine
    decay to nothing.
    """
    done = step / max(steps, 1)
    rise = config.warmup if config.schedule == "one_cycle" else 0.0
    if done < rise:
        return config.lr * (1 / 25 + (1 - 1 / 25) * done / rise)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


class MovingAverage:
    """Exponential moving average of a network's parameters and float buffers; frozen ones, which
    never move, are left alone.

    The horizon is given in epochs, so that it means the same at any batch size. Early on the
    average is a short one (decay at most ``(1 + t) / (10 + t)``), so that it is of use from
    the first epoch.
    """

    def __init__(self, network: nn.Module, horizon_steps: float):
        self.decay = math.exp(-1 / horizon_steps) if horizon_steps > 0 else 0.0
        frozen = frozen_tensors(network)
        self.moves = [name not in frozen for name in _tensors(network)]
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averaged, current = [], []
        pairs = zip(_tensors(self.network).values(), _tensors(network).values(), strict=True)
        for mine, theirs in compress(pairs, self.moves):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, current, 1 - decay)


def _tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    named = (*network.named_parameters(), *network.named_buffers())
    return {name: tensor.detach() for name, tensor in named}
