"""Optimizers with decoupled weight decay, and the moving average of the weights."""

import copy
import math
from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import nn

from raysearch.config import TrainConfig
from raysearch.errors import FieldError
from raysearch.models.freeze import frozen_tensors

MOMENTUM = 0.9


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW or Muon over all that learns; biases and norms are never
    decayed. Raises `FieldError` where Muon is asked for and timm has none."""
    learning = [p for p in network.parameters() if p.requires_grad]
    decayed = {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay}
    plain = {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0}
    if config.optimizer == "sgd":
        return DecoupledSGD([decayed, plain], config.lr, MOMENTUM)
    if config.optimizer == "adamw":
        return torch.optim.AdamW([decayed, plain], lr=config.lr, fused=True)
    head = {**decayed, "params": decayed["params"][-1:], "use_fallback": True}
    body = {**decayed, "params": decayed["params"][:-1]}
    groups = [body, head, {**plain, "use_fallback": True}]
    return muon()(groups, lr=config.lr, adjust_lr_fn="match_rms_adamw")


class DecoupledSGD(torch.optim.SGD):
    """SGD with decoupled weight decay: Loshchilov & Hutter, "Decoupled Weight Decay
    Regularization", 2019, algorithm 1. A step first shrinks each group's weights by its ``lr``
    times its ``weight_decay``, which never enters gradient or momentum."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float):
        # Under a name of its own: torch would add what it finds under its name to the gradient.
        groups = [{**g, "weight_decay": 0.0, "decoupled_decay": g["weight_decay"]} for g in groups]
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if group["decoupled_decay"] and weights:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["decoupled_decay"])
        return super().step(closure)


def muon() -> type[torch.optim.Optimizer]:
    """timm's Muon (K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024).

    The weights of a convolution are taken as one matrix, output channels by all the rest. The
    classifier (the last weights of the network), biases, norms and shapes that make no matrix,
    such as convolutions of single channels, are AdamW's. Updates have the size of AdamW's (Liu et
    al., "Muon is Scalable for LLM Training", 2025, section 2.2): one learning rate serves both.
    """
    import inspect

    import timm.optim

    found = getattr(timm.optim, "Muon", None)
    if found is None or "fallback_lr_scale" not in inspect.signature(found).parameters:
        raise FieldError(
            "optimizer: muon needs timm 1.0.27 or later, the first whose Muon has the learning "
            f"rate follow the schedule for all parameters, but timm {timm.__version__} is "
            "installed. Update timm, or use adamw.",
            ("optimizer",),
        )
    return found


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore what ``optimizer`` remembers of each parameter; its learning rates, decays and other
    settings stay its own, which a run that goes on from another one's state has anew."""
    groups = zip(optimizer.param_groups, saved["param_groups"], strict=True)
    own = [{**group, "params": theirs["params"]} for group, theirs in groups]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})


class MovingAverage:
    """Exponential moving average of a network's parameters and float buffers; frozen ones, which
    never move, are left alone, as are constants, which no checkpoint holds and may be infinite.

    The horizon is given in epochs, so that it means the same at any batch size. Early on the
    average is a short one (decay at most ``(1 + t) / (10 + t)``), so that it is of use from
    the first epoch.
    """

    def __init__(self, network: nn.Module, horizon_steps: float):
        self.decay = math.exp(-1 / horizon_steps) if horizon_steps > 0 else 0.0
        moving = network.state_dict().keys() - frozen_tensors(network)
        self.moves = [name in moving for name in _tensors(network)]
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
