"""Learning from another classifier's probabilities as well as from labels.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, section 2: the
student's logits and the teacher's are compared at a temperature, and that part of the loss is
multiplied by its square, so that its gradients keep their size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Teacher:
    """What there is to learn from a teacher.

    ``probs_NK``: float32 of each training image, in order, as it is stored: the teacher is not
    asked again about augmented views. ``share`` of the loss is against them, the rest against
    labels.
    """

    probs_NK: Tensor
    temperature: float
    share: float

    def of(self, rows_N: Tensor) -> Tensor:
        """``probs_NK`` of these training images at the temperature, on their device."""
        probs_NK = self.probs_NK[rows_N.to(self.probs_NK.device)]
        return torch.softmax(probs_NK.clamp_min(1e-7).log() / self.temperature, 1)

    def loss(self, logits_NK: Tensor, probs_NK: Tensor, label_loss: Tensor) -> Tensor:
        """The mean loss: ``share`` of the divergence from ``probs_NK`` (of `of`, mixed as the
        images are), the rest ``label_loss``."""
        student_NK = F.log_softmax(logits_NK / self.temperature, 1)
        divergence = F.kl_div(student_NK, probs_NK, reduction="batchmean")
        return self.share * self.temperature**2 * divergence + (1 - self.share) * label_loss
