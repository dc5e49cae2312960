"""Random changes to a batch of training images, drawn per image, on the images' own device.

`draw` turns strengths into parameters, `apply` turns parameters into images, in at most two
passes: one resampling for all geometry (mirror, zoom, rotate, shift) and one pointwise formula for
contrast, noise and erasing. Shapes: N images, C channels, S pixels a side.

Erasing is cutout (DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with
Cutout", 2017) with the square wholly inside the image.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from raysearch.config import AugmentConfig


@dataclass(frozen=True)
class AugmentParameters:
    """What happens to each image of a batch, in the order of the fields; None is left out."""

    mirror_N: Tensor | None = None
    """bool: flipped left to right."""
    scale_N: Tensor | None = None
    """Magnification about the image's centre, 1 is none."""
    angle_N: Tensor | None = None
    """Degrees clockwise about the image's centre."""
    shift_N2: Tensor | None = None
    """Pixels to the right and down. What comes in at the edges is the image reflected."""
    contrast_N: Tensor | None = None
    """Factor on the difference from the image's mean."""
    noise_NCSS: Tensor | None = None
    """Added to the image, in units of [0, 1]."""
    erase_NSS: Tensor | None = None
    """bool: replaced by the image's mean, which standardizing takes to about 0."""


def augment(x_NCSS: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Images float32 in [0, 1], after `Preprocess.resize` and before `Preprocess.standardize`,
    each changed by its own draw.

    Contrast and noise may leave [0, 1] and are not clamped: clamping would pile up values at the
    ends, and the network sees standardized values anyway. ``generator`` is on the images' device.
    The input is not written to; it is returned as it is where every strength is 0.
    """
    return apply(x_NCSS, draw(config, x_NCSS.shape, generator))


def draw(
    config: AugmentConfig, shape_NCSS: torch.Size, generator: torch.Generator
) -> AugmentParameters:
    """Independent parameters for each of N images, uniform within the strengths of ``config``.

    Without rotation and zoom, shifts are whole pixels: resampling between pixels blurs, and would
    teach the network images that are blurrier than those that it is tested on.
    """
    images, _, _, side = shape_NCSS
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape, device=device).uniform_(low, high, generator=generator)

    drawn = {}
    if config.mirror:
        drawn["mirror_N"] = uniform(0, 1, images) < config.mirror
    if config.zoom:
        drawn["scale_N"] = uniform(1 - config.zoom, 1 + config.zoom, images)
    if config.rotate:
        drawn["angle_N"] = uniform(-config.rotate, config.rotate, images)
    if config.shift:
        shift_N2 = uniform(-config.shift * side, config.shift * side, images, 2)
        drawn["shift_N2"] = shift_N2 if config.zoom or config.rotate else shift_N2.round()
    if config.contrast:
        drawn["contrast_N"] = uniform(1 - config.contrast, 1 + config.contrast, images)
    if config.noise:
        deviation_N111 = uniform(0, config.noise, images, 1, 1, 1)
        noise_NCSS = torch.randn(shape_NCSS, device=device, generator=generator)
        drawn["noise_NCSS"] = noise_NCSS.mul_(deviation_N111)
    if config.erase:
        drawn["erase_NSS"] = _squares(images, side, round(config.erase * side), generator)
    return AugmentParameters(**drawn)


def _squares(images: int, side: int, square: int, generator: torch.Generator) -> Tensor:
    """bool ``[N, S, S]``: one square of ``square`` pixels a side, somewhere in each image."""
    corner_2N1 = torch.randint(
        side - square + 1, (2, images, 1), device=generator.device, generator=generator
    )
    offset_2NS = torch.arange(side, device=generator.device) - corner_2N1
    rows_NS, columns_NS = (offset_2NS >= 0) & (offset_2NS < square)
    return rows_NS[:, :, None] & columns_NS[:, None, :]


def apply(x_NCSS: Tensor, parameters: AugmentParameters) -> Tensor:
    """The images changed by ``parameters``; no randomness in here."""
    return _pointwise(_geometry(x_NCSS, parameters), parameters)


def _geometry(x_NCSS: Tensor, p: AugmentParameters) -> Tensor:
    if p.scale_N is None and p.angle_N is None and p.shift_N2 is None:
        if p.mirror_N is None:
            return x_NCSS
        return torch.where(p.mirror_N[:, None, None, None], x_NCSS.flip(3), x_NCSS)
    grid_NSS2 = _sampling_grid(p, len(x_NCSS), x_NCSS.shape[3], x_NCSS.device)
    return F.grid_sample(
        x_NCSS, grid_NSS2, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _sampling_grid(p: AugmentParameters, images: int, side: int, device: torch.device) -> Tensor:
    """Where each output pixel comes from, in `grid_sample`'s units: -1 to 1 between the edges.

    The inverse of "mirror, zoom, rotate, shift": ``mirror(rotate(-angle, q - shift) / scale)``.
    Elementwise rather than `F.affine_grid`, whose matrix product TF32 or autocast would round.
    """
    zero_N = torch.zeros(images, device=device)
    scale_N = zero_N + 1 if p.scale_N is None else p.scale_N
    angle_N = zero_N if p.angle_N is None else p.angle_N * (math.pi / 180)
    right_N, down_N = (zero_N, zero_N) if p.shift_N2 is None else p.shift_N2.mul(2 / side).unbind(1)
    sign_N = zero_N + 1 if p.mirror_N is None else 1 - 2 * p.mirror_N.float()
    cos_N, sin_N = angle_N.cos() / scale_N, angle_N.sin() / scale_N

    centres_S = (torch.arange(side, device=device) * 2 + 1) / side - 1
    u_N1S = (centres_S - right_N[:, None])[:, None]
    v_N1S = (centres_S - down_N[:, None])[:, None]
    across_N2S = torch.stack((sign_N * cos_N, -sin_N), dim=1)[:, :, None] * u_N1S
    down_N2S = torch.stack((sign_N * sin_N, cos_N), dim=1)[:, :, None] * v_N1S
    # x and y as planes: `grid_sample` takes any strides, and interleaving costs more than sampling.
    grid_N2SS = across_N2S[:, :, None, :] + down_N2S[:, :, :, None]
    return grid_N2SS.permute(0, 2, 3, 1)


def _pointwise(x_NCSS: Tensor, p: AugmentParameters) -> Tensor:
    mean_N111 = x_NCSS.mean(dim=(1, 2, 3), keepdim=True)
    if p.contrast_N is not None:
        factor_N111 = p.contrast_N[:, None, None, None]
        x_NCSS = torch.addcmul(mean_N111 * (1 - factor_N111), x_NCSS, factor_N111)
    if p.noise_NCSS is not None:
        x_NCSS = x_NCSS + p.noise_NCSS
    if p.erase_NSS is not None:
        x_NCSS = torch.where(p.erase_NSS[:, None], mean_N111, x_NCSS)
    return x_NCSS
