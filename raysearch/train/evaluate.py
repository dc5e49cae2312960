"""Class probabilities of one network on many images."""

import torch
from torch import Tensor, nn

from raysearch.data.feeding import HostImages, fed, in_slices


@torch.inference_mode()
def predict_probs(
    network: nn.Module,
    preprocess: nn.Module,
    images_NCHW: Tensor | HostImages,
    *,
    mirror: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``probs_NK`` float32 on the CPU, rows summing to 1, of uint8 ``images_NCHW``.

    The network is put into evaluation mode and left there.

    Args:
        mirror: average the probabilities with those of the mirrored images.
        dtype: autocast type; None computes in fp32.
    """
    device = torch.device(device)
    network.eval()
    batches = []
    with fed(images_NCHW, in_slices(len(images_NCHW), batch_size)) as parts:
        for images in parts:
            x = preprocess(images.to(device)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                logits = network(x)
                mirrored = network(x.flip(3)) if mirror else None
            probs = logits.float().softmax(1)
            if mirrored is not None:
                probs = (probs + mirrored.float().softmax(1)) / 2
            batches.append(probs.cpu())
    return torch.cat(batches)
