"""Memory of a training step: what it will take, what it took, and what to do where it ran out."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.models.freeze import freeze, train_mode
from raysearch.models.registry import build_model
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.seeding import seeded

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_HEADROOM = 0.9
"""Share of the memory to plan with: the allocator's rounding and fragments take the rest."""
CONTEXT_BYTES = 640 * 2**20
"""What a process takes on a GPU beside torch's allocator: CUDA's context, kernels, libraries."""
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is one of the several that stand for too little memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def remedy(config: TrainConfig, dataset: Dataset, device: torch.device, workers: Workers) -> str:
    """What to do about a step of ``config`` that did not fit, one sentence.

    On a GPU with one worker a small step is run to measure what an image takes; the failed run
    must have been let go of. Elsewhere memory cannot be measured, and half is proposed.
    """
    if device.type != "cuda" or workers.count > 1:
        return f"Try batch_size {max(config.batch_size // 2, 2)}."
    images = max(min(config.batch_size // 8, len(dataset.train)), 2)
    try:
        fixed, peak, available = measure_step(config, dataset, device, images)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return f"Not even {images} images fit: take a smaller network or image_size."
    fits = fitting_batch_size(images, fixed, peak, available, config.batch_size)
    if fits < 2:
        return "Take a smaller network or image_size: no batch would fit."
    per_image = (peak - fixed) / images / 2**20
    return f"batch_size {fits} would likely fit: an image takes {per_image:.1f} MiB."


def fitting_batch_size(images: int, fixed: int, peak: int, available: int, batch_size: int) -> int:
    """The largest batch whose step likely fits, below ``batch_size``, which did not; a multiple
    of 8 from 8 on.

    Args:
        images: of a step whose memory was measured, and that grew it from ``fixed`` bytes
            (weights, optimizer, data) to ``peak``.
        available: bytes that the process has or could get.
    """
    per_image = max(peak - fixed, 1) / images
    fits = min(int((_HEADROOM * available - fixed) / per_image), batch_size - 1)
    return max(fits // 8 * 8 if fits >= 8 else fits, 0)


def measure_step(
    config: TrainConfig, dataset: Dataset, device: torch.device, images: int
) -> tuple[int, int, int]:
    """(fixed, peak, available) bytes of a step with ``images`` images on a GPU."""
    gc.collect()
    torch.cuda.empty_cache()
    training = Training(config.model_copy(update={"compile": False}), dataset, device, Workers())
    train_mode(training.network)
    draws = torch.Generator(device).manual_seed(0)
    rows = torch.arange(min(images, len(dataset.train)))
    batch = dataset.train.images_NCHW[rows].to(device), dataset.train.labels_N[rows].to(device)
    with seeded(config.seed, device=device):
        training._step(*batch, draws)  # makes the optimizer's state
        fixed = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        training._step(*batch, draws)
    peak = torch.cuda.max_memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    return fixed, peak, free + torch.cuda.memory_reserved(device)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a GPU that a process has taken through torch: ``fixed`` before the trial (images
    and labels), ``peak`` at most; ``device`` is what the GPU has in all."""

    fixed: int
    peak: int
    device: int


class MemoryMeter:
    """Measures what a trial that begins now takes of ``device``, and keeps it to ``share`` of it,
    so that one that needs more than was foreseen runs out of memory and not its neighbours."""

    def __init__(self, device: torch.device, share: float):
        self.device, self.total = device, 0
        if device.type == "cuda":
            self.total = torch.cuda.get_device_properties(device).total_memory
            own = share - CONTEXT_BYTES / self.total if share < 1 else 1.0
            # Unlike the others, this takes no device without an index.
            torch.cuda.set_per_process_memory_fraction(max(own, 0.01), device.index)
            torch.cuda.reset_peak_memory_stats(device)
            self.fixed = torch.cuda.memory_allocated(device)

    def read(self) -> MemoryUse | None:
        """None on a CPU, whose memory is not shared out, and before anything was trained."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self.device)
        return MemoryUse(self.fixed, peak, self.total) if peak > self.fixed else None


def foreseen_bytes(config: TrainConfig, channels: int, classes: int) -> int:
    """Bytes that a step of ``config`` keeps, as if all were float32: weights with their gradients,
    average and moments, and what the backward pass needs of a batch. Computed from shapes, without
    a device; what a device really takes is proportional at best."""

    def count() -> int:
        network = build_model(config.model, channels, classes, config.image_size)
        freeze(network, config.freeze_depth, config.model.name)
        train_mode(network)
        parameters = list(network.parameters())
        images_NCHW = torch.zeros(2, channels, config.image_size, config.image_size)
        moments = 1 if config.optimizer == "sgd" else 2
        learning = sum(p.numel() for p in parameters if p.requires_grad)
        weights = 2 * sum(p.numel() for p in parameters) + (1 + moments) * learning
        saved = saved_numbers(lambda: network(images_NCHW), parameters)
        return 4 * (weights + saved * config.batch_size // len(images_NCHW))

    return from_shapes(count)


def saved_numbers(forward: Callable[[], Tensor], parameters: list[Tensor]) -> int:
    """How many numbers autograd keeps of a forward pass, beside the parameters."""
    counted = {p.untyped_storage()._cdata for p in parameters}
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            kept.append(tensor)  # alive, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(tensor.numel() for tensor in kept)


def from_shapes(compute: Callable[[], Result]) -> Result:
    """``compute`` with tensors that have shapes alone; where it needs values, with real ones."""
    try:
        with torch.device("meta"):
            return compute()
    except Exception:  # of whatever class: meta tensors fail in many ways
        with torch.random.fork_rng(devices=[]):
            return compute()
