"""Seeds for everything that a run draws, from the run's own seed and where it stands."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_CPU = torch.device("cpu")


@contextmanager
def seeded(*parts: int, device: torch.device = _CPU) -> Iterator[None]:
    """Seed torch's global generators for a block and restore those of the CPU and of ``device``
    after it: initialization and dropout can draw from nothing else."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(mixed_seed(*parts))
        yield


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, without collisions between neighbours."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_of_32_bits(*parts: int) -> int:
    """As `mixed_seed`, for what takes no more, or writes it down: every JSON reader has such
    numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])
