"""Which device to train on, and in which precision."""

import ctypes
import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

MALLOC_OPTIONS = ((-3, 2**30), (-1, 2**30), (-2, 2**26))
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD, in bytes."""


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Of its hardware: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def keep_memory(device: torch.device) -> None:
    """Let this process keep memory that it frees, for its next step.

    The C library's allocator gives large blocks back to the system at once, and every step of
    training then pays for their pages again: 6 % of a small CNN's CPU time.
    """
    if device.type == "cpu" and (mallopt := _c_function("mallopt")):
        for parameter, value in MALLOC_OPTIONS:
            mallopt(parameter, value)


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif trim := _c_function("malloc_trim"):
        trim(0)


def _c_function(name: str) -> Callable[[int], int] | None:
    """Of the C library; None where it is not one that has it."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of ``precision`` ("auto", "fp32", "bf16"), or None for plain fp32.

    "auto" is bf16 where the device multiplies bf16 matrices in hardware: CUDA from Ampere on,
    CPUs with AMX or AVX512-BF16. Elsewhere bf16 is emulated and slower than fp32.
    """
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    return torch.bfloat16 if device.type == "cpu" and _cpu_multiplies_bf16() else None


@cache
def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
