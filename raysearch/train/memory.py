"""Running out of memory: how to tell, and which batch size would have fit."""

import gc

import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.models.freeze import train_mode
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
    with seeded(config.seed):
        training._step(*batch, draws)  # makes the optimizer's state
        fixed = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        training._step(*batch, draws)
    peak = torch.cuda.max_memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    return fixed, peak, free + torch.cuda.memory_reserved(device)
