"""BatchNorm with the statistics of the whole batch, over however many workers it is spread.

Torch's own SyncBatchNorm is for GPUs alone; this one needs no more than an all-reduce. Sergey
Ioffe, Christian Szegedy, "Batch Normalization", 2015, algorithm 1; the gradient follows from
the two sums that the workers share.
"""

import torch
from torch import Tensor, nn
from torch import distributed as dist


class _Sum(torch.autograd.Function):
    """A sum over workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """In training like a BatchNorm over all workers' images; in evaluation like any other."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x_NC: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_NC)
        axes = [axis for axis in range(x_NC.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x_NC.ndim - 2)
        values = x_NC.float()
        mine = values.new_tensor([values.numel() / values.shape[1]])
        *_, count = sums = _Sum.apply(torch.cat([values.sum(axes), mine]))
        mean_C = sums[:-1] / count.detach()
        centered = values - mean_C.view(shape)
        variance_C = _Sum.apply(centered.square().sum(axes)) / count.detach()
        self._remember(mean_C.detach(), variance_C.detach(), count.detach())
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        return (centered * scale_C.view(shape) + self.bias.view(shape)).to(x_NC.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor, count: Tensor) -> None:
        self.num_batches_tracked += 1
        unbiased_C = variance_C * count / (count - 1).clamp(min=1)
        momentum = self.momentum or 1 / int(self.num_batches_tracked)  # None: a plain mean
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(unbiased_C, momentum)


def share_statistics(network: nn.Module) -> None:
    """Make torch's plain BatchNorms in ``network`` share theirs, in place, under the same names.
    Others, such as timm's that end in an activation, keep each worker's own."""
    for module in network.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and module.momentum is not None:
            if module.affine and module.track_running_stats:
                module.__class__ = SharedBatchNorm
