"""What a batch is to be taken for: a mixture of labels, and the loss against it.

`Targets` is a list of terms (share_N, labels_N): each image is so much of that class. A share may
be one number for all images.
"""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

Targets = list[tuple[Tensor | float, Tensor]]


def cross_entropy(
    logits_NK: Tensor, targets: Targets, smoothing: float, weights_K: Tensor | None
) -> Tensor:
    """The mean cross entropy against a mixture of labels, each term times its class's weight
    where losses are weighted."""
    losses_N = []
    for share, labels in targets:
        loss_N = F.cross_entropy(logits_NK, labels, label_smoothing=smoothing, reduction="none")
        losses_N.append(share * (loss_N if weights_K is None else loss_N * weights_K[labels]))
    return torch.stack(losses_N).sum(0).mean()


def part_of(targets: Targets, part: slice) -> Targets:
    """The targets of some of the images."""
    return [
        (share[part] if isinstance(share, Tensor) else share, labels_N[part])
        for share, labels_N in targets
    ]


def split_evenly(rows: int, parts: int) -> list[slice]:
    """``parts`` slices of ``rows`` rows, as even as can be; at least one."""
    parts = max(parts, 1)
    bounds = [rows * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(bounds)]
