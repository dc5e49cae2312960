"""What a search will do, before it does it: how many trials at once, on what, for how long."""

import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import ConfigError
from raysearch.models.freeze import train_mode
from raysearch.models.registry import build_model
from raysearch.search.capacity import Capacity, Machine
from raysearch.search.packing import MOST, share_of
from raysearch.search.study import example_configs
from raysearch.space import SearchSpace
from raysearch.train.device import default_device
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.memory import from_shapes

RUNNING_COPIES = 10
"""Weights that a running trial has on disk at most, in times those of its network: averaged and
raw ones, and a checkpoint of both with two moments of the optimizer, being replaced."""


@dataclass(frozen=True)
class Plan:
    """``resources`` are those of one worker: ``{"cpu", "gpu"}``; with ``packed_gpus``, GPUs that
    trials share by the memory each takes, those of the smallest. ``epochs`` is of a whole trial,
    ``trial_timeout`` in seconds, ``max_disk`` in bytes."""

    trials: int
    epochs: int
    concurrent: int
    executor: str
    workers: int
    machines: int
    threads: int
    resources: dict[str, float]
    backend: str
    keep: int
    max_disk: int | None
    trial_timeout: float | None
    packed_gpus: int = 0

    @property
    def slots(self) -> int:
        """How many trials of those that take most can run at once."""
        return self.packed_gpus or self.concurrent

    @property
    def trial_epochs(self) -> int:
        """Epochs in all if no trial were stopped early."""
        return self.trials * self.epochs

    @property
    def memory_share(self) -> float:
        """Part of a device's memory that one worker may count on; others share the device."""
        gpu = self.resources["gpu"]
        return min(gpu, 1.0) if gpu else min(1.0, self.machines / (self.concurrent * self.workers))


def make_plan(
    space: SearchSpace,
    capacity: Capacity,
    *,
    trials: int | None = None,
    epochs: int | None = None,
    gpus_per_trial: float | str | None = None,
    workers_per_trial: int = 1,
    concurrent: int | None = None,
    executor: str | None = None,
    keep: int | None = None,
    max_disk: int | None = None,
    trial_timeout: float | None = None,
) -> Plan:
    """Divide the machines of ``capacity`` among trials.

    Without a GPU a trial gets one core: several trials side by side use the cores better than
    one trial on all of them. With GPUs a trial gets ``gpus_per_trial`` (1 unless told); "auto"
    packs as many on each as fit by their memory (`raysearch.search.packing`).
    Raises `ConfigError` where no trial fits.
    """
    executor = executor or ("train" if workers_per_trial > 1 else "inline")
    if executor == "inline" and workers_per_trial > 1:
        raise ConfigError("--executor inline runs one worker per trial; use --executor train.")
    gpu, packed_gpus = gpu_share(capacity, gpus_per_trial, workers_per_trial, executor)
    slots = [worker_slots(machine, gpu) for machine in capacity.machines]
    most = sum(slots) // workers_per_trial
    if most < 1:
        raise ConfigError(
            f"A trial of {workers_per_trial} workers does not fit on {capacity.cpus:g} CPUs and "
            f"{capacity.gpus:g} GPUs; lower --workers-per-trial or --gpus-per-trial."
        )
    trials = trials or space.search.trials
    concurrent = min(concurrent or most, most, trials)
    busy = concurrent * workers_per_trial / sum(slots)
    cores = min(
        machine.cpus / max(1.0, math.ceil(taken * busy))
        for machine, taken in zip(capacity.machines, slots, strict=True)
        if taken
    )
    threads = max(1, int(cores))
    return Plan(
        trials=trials,
        epochs=epochs or space.search.epochs,
        concurrent=concurrent,
        executor=executor,
        workers=workers_per_trial,
        machines=sum(taken > 0 for taken in slots),
        threads=threads,
        # Told truly, so that Ray puts no more trials on a machine than it has cores for.
        resources={"cpu": min(float(threads), cores), "gpu": gpu},
        backend="nccl" if gpu >= 1 and dist.is_nccl_available() else "gloo",
        keep=keep or space.search.keep,
        max_disk=max_disk or space.search.max_disk,
        trial_timeout=trial_timeout or space.search.trial_timeout,
        packed_gpus=packed_gpus,
    )


def gpu_share(
    capacity: Capacity, gpus_per_trial: float | str | None, workers: int, executor: str
) -> tuple[float, int]:
    """(of a GPU for each of a trial's ``workers``, or for the smallest trial where they are packed;
    GPUs that they are packed on). Without a GPU there is nothing to pack."""
    if gpus_per_trial == "auto":
        if executor != "inline":
            raise ConfigError(
                "--gpus-per-trial auto packs trials of one worker, run inline; give a number to "
                "trials that are run by --executor train or --workers-per-trial."
            )
        with_gpus = [machine for machine in capacity.machines if machine.gpus]
        most = min((int(m.cpus // m.gpus) for m in with_gpus), default=0)
        packed = int(sum(machine.gpus for machine in with_gpus))
        return (share_of(min(max(most, 1), MOST)) if packed else 0.0), packed
    if gpus_per_trial is not None and not capacity.gpus:
        raise ConfigError(
            f"--gpus-per-trial {gpus_per_trial:g} needs a GPU, but none was found; leave it out."
        )
    return (float(gpus_per_trial or 1.0) / workers if capacity.gpus else 0.0), 0


def worker_slots(machine: Machine, gpu: float) -> int:
    """How many workers that take ``gpu`` of a GPU each, and a core where that is 0, fit on
    ``machine``. A fraction lies on one GPU, as Ray has it."""
    if not gpu:
        return int(machine.cpus)
    if gpu < 1:
        return int(machine.gpus) * int(1 / gpu + 1e-6)
    return int(machine.gpus // gpu)


@dataclass(frozen=True)
class Estimate:
    """Of the whole search if no trial were stopped early. ``seconds`` of wall time, training
    alone; ``disk_bytes`` of what the trials leave."""

    images: int
    seconds: float
    disk_bytes: int

    def to_json(self) -> dict:
        return asdict(self)


def estimate(space: SearchSpace, plan: Plan, dataset: Dataset, seed: int) -> Estimate:
    """Time a few steps of configurations drawn from ``space`` on this machine's device."""
    configs = example_configs(space, epochs=plan.epochs, seed=seed, drawn=3)
    torch.set_num_threads(plan.threads)
    measured = [measure(config, dataset) for config in configs]
    images = float(np.mean([images for images, _, _ in measured])) * plan.trial_epochs
    seconds = float(np.mean([images * pace for images, pace, _ in measured])) * plan.trial_epochs
    weights = float(np.mean([size for _, _, size in measured]))
    classes, validation = len(dataset.classes), len(dataset.validation)
    disk = plan.trials * 4 * 2 * classes * validation + weights * weights_on_disk(plan)
    return Estimate(round(images), seconds / plan.concurrent, int(disk))


def weights_on_disk(plan: Plan) -> int:
    """How many times the weights of a trial are on disk at most: twice for each trial that is
    kept, `RUNNING_COPIES` times for each that runs, and twice for each member of the export."""
    return 4 * min(plan.trials, plan.keep) + RUNNING_COPIES * plan.concurrent


def check_disk(space: SearchSpace, plan: Plan, dataset: Dataset) -> None:
    """Raises `ConfigError` where the trials that run at once cannot but exceed ``max_disk``."""
    if plan.max_disk is None:
        return
    configs = example_configs(space, epochs=plan.epochs, seed=0, drawn=3)
    weights = max(weight_bytes(config, dataset) for config in configs)
    least = weights * (RUNNING_COPIES * plan.concurrent + 4)
    if least > plan.max_disk:
        raise ConfigError(
            f"--max-disk must leave room for {plan.concurrent} running trials and an ensemble of "
            f"one, about {least / 1e6:,.1f} MB with networks of {weights / 1e6:,.1f} MB, but it "
            f"is {plan.max_disk / 1e6:,.1f} MB. Raise it, or lower --concurrent."
        )


def weight_bytes(config: TrainConfig, dataset: Dataset) -> int:
    """Bytes of the weights of ``config``'s network."""
    shape = dataset.shape[0], len(dataset.classes), config.image_size
    network = from_shapes(lambda: build_model(config.model, *shape))
    return sum(p.numel() * p.element_size() for p in network.parameters())


def measure(config: TrainConfig, dataset: Dataset, steps: int = 3) -> tuple[int, float, int]:
    """(training images in an epoch, seconds for each, bytes of the weights) of ``config`` on this
    device."""
    training = Training(config, dataset, default_device(), Workers())
    train_mode(training.network)
    draws = torch.Generator(training.device).manual_seed(0)
    rows = torch.arange(min(config.batch_size, len(dataset.train)))
    images, labels = dataset.train.images_NCHW[rows], dataset.train.labels_N[rows]
    images, labels = images.to(training.device), labels.to(training.device)
    times = []
    for _ in range(steps + 1):  # the first one warms up
        begin = time.perf_counter()
        training._step(images, labels, draws).cpu()
        times.append(time.perf_counter() - begin)
    size = sum(p.numel() * p.element_size() for p in training.network.parameters())
    return len(training.epoch_rows), float(np.median(times[1:])) / len(labels), size


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize
