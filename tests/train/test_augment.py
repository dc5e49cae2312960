"""Augmentation against torchvision on the same parameters, and its laws."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from raysearch.config import AugmentConfig
from raysearch.train.augment import AugmentParameters, apply, augment, draw

NONE = AugmentConfig(mirror=0)
ALL = AugmentConfig(
    mirror=0.5, shift=0.1, rotate=15, zoom=0.1, contrast=0.3, noise=0.05, erase=0.25
)
STRENGTHS = {"mirror": 0.5, "shift": 0.2, "rotate": 30.0, "zoom": 0.2, "contrast": 0.5}
STRENGTHS |= {"noise": 0.1, "erase": 0.3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(images: int, channels: int = 1, side: int = 24, seed: int = 0) -> torch.Tensor:
    """Random images in [0.2, 0.8] that vary slowly, so that half a pixel off is a small error."""
    coarse = torch.rand(images, channels, 6, 6, generator=generator(seed))
    return 0.2 + 0.6 * torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def torchvision_affine(image_CSS: torch.Tensor, p: AugmentParameters, n: int) -> torch.Tensor:
    """The geometry of image ``n`` by torchvision, which knows no reflection: it is padded first."""
    side = image_CSS.shape[-1]
    if p.mirror_N is not None and p.mirror_N[n]:
        image_CSS = tv.horizontal_flip(image_CSS)
    padded = torch.from_numpy(
        np.pad(image_CSS.numpy(), ((0, 0), (side, side), (side, side)), mode="symmetric")
    )
    moved = tv.affine(
        padded,
        angle=0.0 if p.angle_N is None else float(p.angle_N[n]),
        translate=[0.0, 0.0] if p.shift_N2 is None else p.shift_N2[n].tolist(),
        scale=1.0 if p.scale_N is None else float(p.scale_N[n]),
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    return moved[:, side:-side, side:-side]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "strengths",
    [
        {"mirror": 0.5},
        {"mirror": 0, "shift": 0.25},
        {"mirror": 0, "rotate": 180},
        {"mirror": 0, "zoom": 0.5},
        {"mirror": 0.5, "shift": 0.2, "rotate": 45, "zoom": 0.3},
    ],
    ids=lambda strengths: "+".join(name for name, value in strengths.items() if value),
)
def test_geometry_agrees_with_torchvision(strengths, channels):
    images = smooth_images(16, channels)
    parameters = draw(AugmentConfig(**strengths), images.shape, generator(1))
    expected = torch.stack([torchvision_affine(x, parameters, n) for n, x in enumerate(images)])
    torch.testing.assert_close(apply(images, parameters), expected, atol=2e-5, rtol=0)


def test_whole_pixel_shift_moves_pixels_exactly():
    images = torch.rand(8, 1, 16, 16, generator=generator())
    parameters = draw(AugmentConfig(mirror=0, shift=0.25), images.shape, generator(2))
    assert torch.equal(parameters.shift_N2, parameters.shift_N2.round())
    for n, result in enumerate(apply(images, parameters)):
        right, down = parameters.shift_N2[n].int().tolist()
        padded = np.pad(images[n, 0].numpy(), 4, mode="symmetric")
        expected = padded[4 - down : 20 - down, 4 - right : 20 - right]
        np.testing.assert_allclose(result[0], expected, atol=1e-5)


def test_contrast_agrees_with_torchvision():
    images = smooth_images(16)
    parameters = draw(AugmentConfig(mirror=0, contrast=0.3), images.shape, generator())
    expected = [
        tv.adjust_contrast(image, float(factor))
        for image, factor in zip(images, parameters.contrast_N, strict=True)
    ]
    torch.testing.assert_close(apply(images, parameters), torch.stack(expected), atol=1e-6, rtol=0)


def test_noise_is_gaussian_with_deviations_up_to_the_strength():
    images = torch.full((400, 1, 32, 32), 0.5)
    noise = augment(images, AugmentConfig(mirror=0, noise=0.2), generator()) - images
    deviations = noise.std(dim=(1, 2, 3))
    assert stats.kstest(deviations / 0.2, "uniform").pvalue > 1e-3
    standardized = (noise / deviations[:, None, None, None])[:20].flatten()
    assert stats.kstest(standardized, "norm").pvalue > 1e-3


def test_erased_square_has_its_area_and_the_mean_of_the_image():
    images = torch.rand(200, 3, 20, 20, generator=generator())
    parameters = draw(AugmentConfig(mirror=0, erase=0.25), images.shape, generator())
    erased = apply(images, parameters)
    changed = (erased != images).any(dim=1)
    assert (changed.sum(dim=(1, 2)) == 25).all()
    for n in range(10):
        row, column = (int(axis.min()) for axis in changed[n].nonzero(as_tuple=True))
        expected = tv.erase(images[n], row, column, 5, 5, images[n].mean().expand(3, 5, 5))
        torch.testing.assert_close(erased[n], expected, atol=1e-6, rtol=0)
    corners = [tuple(map(int, square.nonzero()[0])) for square in changed]
    assert min(corners) >= (0, 0) and max(row for row, _ in corners) == 15


def test_zero_strengths_return_the_images_themselves():
    images = torch.rand(4, 1, 16, 16)
    assert augment(images, NONE, generator()) is images


def test_input_is_not_written_to():
    images = torch.rand(4, 1, 16, 16)
    before = images.clone()
    augment(images, ALL, generator())
    assert torch.equal(images, before)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_mirror_has_its_probability(share):
    mirrored = draw(AugmentConfig(mirror=share), (20_000, 1, 8, 8), generator()).mirror_N
    assert abs(float(mirrored.float().mean()) - share) < 4 * (0.25 / 20_000) ** 0.5


def test_equal_seeds_give_equal_images_and_other_seeds_others():
    images = torch.rand(8, 1, 16, 16)
    first, again, other = (augment(images, ALL, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_randomness_is_neither_read_nor_advanced():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    augment(torch.zeros(8, 1, 16, 16), ALL, generator())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in STRENGTHS if name != "mirror"])
def test_each_image_of_a_batch_has_its_own_draw(name):
    images = torch.rand(1, 1, 32, 32, generator=generator()).expand(6, 1, 32, 32)
    changed = augment(images, AugmentConfig(**{"mirror": 0, name: STRENGTHS[name]}), generator(5))
    assert all(not torch.equal(changed[0], other) for other in changed[1:])


@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(1, 5),
    channels=st.integers(1, 4),
    side=st.integers(8, 33),
    strengths=st.fixed_dictionaries(
        {
            "mirror": st.floats(0, 1),
            "shift": st.floats(0, 1),
            "rotate": st.floats(0, 180),
            "zoom": st.floats(0, 0.9),
            "erase": st.floats(0, 1),
        }
    ),
    seed=st.integers(0, 2**31),
)
def test_geometry_and_erasing_keep_shape_and_range(images, channels, side, strengths, seed):
    x = torch.rand(images, channels, side, side, generator=generator(seed))
    result = augment(x, AugmentConfig(**strengths), generator(seed))
    assert result.shape == x.shape and result.dtype == torch.float32
    low, high = x.amin(dim=(1, 2, 3)), x.amax(dim=(1, 2, 3))
    assert (result.amin(dim=(1, 2, 3)) >= low - 1e-6).all()
    assert (result.amax(dim=(1, 2, 3)) <= high + 1e-6).all()


@settings(deadline=None, max_examples=40)
@given(
    factor=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**31), channels=st.integers(1, 3)
)
def test_contrast_keeps_the_mean_and_bounds_the_spread(factor, seed, channels):
    x = torch.rand(4, channels, 16, 16, generator=generator(seed))
    result = augment(x, AugmentConfig(mirror=0, contrast=factor), generator(seed))
    torch.testing.assert_close(result.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5, rtol=0)
    ratio = result.std((1, 2, 3)) / x.std((1, 2, 3))
    assert ((1 - factor - 1e-4 <= ratio) & (ratio <= 1 + factor + 1e-4)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_images_of_the_cpu_for_the_same_parameters():
    images = torch.rand(64, 1, 48, 48)
    parameters = draw(ALL, images.shape, generator())
    fields = dataclasses.fields(AugmentParameters)
    moved = AugmentParameters(**{f.name: getattr(parameters, f.name).cuda() for f in fields})
    result = apply(images.cuda(), moved).cpu()
    torch.testing.assert_close(result, apply(images, parameters), atol=2e-5, rtol=0)
