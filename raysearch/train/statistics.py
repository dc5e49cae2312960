"""BatchNorm's statistics of a network as it is evaluated: on images that are not augmented.

Averaged weights have never normalized a batch, and an average of the statistics along the way is
not theirs: they are taken anew, as Izmailov et al., "Averaging weights leads to wider optima and
better generalization", 2018, section 3.2, do it at the end. And those of training are of augmented
images, which validation does not have.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from raysearch.models.freeze import frozen_tensors
from raysearch.train.seeding import mixed_seed
from raysearch.train.targets import split_evenly

if TYPE_CHECKING:
    from raysearch.train.loop import Training

SHARE, FEWEST, MOST, BATCH = 4, 512, 2048, 256
"""One training image in `SHARE` is looked at, but between `FEWEST` and `MOST` of them."""


@torch.no_grad()
def renew_statistics(training: "Training", network: nn.Module) -> None:
    """Replace the running statistics of ``network``, one of ``training``'s, by means over batches
    of training images, the same ones every time; frozen ones stay. Each of several workers looks
    at its share of every batch. The network is left in evaluation mode.
    """
    network.eval()
    norms = _norms(network, frozen_tensors(training.network))
    total = len(training.dataset.train)
    images = min(total, max(FEWEST, min(total // SHARE, MOST)))
    if not norms or images < 2 * training.workers.count:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # a plain mean over batches
    draw = torch.Generator().manual_seed(mixed_seed(training.config.seed, 0, 1))
    rows_N = torch.randperm(total, generator=draw)[:images]
    parts = split_evenly(images, images // BATCH)
    row_batches = [training.workers.share(rows_N[part]) for part in parts]
    device, dtype = training.device.type, training.dtype
    with training.dataset.train.batches(row_batches) as batches:
        for images_NCHW, _ in batches:
            x = training.preprocess(images_NCHW).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, dtype, enabled=dtype is not None):
                network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _norms(network: nn.Module, frozen: set[str]) -> list[nn.Module]:
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
        and f"{name}.running_mean" not in frozen
    ]
