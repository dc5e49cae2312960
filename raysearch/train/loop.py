"""`fit`: one training run, in plain PyTorch. It reports through a callable and knows no Ray.

The whole set lives on the device as uint8. A step gathers a batch by index, augments it on the
device image by image, and trains in channels_last under bf16 autocast where the hardware gains
from it. The moving average of the weights is what is evaluated, so that a run stopped early is
still worth something.

Every epoch draws from generators of its own, seeded by (seed, epoch, rank): a run continued from
a checkpoint repeats the uninterrupted one.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysearch import metrics
from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import ConfigError, RunError
from raysearch.models.preprocess import Preprocess
from raysearch.models.registry import build_model
from raysearch.train.augment import augment, mixup
from raysearch.train.device import autocast_dtype
from raysearch.train.distributed import Workers
from raysearch.train.evaluate import predict_probs
from raysearch.train.optim import MovingAverage, learning_rate, make_optimizer


class Diverged(RunError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochEnd:
    """What `fit` reports after each epoch.

    ``metrics``: epoch, train_loss, train_accuracy, validation_log_loss, validation_accuracy,
    validation_macro_f1, lr, images_per_second, seconds. ``probs_VK``: float32 probabilities of
    the averaged weights on the validation split. ``training``: the run itself, for its weights.
    """

    metrics: dict[str, float]
    probs_VK: np.ndarray
    training: "Training"


def fit(
    config: TrainConfig,
    dataset: Dataset,
    report: Callable[[EpochEnd], None],
    resume: dict[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
    workers: Workers | None = None,
    accumulate: int = 1,
) -> None:
    """Train for ``config.epochs`` epochs and call ``report`` after each, on every worker.

    ``accumulate`` splits every batch into so many parts, whose gradients are added up: less memory
    for the same steps, but for BatchNorm, whose statistics are each part's own.
    ``resume`` is a `Training.state_dict`; training goes on after its epoch. An exception that
    ``report`` raises ends the run. Raises `Diverged` when a loss is not finite, `ConfigError`
    where a batch has fewer images than there are workers.
    """
    training = Training(config, dataset, torch.device(device), workers or Workers(), accumulate)
    if resume is not None:
        training.load_state_dict(resume)
    while training.epoch < config.epochs:
        report(training.run_epoch())


class Training:
    """The state of one run and the work of one epoch."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        workers: Workers,
        accumulate: int = 1,
    ):
        if config.batch_size < workers.count:
            raise ConfigError(
                f"batch_size must give each of {workers.count} workers an image, "
                f"but got {config.batch_size}."
            )
        self.config, self.dataset, self.device, self.workers = config, dataset, device, workers
        self.accumulate = accumulate
        self.dtype = autocast_dtype(config.precision, device)
        self.batch_size = min(config.batch_size, len(dataset.train))
        self.steps_per_epoch = len(dataset.train) // self.batch_size
        self.preprocess = Preprocess(
            config.normalize, config.image_size, list(dataset.mean), list(dataset.std)
        ).to(device)
        with seeded(config.seed, 0, 0):
            network = build_model(
                config.model, dataset.shape[0], len(dataset.classes), config.image_size
            )
        self.network = network.to(device, memory_format=torch.channels_last)
        self.synchronized = workers.wrap(self.network, device)
        self.optimizer = make_optimizer(config, self.network)
        self.average = MovingAverage(self.network, config.ema * self.steps_per_epoch)
        self.epoch = 0

    def run_epoch(self) -> EpochEnd:
        epoch = self.epoch + 1
        begin = time.perf_counter()
        with seeded(self.config.seed, epoch, self.workers.rank):
            loss, accuracy, images = self._train(epoch)
        self.workers.align_buffers(self.network, self.average.network)
        train_seconds = time.perf_counter() - begin
        if not math.isfinite(loss):
            raise Diverged(f"The training loss is {loss} in epoch {epoch}; try a lower lr.")
        probs_VK = self.validation_probs(self.average.network, mirror=False)
        labels_V = self.dataset.validation.labels_N.cpu().numpy()
        if not np.isfinite(probs_VK).all():
            raise Diverged(f"The weights are not finite after epoch {epoch}; try a lower lr.")
        self.epoch = epoch
        row = {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_log_loss": metrics.log_loss(probs_VK, labels_V),
            "validation_accuracy": metrics.accuracy(probs_VK, labels_V),
            "validation_macro_f1": metrics.macro_f1(probs_VK, labels_V),
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images / train_seconds,
            "seconds": time.perf_counter() - begin,
        }
        return EpochEnd(row, probs_VK, self)

    def _train(self, epoch: int) -> tuple[float, float, int]:
        """Mean loss, accuracy and number of images of one pass over the training split."""
        config, train = self.config, self.dataset.train
        self.network.train()
        batch_size = self.batch_size
        order = torch.Generator().manual_seed(_mix(config.seed, epoch, 0))
        draws = torch.Generator(self.device).manual_seed(
            _mix(config.seed, epoch, 1 + self.workers.rank)
        )
        shuffled_N = torch.randperm(len(train), generator=order).to(self.device)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        for step in range(self.steps_per_epoch):
            rows = self.workers.share(shuffled_N[step * batch_size : (step + 1) * batch_size])
            self._set_lr((epoch - 1) * self.steps_per_epoch + step)
            totals += self._step(train.images_NCHW[rows], train.labels_N[rows], draws)
        loss, correct, images = self.workers.sum(totals).tolist()
        return loss / images, correct / images, int(images)

    def _step(self, images_NCHW: Tensor, labels_N: Tensor, draws: torch.Generator) -> Tensor:
        """One optimizer step; returns [summed loss, correct, images]."""
        config = self.config
        x = augment(self.preprocess.resize(images_NCHW), config.augment, draws)
        x = self.preprocess.standardize(x)
        targets = [(1.0, labels_N)]
        if config.mixup:
            x, partner_N, share_N = mixup(x, draws, config.mixup)
            targets = [(share_N, labels_N), (1 - share_N, labels_N[partner_N])]
        x = x.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        logits_NK, loss = self._backward(x, targets)
        self.optimizer.step()
        self.average.update(self.network)
        with torch.no_grad():
            correct = (logits_NK.argmax(1) == labels_N).sum()
            return torch.stack([loss * len(labels_N), correct, len(labels_N) + 0 * correct])

    def _backward(
        self, x_NCHW: Tensor, targets: list[tuple[Tensor | float, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Add the mean loss's gradients, one part of the batch after another; returns logits
        (float32) and loss, detached."""
        images = len(x_NCHW)
        weight = self.workers.loss_weight(images, self.batch_size)
        parts = split_evenly(images, self.accumulate)
        logits, loss = [], torch.zeros((), device=self.device)
        for part in parts:
            share = (part.stop - part.start) / images
            with self.workers.together(self.synchronized, last=part is parts[-1]):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    logits_NK = self.synchronized(x_NCHW[part])
                mean = share * self._loss(logits_NK.float(), [_rows(t, part) for t in targets])
                (weight * mean).backward()
            logits.append(logits_NK.detach().float())
            loss += mean.detach()
        return torch.cat(logits), loss

    def _loss(self, logits_NK: Tensor, targets: list[tuple[Tensor | float, Tensor]]) -> Tensor:
        """Mean cross entropy against a weighted mixture of labels: [(share_N, labels_N), ...]."""
        smoothing = self.config.label_smoothing
        losses_N = [
            share * F.cross_entropy(logits_NK, labels, label_smoothing=smoothing, reduction="none")
            for share, labels in targets
        ]
        return torch.stack(losses_N).sum(0).mean()

    def _set_lr(self, step: int) -> None:
        lr = learning_rate(self.config, step, self.config.epochs * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def validation_probs(self, network: nn.Module, mirror: bool) -> np.ndarray:
        """``probs_VK`` float32 of ``network`` on the validation split, computed by all workers."""
        images = self.dataset.validation.images_NCHW
        mine = predict_probs(
            network,
            self.preprocess,
            self.workers.share(images),
            mirror=mirror,
            device=self.device,
            dtype=self.dtype,
        )
        return self.workers.gather_rows(mine, len(images)).numpy()

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on; tensors and numbers only."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.average.updates = state["average_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


def split_evenly(rows: int, parts: int) -> list[slice]:
    """``parts`` slices of ``rows`` rows, as even as can be; fewer where one would have a single
    row, from which BatchNorm cannot learn."""
    parts = max(min(parts, rows // 2), 1)
    bounds = [rows * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(bounds)]


def _rows(target: tuple[Tensor | float, Tensor], part: slice) -> tuple[Tensor | float, Tensor]:
    share, labels_N = target
    return (share[part] if isinstance(share, Tensor) else share), labels_N[part]


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed torch's global generators for a block and restore them after it: initialization and
    dropout can draw from nothing else."""
    with torch.random.fork_rng():
        torch.manual_seed(_mix(*parts))
        yield


def _mix(*parts: int) -> int:
    """One 63-bit seed from several numbers, without collisions between neighbours."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
