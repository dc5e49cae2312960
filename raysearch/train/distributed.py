"""The few collective operations of a run over several workers; all are no-ops for one."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from raysearch.train.batchnorm import share_statistics


@dataclass(frozen=True)
class Workers:
    """This worker's ``rank`` among ``count`` workers; the process group exists where count > 1."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Average gradients over the workers in every backward pass, and share the statistics of
        ``network``'s BatchNorms, in place."""
        if self.count == 1:
            return network
        share_statistics(network)
        ids = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)

    def together(self, network: nn.Module, last: bool) -> AbstractContextManager:
        """Around the passes over one part of a batch: gradients meet after the ``last`` alone."""
        return nullcontext() if self.count == 1 or last else network.no_sync()

    @property
    def rows(self) -> slice:
        """This worker's share of any rows: every ``count``-th, from its rank on."""
        return slice(self.rank, None, self.count)

    def share(self, rows: Tensor) -> Tensor:
        return rows[self.rows]

    def loss_weight(self, images: int, batch_size: int) -> float:
        """What the mean loss over this worker's ``images`` of a batch counts: gradients are
        averaged over workers as if all had equally many."""
        return 1.0 if self.count == 1 else self.count * images / batch_size

    def sum(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def align_buffers(self, *networks: nn.Module) -> None:
        """Give every worker the leader's buffers: each worker's batch statistics are its own
        share's, and what is evaluated and saved must be one network."""
        if self.count > 1:
            for buffer in (b for network in networks for b in network.buffers()):
                dist.broadcast(buffer, src=0)

    def gather_rows(self, shared: Tensor, rows: int) -> Tensor:
        """Undo `share`: all ``rows`` rows, in order, on every worker. Nothing is padded or
        repeated in the result, so that metrics over it are exact."""
        if self.count == 1:
            return shared
        most = -(-rows // self.count)
        # NCCL moves GPU memory alone, and probabilities come on the CPU.
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        padded = torch.zeros(most, *shared.shape[1:], dtype=shared.dtype, device=device)
        padded[: len(shared)] = shared
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:rows].to(shared.device)
