"""An ensemble as one PyTorch network: uint8 images in, probabilities out.

Linear opinion pool of temperature-scaled members (Guo et al., "On Calibration of Modern Neural
Networks", 2017, section 4.2), itself temperature-scaled:
``sharpen(sum_m weight_m * sharpen(probs_m, temperature_m), temperature)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raysearch.models.preprocess import Preprocess
from raysearch.models.views import PLAIN, views_of
from raysearch.train.trial import TrialRecord


@dataclass(frozen=True)
class Vote:
    """A member's part in the sum: which backbone, over how many views, and how much."""

    backbone: int
    views: int
    weight: float
    temperature: float


class Backbone(nn.Module):
    """One set of weights, run once on each of the ``views`` that some member needs."""

    def __init__(self, preprocess: Preprocess, network: nn.Module, views: int = PLAIN):
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.views = views

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """``probs_TNK`` float32 of T views (`raysearch.models.views`)."""
        x_NCSS = self.preprocess(images_NCHW)
        if self.views > PLAIN:
            x_NCSS = torch.cat(views_of(x_NCSS, self.views))
        probs = torch.softmax(self.network(x_NCSS).float(), dim=1)
        return probs.reshape(self.views, -1, probs.shape[1])


def untrained_backbone(record: TrialRecord) -> Backbone:
    """A trial's network with weights drawn at random, for what does not depend on them: torch's
    generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        preprocess, network = record.build()
    return Backbone(preprocess, network).eval()


class EnsembleNetwork(nn.Module):
    """``images_NCHW`` uint8 [0, 255] to ``probs_NK`` float32, always in evaluation mode."""

    def __init__(self, backbones: Sequence[Backbone], votes: Sequence[Vote], temperature: float):
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.votes = tuple(votes)
        self.temperature = temperature
        weights = torch.tensor([vote.weight for vote in votes])
        temperatures = torch.tensor([vote.temperature for vote in votes])
        self.register_buffer("weights_M11", weights[:, None, None], persistent=False)
        self.register_buffer("temperatures_M11", temperatures[:, None, None], persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "EnsembleNetwork":
        return super().train(False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.combine(self.member_probs(images_NCHW))

    def member_probs(self, images_NCHW: Tensor) -> Tensor:
        """``probs_MNK`` float32 of each member, before any temperature."""
        views = [backbone(images_NCHW) for backbone in self.backbones]
        return torch.stack([views[vote.backbone][: vote.views].mean(0) for vote in self.votes])

    def combine(self, probs_MNK: Tensor) -> Tensor:
        """The weighted, temperature-scaled mixture ``probs_NK`` of the members."""
        mixture_NK = (self.weights_M11 * sharpen(probs_MNK, self.temperatures_M11)).sum(0)
        return sharpen(mixture_NK, self.temperature)


def sharpen(probs: Tensor, temperature: Tensor | float) -> Tensor:
    """``probs ** (1 / temperature)``, renormalized over the last axis."""
    powered = probs ** (1 / temperature)
    return powered / powered.sum(-1, keepdim=True)
