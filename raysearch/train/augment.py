"""Random changes to a batch of training images, drawn per image, on the images' own device.

`draw` turns strengths into parameters, `apply` turns parameters into images, in this order:

1. geometry: mirror, crop and enlarge, shear, zoom, rotate, shift. All in one bilinear resampling,
   about the image's centre; what comes in at the edges is the image reflected. Mirrors and shifts
   alone move whole pixels and resample nothing: it blurs, and would teach the network images that
   are blurrier than those that it is tested on.
2. sharpening, with the filter of PIL, torchvision and kornia: the outermost pixels stay.
3. contrast and brightness, as one multiplication and addition.
4. Gaussian noise.
5. erasing: cutout (DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with
   Cutout", 2017) with the square wholly inside the image.

Images are in [0, 1]. Geometry and erasing stay within an image's own range; the others may leave
[0, 1] and are not clamped: clamping would pile up values at the ends, and the network sees
standardized values anyway.

Shapes: N images, C channels, S pixels a side.
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
    crop_N3: Tensor | None = None
    """Left edge, top edge and side of the square that is enlarged to the whole, in pixels."""
    shear_N: Tensor | None = None
    """Degrees that upright lines lean to the right."""
    scale_N: Tensor | None = None
    """Magnification, 1 is none."""
    angle_N: Tensor | None = None
    """Degrees clockwise."""
    shift_N2: Tensor | None = None
    """Pixels to the right and down; of an integer type where nothing is to be resampled."""
    sharpen_N: Tensor | None = None
    """Share of the difference from the blurred image that is added; torchvision's and kornia's
    sharpness factor less 1."""
    contrast_N: Tensor | None = None
    """Factor on the difference from the image's mean."""
    brightness_N: Tensor | None = None
    """Added to the image, in units of [0, 1]."""
    noise_NCSS: Tensor | None = None
    """Added to the image, in units of [0, 1]."""
    erase_NQ: Tensor | None = None
    """int64: pixels, counted along the rows, that are replaced by the image's mean, which
    standardizing takes to about 0."""

    def __getitem__(self, rows: slice) -> "AugmentParameters":
        drawn = {name: value for name, value in vars(self).items() if value is not None}
        return AugmentParameters(**{name: value[rows] for name, value in drawn.items()})


def augment(
    x_NCSS: Tensor,
    config: AugmentConfig,
    generator: torch.Generator,
    rows: slice = slice(None),
    images: int | None = None,
) -> Tensor:
    """Images float32 in [0, 1], after `Preprocess.resize` and before `Preprocess.standardize`,
    each changed by its own draw. Where they are the ``rows`` of a batch of ``images``, the draws
    are made for all of it: then they do not depend on how it is divided.

    ``generator`` is on the images' device. The input is not written to; it is returned as it is
    where every strength is 0.
    """
    shape_NCSS = torch.Size((images or len(x_NCSS), *x_NCSS.shape[1:]))
    return apply(x_NCSS, draw(config, shape_NCSS, generator)[rows])


def draw(
    config: AugmentConfig, shape_NCSS: torch.Size, generator: torch.Generator
) -> AugmentParameters:
    """Independent parameters for each of N images, uniform within the strengths of ``config``."""
    images, _, _, side = shape_NCSS

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        values = torch.empty((images, *shape), device=generator.device)
        return values.uniform_(low, high, generator=generator)

    def around(middle: float, strength: float) -> Tensor | None:
        return uniform(middle - strength, middle + strength) if strength else None

    drawn = {
        "shear_N": around(0, config.shear),
        "scale_N": around(1, config.zoom),
        "angle_N": around(0, config.rotate),
        "contrast_N": around(1, config.contrast),
        "brightness_N": around(0, config.brightness),
    }
    if config.mirror:
        drawn["mirror_N"] = uniform(0, 1) < config.mirror
    if config.crop:
        out_N1 = uniform(0, config.crop * side, 1)
        drawn["crop_N3"] = torch.cat((uniform(0, 1, 2) * out_N1, side - out_N1), dim=1)
    if config.shift:
        shift_N2 = uniform(-config.shift * side, config.shift * side, 2)
        resampled = config.crop or config.shear or config.zoom or config.rotate
        drawn["shift_N2"] = shift_N2 if resampled else shift_N2.round().long()
    if config.sharpen:
        drawn["sharpen_N"] = uniform(0, config.sharpen)
    if config.noise:
        noise_NCSS = torch.randn(shape_NCSS, device=generator.device, generator=generator)
        drawn["noise_NCSS"] = noise_NCSS.mul_(uniform(0, config.noise, 1, 1, 1))
    if config.erase:
        drawn["erase_NQ"] = _squares(images, side, round(config.erase * side), generator)
    return AugmentParameters(**drawn)


def _squares(images: int, side: int, square: int, generator: torch.Generator) -> Tensor:
    """int64 ``[N, square * square]``: pixels of one square, somewhere in each image."""
    corner_2N1 = torch.randint(
        side - square + 1, (2, images, 1), device=generator.device, generator=generator
    )
    rows_NK, columns_NK = torch.arange(square, device=generator.device) + corner_2N1
    return (rows_NK[:, :, None] * side + columns_NK[:, None, :]).flatten(1)


def apply(x_NCSS: Tensor, parameters: AugmentParameters) -> Tensor:
    """The images changed by ``parameters``; no randomness in here."""
    p = parameters
    x_NCSS = x_NCSS.contiguous()
    y_NCSS = _geometry(x_NCSS, p)
    written_to = (p.sharpen_N, p.contrast_N, p.brightness_N, p.noise_NCSS, p.erase_NQ)
    if y_NCSS is x_NCSS and any(values is not None for values in written_to):
        y_NCSS = x_NCSS.clone()
    # In place: on a CPU, fetching fresh memory costs as much as these passes over it.
    if p.sharpen_N is not None:
        _sharpen_(y_NCSS, p.sharpen_N)
    _change_values_(y_NCSS, p)
    return y_NCSS


def _geometry(x_NCSS: Tensor, p: AugmentParameters) -> Tensor:
    resampling = any(values is not None for values in (p.crop_N3, p.shear_N, p.scale_N, p.angle_N))
    if resampling or (p.shift_N2 is not None and p.shift_N2.is_floating_point()):
        grid_NSS2 = _sampling_grid(p, len(x_NCSS), x_NCSS.shape[3], x_NCSS.device)
        return F.grid_sample(
            x_NCSS, grid_NSS2, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    if p.mirror_N is None and p.shift_N2 is None:
        return x_NCSS
    return _move_pixels(x_NCSS, p)


def _move_pixels(x_NCSS: Tensor, p: AugmentParameters) -> Tensor:
    """Mirrors and shifts by whole pixels: each pixel is fetched from where it was."""
    images, channels, side, _ = x_NCSS.shape
    row_N1S = column_N1S = torch.arange(side, device=x_NCSS.device).expand(images, 1, side)
    if p.shift_N2 is not None:
        column_N1S = _reflect(column_N1S - p.shift_N2[:, :1, None], side)
        row_N1S = _reflect(row_N1S - p.shift_N2[:, 1:, None], side)
    if p.mirror_N is not None:
        column_N1S = torch.where(p.mirror_N[:, None, None], side - 1 - column_N1S, column_N1S)
    pixel_N1P = (row_N1S.transpose(1, 2) * side + column_N1S).view(images, 1, side * side)
    moved_NCP = x_NCSS.flatten(2).gather(2, pixel_N1P.expand(-1, channels, -1))
    return moved_NCP.view_as(x_NCSS)


def _reflect(position: Tensor, side: int) -> Tensor:
    """The pixel at a position beyond the edges, where an image goes on as its own reflection."""
    position = position % (2 * side)
    return torch.minimum(position, 2 * side - 1 - position)


def _sampling_grid(p: AugmentParameters, images: int, side: int, device: torch.device) -> Tensor:
    """Where each output pixel comes from, in `grid_sample`'s units: -1 to 1 between the edges.

    The inverse of "mirror, crop, shear, zoom, rotate, shift". Elementwise rather than
    `F.affine_grid`, whose matrix product TF32 or autocast would round.
    """

    def given(values: Tensor | None, otherwise: float) -> Tensor:
        return torch.full((images,), otherwise, device=device) if values is None else values

    angle_N = given(p.angle_N, 0) * (math.pi / 180)
    slope_N = torch.tan(given(p.shear_N, 0) * (math.pi / 180))
    sign_N = 1 - 2 * given(p.mirror_N, 0).float()
    shift_N2 = torch.zeros(images, 2, device=device) if p.shift_N2 is None else p.shift_N2
    size_N, middle_N2 = given(None, 1), torch.zeros(images, 2, device=device)
    if p.crop_N3 is not None:
        size_N = p.crop_N3[:, 2] / side
        middle_N2 = p.crop_N3[:, :2] * (2 / side) + size_N[:, None] - 1

    size_N = size_N / given(p.scale_N, 1)
    cos_N, sin_N = angle_N.cos() * size_N, angle_N.sin() * size_N
    by_column_N2 = torch.stack((sign_N * (cos_N - slope_N * sin_N), -sin_N), dim=1)
    by_row_N2 = torch.stack((sign_N * (sin_N + slope_N * cos_N), cos_N), dim=1)
    start_N2 = torch.stack((sign_N * middle_N2[:, 0], middle_N2[:, 1]), dim=1)

    centres_S = (torch.arange(side, device=device) * 2 + 1) / side - 1
    position_N2S = centres_S - shift_N2[:, :, None] * (2 / side)
    across_N2S = by_column_N2[:, :, None] * position_N2S[:, :1] + start_N2[:, :, None]
    down_N2S = by_row_N2[:, :, None] * position_N2S[:, 1:]
    # x and y as planes: `grid_sample` takes any strides, and interleaving costs more than sampling.
    grid_N2SS = across_N2S[:, :, None, :] + down_N2S[:, :, :, None]
    return grid_N2SS.permute(0, 2, 3, 1)


def _sharpen_(x_NCSS: Tensor, strength_N: Tensor) -> None:
    """``x + strength * (x - blur)``, blurred by a 3 x 3 mean in which the middle counts five times.

    As one convolution with a filter of its own for each image; all but the outermost pixels.
    """
    images, channels, side, _ = x_NCSS.shape
    unchanged_33 = torch.zeros(3, 3, device=x_NCSS.device)
    unchanged_33[1, 1] = 1
    difference_33 = unchanged_33 - (1 + 4 * unchanged_33) / 13
    filters_N33 = unchanged_33 + strength_N[:, None, None] * difference_33
    filters_M133 = filters_N33.repeat_interleave(channels, dim=0)[:, None]
    planes_1MSS = x_NCSS.view(1, images * channels, side, side)
    inside_1MTT = F.conv2d(planes_1MSS, filters_M133, groups=images * channels)
    x_NCSS[:, :, 1:-1, 1:-1] = inside_1MTT.view(images, channels, side - 2, side - 2)


def _change_values_(x_NCSS: Tensor, p: AugmentParameters) -> None:
    """Contrast, brightness, noise and erasing."""
    mean_N111 = x_NCSS.mean(dim=(1, 2, 3), keepdim=True)
    if p.contrast_N is not None or p.brightness_N is not None:
        none_N = torch.zeros(len(x_NCSS), device=x_NCSS.device)
        factor_N = none_N + 1 if p.contrast_N is None else p.contrast_N
        added_N = none_N if p.brightness_N is None else p.brightness_N
        factor_N111, added_N111 = factor_N[:, None, None, None], added_N[:, None, None, None]
        constant_N111 = mean_N111 * (1 - factor_N111) + added_N111
        torch.addcmul(constant_N111, x_NCSS, factor_N111, out=x_NCSS)
        mean_N111 = mean_N111 + added_N111
    if p.noise_NCSS is not None:
        x_NCSS += p.noise_NCSS
    if p.erase_NQ is not None:
        erased_NCQ = p.erase_NQ[:, None].expand(-1, x_NCSS.shape[1], -1)
        x_NCSS.view(len(x_NCSS), x_NCSS.shape[1], -1).scatter_(
            2, erased_NCQ, mean_N111[:, :, :, 0].expand_as(erased_NCQ)
        )
