"""The few collective operations of a run over several workers; all are no-ops for one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Workers:
    """This worker's ``rank`` among ``count`` workers; the process group exists where count > 1."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Average gradients over the workers in every backward pass."""
        if self.count == 1:
            return network
        ids = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)

    def share(self, rows: Tensor) -> Tensor:
        """This worker's share of ``rows``: every ``count``-th, from its rank on."""
        return rows[self.rank :: self.count]

    def sum(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather_rows(self, shared: Tensor, rows: int) -> Tensor:
        """Undo `share`: all ``rows`` rows, in order, on every worker. Nothing is padded or
        repeated in the result, so that metrics over it are exact."""
        if self.count == 1:
            return shared
        most = -(-rows // self.count)
        padded = shared.new_zeros(most, *shared.shape[1:])
        padded[: len(shared)] = shared
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:rows]
