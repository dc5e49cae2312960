"""The way from stored pixels to a network's input, the same in training and in the artifact."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Preprocess(nn.Module):
    """``images_NCHW`` uint8 [0, 255] to normalized ``[N, C, S, S]`` float32.

    Resizes (bilinear, antialiased when shrinking) where the side is not ``image_size``, scales to
    [0, 1], then subtracts and divides by the data set's mean and deviation, or by each image's
    own: ``(x - mean) / max(std, 1/S)`` over all its values.

    Args:
        mean, std: per channel, of the training split, in units of [0, 1].
    """

    def __init__(self, normalize: str, image_size: int, mean: list[float], std: list[float]):
        super().__init__()
        self.normalize = normalize
        self.image_size = image_size
        self.register_buffer("mean_C11", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std_C11", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.standardize(self.resize(images_NCHW))

    def resize(self, images_NCHW: Tensor) -> Tensor:
        """uint8 [0, 255] to float32 [0, 1] of the network's size."""
        x_NCSS = images_NCHW.float() / 255
        side = (self.image_size, self.image_size)
        if tuple(images_NCHW.shape[2:]) != side:
            shrinks = images_NCHW.shape[2] > side[0] or images_NCHW.shape[3] > side[1]
            x_NCSS = F.interpolate(
                x_NCSS, side, mode="bilinear", align_corners=False, antialias=shrinks
            )
        return x_NCSS

    def standardize(self, x_NCSS: Tensor) -> Tensor:
        """float32 [0, 1] to the network's input."""
        if self.normalize == "dataset":
            return (x_NCSS - self.mean_C11) / self.std_C11
        mean = x_NCSS.mean(dim=(1, 2, 3), keepdim=True)
        std = (x_NCSS - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return (x_NCSS - mean) / std.clamp_min(1 / self.image_size)
