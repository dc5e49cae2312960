"""`fit`: one training run, in plain PyTorch. It reports through a callable and knows no Ray.

The whole set lives on the device as uint8, or is fed to it (`raysearch.data.feeding`). A step
gathers a batch by index, augments it on the device image by image, and trains in channels_last
under bf16 autocast where the hardware gains from it. The moving average of the weights is what is
evaluated, with statistics of its own, so that a run stopped early is still worth something.

Every epoch draws from generators of its own, seeded by (seed, epoch, rank): a run continued from
a checkpoint repeats the uninterrupted one.
"""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raysearch import metrics
from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import ConfigError
from raysearch.models.freeze import freeze, train_mode
from raysearch.models.preprocess import Preprocess
from raysearch.models.registry import build_model
from raysearch.models.views import PLAIN
from raysearch.models.weights import Weights
from raysearch.train.augment import augment
from raysearch.train.balance import EpochRows
from raysearch.train.compiling import compiled
from raysearch.train.device import autocast_dtype
from raysearch.train.distributed import Workers
from raysearch.train.epoch import Diverged, EpochEnd
from raysearch.train.evaluate import predict_probs
from raysearch.train.mixing import mix
from raysearch.train.optim import MovingAverage, load_optimizer_state, make_optimizer
from raysearch.train.penalty import Penalty
from raysearch.train.schedule import learning_rate, stands_still
from raysearch.train.seeding import mixed_seed, seeded
from raysearch.train.start import fit_start, read_start
from raysearch.train.statistics import renew_statistics
from raysearch.train.targets import Targets, cross_entropy, part_of, split_evenly
from raysearch.train.teaching import Teacher

_CHECK_STEPS = 50
"""How often the loss is looked at within an epoch: looking waits for the device."""


def fit(
    config: TrainConfig,
    dataset: Dataset,
    report: Callable[[EpochEnd], None],
    resume: dict[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
    workers: Workers | None = None,
    accumulate: int = 1,
    start: Weights | None = None,
    teacher: Teacher | None = None,
    until: int | None = None,
) -> None:
    """Train for ``config.epochs`` epochs, or fewer where ``early_stopping`` says so, and call
    ``report`` after each, on every worker.

    ``accumulate`` splits every batch into so many parts, whose gradients are added up: less memory
    for the same steps, but for BatchNorm, whose statistics are each part's own.
    ``resume`` is a `Training.state_dict`; training goes on after its epoch. Without it, training
    begins with the weights that ``config`` names; ``start`` is what `read_start` gave for them,
    where they were read already. With a ``teacher``, its probabilities are learned from too.
    ``until`` is an epoch after which training stops as it stands. An exception that ``report``
    raises ends the run. Raises `Diverged` when a loss is not finite, `ConfigError` where a batch
    has fewer images than there are workers, the network cannot be trained so or the weights to
    begin with do not fit, `DataError` where a class without images is to be balanced.
    """
    workers = workers or Workers()
    training = Training(config, dataset, torch.device(device), workers, accumulate, teacher)
    if resume is not None:
        training.load_state_dict(resume)
    elif start := start or read_start(config):
        training.begin_with(start)
    while not training.ended and training.epoch != until:
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
        teacher: Teacher | None = None,
    ):
        if config.batch_size < workers.count:
            raise ConfigError(
                f"batch_size must give each of {workers.count} workers an image, "
                f"but got {config.batch_size}."
            )
        self.config, self.dataset, self.device, self.workers = config, dataset, device, workers
        self.accumulate, self.teacher = accumulate, teacher
        self.own_draws: torch.Generator | None = None  # of one of several workers, in an epoch
        self.dtype = autocast_dtype(config.precision, device)
        labels_N, strength = dataset.train.labels_N, config.balance_strength
        self.epoch_rows = EpochRows(config.balance, labels_N, dataset.classes, strength)
        self.batch_size = min(config.batch_size, len(self.epoch_rows))
        self.steps_per_epoch = len(self.epoch_rows) // self.batch_size
        self.preprocess = Preprocess(
            config.normalize, config.image_size, list(dataset.mean), list(dataset.std)
        ).to(device)
        with seeded(config.seed, 0, 0, device=device):
            network = build_model(
                config.model, dataset.shape[0], len(dataset.classes), config.image_size
            )
        freeze(network, config.freeze_depth, config.model.name)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.synchronized = workers.wrap(self.network, device)
        if config.compile:
            self.synchronized = compiled(self.synchronized, device)
        self.optimizer = make_optimizer(config, self.network)
        self.average = MovingAverage(self.network, config.ema * self.steps_per_epoch)
        self.penalty = Penalty(config.l2, self.network)
        weights_K = self.epoch_rows.loss_weights()
        self.loss_weights_K = None if weights_K is None else weights_K.to(device)
        self.epoch = 0
        self.losses: list[float] = []  # on validation, of each epoch

    @property
    def ended(self) -> bool:
        """All epochs are done, or validation log loss has stood still for too long."""
        patience = self.config.early_stopping
        return self.epoch >= self.config.epochs or stands_still(self.losses, patience)

    def begin_with(self, weights: Weights) -> None:
        """Take over what fits of ``weights``, and say on stderr what that was."""
        channels, classes = self.dataset.shape[0], self.dataset.classes
        fitted = fit_start(weights, self.config, channels, classes, self.network)
        for network in (self.network, self.average.network):
            network.load_state_dict(fitted.tensors, strict=False)
        if self.workers.leads:
            print(f"{weights.source}: took {fitted}", file=sys.stderr)

    def run_epoch(self) -> EpochEnd:
        epoch = self.epoch + 1
        begin = time.perf_counter()
        with seeded(self.config.seed, epoch, self.workers.rank, device=self.device):
            loss, accuracy, images = self._train(epoch)
        train_seconds = time.perf_counter() - begin
        renew_statistics(self, self.average.network)
        if epoch == self.config.epochs:  # the network itself will be a candidate
            renew_statistics(self, self.network)
        self.workers.align_buffers(self.network, self.average.network)
        if not math.isfinite(loss):
            raise Diverged(f"The training loss is {loss} in epoch {epoch}; try a lower lr.")
        probs_VK = self.validation_probs(self.average.network)
        labels_V = self.dataset.validation.labels_N.cpu().numpy()
        if not np.isfinite(probs_VK).all():
            raise Diverged(f"The weights are not finite after epoch {epoch}; try a lower lr.")
        self.epoch = epoch
        self.losses.append(metrics.log_loss(probs_VK, labels_V))
        row = {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_log_loss": self.losses[-1],
            "validation_accuracy": metrics.accuracy(probs_VK, labels_V),
            "validation_macro_f1": metrics.macro_f1(probs_VK, labels_V),
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images / train_seconds,
            "seconds": time.perf_counter() - begin,
        }
        return EpochEnd(row, probs_VK, self)

    def _train(self, epoch: int) -> tuple[float, float, int]:
        """Mean loss, accuracy and number of images of one pass over the epoch's rows; a loss that
        is not finite ends it soon."""
        config, train = self.config, self.dataset.train
        train_mode(self.network)
        order = torch.Generator().manual_seed(mixed_seed(config.seed, epoch, 0))
        draws = torch.Generator(self.device).manual_seed(mixed_seed(config.seed, epoch, 1))
        if self.workers.count > 1:
            own = mixed_seed(config.seed, epoch, 2 + self.workers.rank)
            self.own_draws = torch.Generator(self.device).manual_seed(own)
        drawn_N = self.epoch_rows.draw(order)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        starts = range(0, self.steps_per_epoch * self.batch_size, self.batch_size)
        row_batches = [self.workers.share(drawn_N[s : s + self.batch_size]) for s in starts]
        with train.batches(row_batches) as batches:
            for step, (images_NCHW, labels_N) in enumerate(batches):
                self._set_lr((epoch - 1) * self.steps_per_epoch + step)
                taught_NK = self.teacher and self.teacher.of(row_batches[step])
                totals += self._step(images_NCHW, labels_N, draws, taught_NK)
                if step % _CHECK_STEPS == _CHECK_STEPS - 1:
                    # The sum over workers, so that they break off together.
                    if not self.workers.sum(totals.clone())[0].isfinite():
                        break
        loss, correct, images = self.workers.sum(totals).tolist()
        return loss / images, correct / images, int(images)

    def _step(
        self,
        images_NCHW: Tensor,
        labels_N: Tensor,
        draws: torch.Generator,
        taught_NK: Tensor | None = None,
    ) -> Tensor:
        """One optimizer step; returns [summed loss, correct, images]."""
        config, x = self.config, self.preprocess.resize(images_NCHW)
        if self.workers.count == 1:
            x = augment(x, config.augment, draws)
        else:
            x = augment(x, config.augment, draws, self.workers.rows, self.batch_size)
        x = self.preprocess.standardize(x)
        targets: Targets = [(1.0, labels_N)]
        if config.mixup or config.cutmix:
            # Images are mixed with others of the same worker.
            own = self.own_draws or draws
            x, partner_N, share_N = mix(x, own, mixup=config.mixup, cutmix=config.cutmix)
            targets = [(share_N, labels_N), (1 - share_N, labels_N[partner_N])]
            if taught_NK is not None:
                taught_NK = torch.lerp(taught_NK[partner_N], taught_NK, share_N[:, None])
        x = x.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        logits_NK, loss = self._backward(x, targets, taught_NK)
        self.penalty.add_gradients()
        self.optimizer.step()
        self.average.update(self.network)
        with torch.no_grad():
            correct = (logits_NK.argmax(1) == labels_N).sum()
            return torch.stack([loss * len(labels_N), correct, len(labels_N) + 0 * correct])

    def _backward(
        self, x_NCHW: Tensor, targets: Targets, taught_NK: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Add the mean loss's gradients, one part of the batch after another; returns logits
        (float32) and loss, detached."""
        images = len(x_NCHW)
        weight = self.workers.loss_weight(images, self.batch_size)
        # As many parts on every worker, and none of a single image, which BatchNorm refuses.
        fewest = self.batch_size // self.workers.count if self.workers.count > 1 else images
        parts = split_evenly(images, min(self.accumulate, fewest // 2))
        logits, loss = [], torch.zeros((), device=self.device)
        for part in parts:
            share = (part.stop - part.start) / images
            with self.workers.together(self.synchronized, last=part is parts[-1]):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                    logits_NK = self.synchronized(x_NCHW[part])
                taught = None if taught_NK is None else taught_NK[part]
                mean = share * self._loss(logits_NK.float(), part_of(targets, part), taught)
                (weight * mean).backward()
            logits.append(logits_NK.detach().float())
            loss += mean.detach()
        return torch.cat(logits), loss

    def _loss(self, logits_NK: Tensor, targets: Targets, taught_NK: Tensor | None = None) -> Tensor:
        smoothing = self.config.label_smoothing
        loss = cross_entropy(logits_NK, targets, smoothing, self.loss_weights_K)
        if self.teacher is None or taught_NK is None:
            return loss
        return self.teacher.loss(logits_NK, taught_NK, loss)

    def _set_lr(self, step: int) -> None:
        steps = self.config.epochs * self.steps_per_epoch
        lr = learning_rate(self.config, step, steps, self.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def validation_probs(self, network: nn.Module, views: int = PLAIN) -> np.ndarray:
        """``probs_VK`` float32 of ``network`` on the validation split, computed by all workers."""
        images = self.dataset.validation.images_NCHW
        mine = predict_probs(
            network,
            self.preprocess,
            self.workers.share(images),
            views=views,
            device=self.device,
            dtype=self.dtype,
        )
        return self.workers.gather_rows(mine, len(images)).numpy()

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on; tensors and numbers only."""
        return {
            "epoch": self.epoch,
            "losses": self.losses,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.average.updates = state["average_updates"]
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.epoch = state["epoch"]
        self.losses = list(state["losses"])
