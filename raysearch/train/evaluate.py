"""Class probabilities of one network on many images."""

import torch
from torch import Tensor, nn

from raysearch.data.feeding import HostImages, fed, in_slices
from raysearch.models.views import PLAIN, views_of


@torch.inference_mode()
def predict_probs(
    network: nn.Module,
    preprocess: nn.Module,
    images_NCHW: Tensor | HostImages,
    *,
    views: int = PLAIN,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``probs_NK`` float32 on the CPU, rows summing to 1, of uint8 ``images_NCHW``.

    The network is put into evaluation mode and left there.

    Args:
        views: one of `raysearch.models.views.VIEWS`, over which the probabilities are averaged.
        dtype: autocast type; None computes in fp32.
    """
    device = torch.device(device)
    network.eval()
    batches = []
    with fed(images_NCHW, in_slices(len(images_NCHW), batch_size)) as parts:
        for images in parts:
            x = preprocess(images.to(device)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                seen = [network(view).float().softmax(1) for view in views_of(x, views)]
            batches.append((sum(seen) / views).cpu())
    return torch.cat(batches)
