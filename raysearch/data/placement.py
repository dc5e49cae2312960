"""Where a set's images wait: on the device where they fit, else on the host."""

import os
from pathlib import Path
from typing import Literal

import torch

SHARE = 0.5
"""Part of the free memory that images may take; the rest is for networks and batches."""

Place = Literal["device", "host"]


def place_images(
    images_on: Literal["auto", "device", "host"],
    size: int,
    device: torch.device,
    memory_share: float = 1.0,
) -> Place:
    """What ``images_on`` comes to for ``size`` bytes of images.

    ``memory_share``: of the device's memory, what this process may count on; other trials on
    the same device have sets of their own.
    """
    if images_on != "auto":
        return images_on
    free, total = device_memory(device)
    return "device" if size < SHARE * min(free, memory_share * total) else "host"


def device_memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    return host_memory()


def host_memory(
    meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")
) -> tuple[int, int]:
    """(available, total) bytes of this machine, or of the container that we run in."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = total
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for line in _lines(limit):
        if line.isdigit():
            total = min(total, int(line))
    return min(free, total), total


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
