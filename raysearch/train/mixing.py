"""Mixing each image of a batch with a partner: mixup and cutmix, drawn per image.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019, section 3.1.
Shapes: N images, C channels, S pixels a side.
"""

import torch
from torch import Tensor


def mix(
    x_NCSS: Tensor, generator: torch.Generator, *, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix by mixup, by cutmix, or, where both alphas are above 0, each image by one of the two at
    equal chance. ``generator`` is on the images' device; the input is not written to.

    Returns:
        The mixed images, ``partner_N`` int64 and ``share_N`` float32 in [0, 1]: how much of each
        result is the image itself; the rest is its partner. The loss is ``share * loss(logits,
        labels) + (1 - share) * loss(logits, labels[partner])``, per image.
    """
    images, side = len(x_NCSS), x_NCSS.shape[-1]
    partner_N = torch.randperm(images, device=generator.device, generator=generator)
    ways = []
    if mixup:
        share_N = draw_shares(mixup, images, generator)
        ways.append((share_N[:, None, None], share_N))
    if cutmix:
        kept_NSS = ~inside(draw_boxes(cutmix, images, side, generator), side)
        ways.append((kept_NSS.float(), kept_NSS.float().mean(dim=(1, 2))))
    kept_NSS, share_N = ways[0]
    if len(ways) == 2:
        first_N = torch.rand(images, device=generator.device, generator=generator) < 0.5
        kept_NSS = torch.where(first_N[:, None, None], kept_NSS, ways[1][0])
        share_N = torch.where(first_N, share_N, ways[1][1])
    return torch.lerp(x_NCSS[partner_N], x_NCSS, kept_NSS[:, None]), partner_N, share_N


def draw_shares(alpha: float, images: int, generator: torch.Generator) -> Tensor:
    """``share_N`` float32 from Beta(``alpha``, ``alpha``)."""
    # The sampler behind `torch.distributions.Beta`, which itself takes no generator. In float64,
    # because a small alpha underflows float32.
    alpha_N2 = torch.full((images, 2), alpha, device=generator.device, dtype=torch.float64)
    return torch._sample_dirichlet(alpha_N2, generator=generator)[:, 0].float()


def draw_boxes(alpha: float, images: int, side: int, generator: torch.Generator) -> Tensor:
    """``box_N4`` int64: top, left, bottom, right (exclusive) of the rectangle that is replaced.

    A square of a Beta-distributed share of the image, about a centre anywhere in the image, so
    that what is left of it inside the image may be smaller.
    """
    half_N1 = (1 - draw_shares(alpha, images, generator)).sqrt()[:, None] * side / 2
    centre_N2 = torch.rand(images, 2, device=generator.device, generator=generator) * side
    corners_N4 = torch.cat((centre_N2 - half_N1, centre_N2 + half_N1), dim=1)
    return corners_N4.round().clamp(0, side).long()


def inside(box_N4: Tensor, side: int) -> Tensor:
    """bool ``[N, S, S]``: the pixels in each box."""
    pixel_S = torch.arange(side, device=box_N4.device)
    top, left, bottom, right = box_N4[:, :, None].unbind(1)
    rows_NS, columns_NS = (
        (pixel_S >= low) & (pixel_S < high) for low, high in ((top, bottom), (left, right))
    )
    return rows_NS[:, :, None] & columns_NS[:, None, :]
