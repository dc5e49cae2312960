"""Augmentation against torchvision and kornia on the same parameters, and its laws."""

import dataclasses

import kornia
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
STRENGTHS = {
    "mirror": 0.5,
    "shift": 0.2,
    "crop": 0.3,
    "rotate": 30.0,
    "zoom": 0.2,
    "shear": 20.0,
    "brightness": 0.3,
    "contrast": 0.5,
    "sharpen": 2.0,
    "noise": 0.1,
    "erase": 0.3,
}
ALL = AugmentConfig(**STRENGTHS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(images: int, channels: int = 1, side: int = 24, seed: int = 0) -> torch.Tensor:
    """Random images in [0.2, 0.8] that vary slowly, so that half a pixel off is a small error."""
    coarse = torch.rand(images, channels, 6, 6, generator=generator(seed))
    return 0.2 + 0.6 * torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def of(values: torch.Tensor | None, n: int, otherwise: float) -> float:
    return otherwise if values is None else float(values[n])


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
        angle=of(p.angle_N, n, 0.0),
        translate=[0.0, 0.0] if p.shift_N2 is None else p.shift_N2[n].tolist(),
        scale=of(p.scale_N, n, 1.0),
        shear=[of(p.shear_N, n, 0.0), 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    return moved[:, side:-side, side:-side]


GEOMETRY = [
    {"mirror": 0.5},
    {"mirror": 0, "shift": 0.25},
    {"mirror": 0, "rotate": 180},
    {"mirror": 0, "zoom": 0.5},
    {"mirror": 0, "shear": 40},
    {"mirror": 0.5, "shift": 0.2, "rotate": 45, "zoom": 0.3, "shear": 30},
]


def strength_names(strengths: dict) -> str:
    return "+".join(name for name, value in strengths.items() if value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strengths", GEOMETRY, ids=strength_names)
def test_geometry_agrees_with_torchvision(strengths, channels):
    images = smooth_images(16, channels)
    parameters = draw(AugmentConfig(**strengths), images.shape, generator(1))
    expected = torch.stack([torchvision_affine(x, parameters, n) for n, x in enumerate(images)])
    torch.testing.assert_close(apply(images, parameters), expected, atol=2e-5, rtol=0)


def kornia_matrices(p: AugmentParameters, images: int, side: int) -> torch.Tensor:
    """``[N, 3, 3]`` from pixels to pixels, composed of kornia's matrices."""
    one_N = torch.ones(images)
    matrix_N33 = kornia.geometry.get_affine_matrix2d(
        torch.zeros(images, 2) if p.shift_N2 is None else p.shift_N2.float(),
        torch.full((images, 2), (side - 1) / 2),
        (one_N if p.scale_N is None else p.scale_N)[:, None].expand(-1, 2),
        0 * one_N if p.angle_N is None else p.angle_N,
        0 * one_N if p.shear_N is None else torch.deg2rad(p.shear_N),
        0 * one_N,
    )
    if p.crop_N3 is not None:
        left_N, top_N, kept_N = p.crop_N3.unbind(1)
        crop_N33 = torch.eye(3).repeat(images, 1, 1)
        crop_N33[:, 0, 0] = crop_N33[:, 1, 1] = side / kept_N
        crop_N33[:, 0, 2] = (0.5 - left_N) * side / kept_N - 0.5
        crop_N33[:, 1, 2] = (0.5 - top_N) * side / kept_N - 0.5
        matrix_N33 = matrix_N33 @ crop_N33
    if p.mirror_N is not None:
        mirror_33 = torch.tensor([[-1.0, 0, side - 1], [0, 1, 0], [0, 0, 1]])
        matrix_N33[p.mirror_N] = matrix_N33[p.mirror_N] @ mirror_33
    return matrix_N33


@pytest.mark.parametrize(
    "strengths", [*GEOMETRY, {"mirror": 0, "crop": 0.4}, STRENGTHS], ids=strength_names
)
def test_geometry_agrees_with_kornia_wherever_no_edge_is_near(strengths):
    images, side = smooth_images(16, channels=2), 24
    names = ("mirror", "shift", "crop", "rotate", "zoom", "shear")
    only = {name: strengths.get(name, 0) for name in names}
    parameters = draw(AugmentConfig(**only), images.shape, generator(1))
    matrix_N23 = kornia_matrices(parameters, 16, side)[:, :2]
    expected = kornia.geometry.warp_affine(images, matrix_N23, (side, side))
    known = kornia.geometry.warp_affine(torch.ones_like(images), matrix_N23, (side, side)) > 0.9999
    assert known.float().mean() > 0.5
    found = apply(images, parameters)
    torch.testing.assert_close(found[known], expected[known], atol=5e-5, rtol=0)


@pytest.mark.parametrize(("left", "top", "kept"), [(3, 1, 16), (0, 8, 16), (5, 5, 19), (0, 0, 24)])
def test_crop_agrees_with_torchvision_and_kornia(left, top, kept):
    """Away from the crop's edge: there, we still see what lies beyond it."""
    images = smooth_images(2)
    found = apply(
        images, AugmentParameters(crop_N3=torch.tensor([[left, top, kept]] * 2, dtype=torch.float))
    )
    size = [24, 24]
    expected = tv.resized_crop(images, top, left, kept, kept, size, antialias=False)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=2e-5, rtol=0)
    cut = images[:, :, top : top + kept, left : left + kept]
    expected = kornia.geometry.resize(cut, (24, 24), align_corners=False)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=2e-5, rtol=0)


def test_crop_lies_within_the_image_and_leaves_out_no_more_than_its_strength():
    crop_N3 = draw(AugmentConfig(mirror=0, crop=0.4), (20_000, 1, 20, 20), generator()).crop_N3
    left_N, top_N, kept_N = crop_N3.unbind(1)
    assert left_N.min() >= 0 and top_N.min() >= 0
    assert (left_N + kept_N).max() <= 20 + 1e-4 and (top_N + kept_N).max() <= 20 + 1e-4
    assert stats.kstest((20 - kept_N) / 8, "uniform").pvalue > 1e-3
    assert stats.kstest(left_N / (20 - kept_N), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack((left_N, top_N)) / (20 - kept_N))[0, 1])) < 0.03


def test_mirror_agrees_with_torchvision_and_kornia():
    images = torch.rand(4, 3, 9, 9, generator=generator())
    mirrored = apply(images, AugmentParameters(mirror_N=torch.tensor([True, False, True, False])))
    assert torch.equal(mirrored[::2], tv.horizontal_flip(images[::2]))
    assert torch.equal(mirrored[::2], kornia.geometry.hflip(images[::2]))
    assert torch.equal(mirrored[1::2], images[1::2])


@settings(deadline=None, max_examples=40)
@given(
    side=st.integers(8, 20),
    channels=st.integers(1, 3),
    mirror=st.booleans(),
    right=st.integers(-45, 45),
    down=st.integers(-45, 45),
)
def test_whole_pixels_are_moved_exactly(side, channels, mirror, right, down):
    images = torch.rand(2, channels, side, side, generator=generator())
    parameters = AugmentParameters(
        mirror_N=torch.tensor([False, mirror]), shift_N2=torch.tensor([[0, 0], [right, down]])
    )
    unchanged, moved = apply(images, parameters)
    assert torch.equal(unchanged, images[0])
    seen = images[1].flip(2) if mirror else images[1]
    padded = np.pad(seen.numpy(), ((0, 0), (45, 45), (45, 45)), mode="symmetric")
    expected = padded[:, 45 - down : 45 - down + side, 45 - right : 45 - right + side]
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("strengths", [{}, {"mirror": 0.5}])
def test_shift_without_resampling_is_drawn_in_whole_pixels(strengths):
    config = AugmentConfig(**{"mirror": 0, "shift": 0.25, **strengths})
    shift = draw(config, (4000, 1, 16, 16), generator()).shift_N2
    assert shift.dtype == torch.int64 and set(shift.flatten().tolist()) == set(range(-4, 5))


@pytest.mark.parametrize("name", ["crop", "rotate", "zoom", "shear"])
def test_shift_beside_resampling_is_drawn_between_pixels(name):
    config = AugmentConfig(**{"mirror": 0, "shift": 0.25, name: STRENGTHS[name]})
    assert draw(config, (4, 1, 16, 16), generator()).shift_N2.is_floating_point()


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpening_agrees_with_torchvision_and_kornia(channels):
    images = smooth_images(16, channels)
    parameters = draw(AugmentConfig(mirror=0, sharpen=2.0), images.shape, generator())
    assert parameters.sharpen_N.min() >= 0 and 1.5 < parameters.sharpen_N.max() <= 2
    found = apply(images, parameters)
    factor_N = 1 + parameters.sharpen_N
    expected = [tv.adjust_sharpness(x, float(f)) for x, f in zip(images, factor_N, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, kornia.enhance.sharpness(images, factor_N), atol=1e-5, rtol=0)
    assert (found - images).abs().max() > 0.01


def test_contrast_agrees_with_torchvision_and_kornia():
    images = smooth_images(16)
    parameters = draw(AugmentConfig(mirror=0, contrast=0.3), images.shape, generator())
    found, factor_N = apply(images, parameters), parameters.contrast_N
    expected = [tv.adjust_contrast(x, float(f)) for x, f in zip(images, factor_N, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)
    by_kornia = kornia.enhance.adjust_contrast_with_mean_subtraction(images, factor_N)
    torch.testing.assert_close(found, by_kornia, atol=1e-6, rtol=0)


@pytest.mark.parametrize("contrast", [0, 0.2])
def test_brightness_agrees_with_kornia(contrast):
    """torchvision's brightness is a factor: another change."""
    images = smooth_images(16)
    config = AugmentConfig(mirror=0, brightness=0.15, contrast=contrast)
    parameters = draw(config, images.shape, generator())
    found, added_N = apply(images, parameters), parameters.brightness_N
    assert stats.kstest(added_N / 0.3 + 0.5, "uniform").pvalue > 1e-3
    if contrast:
        images = kornia.enhance.adjust_contrast_with_mean_subtraction(images, parameters.contrast_N)
    expected = kornia.enhance.adjust_brightness(images, added_N)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_operations_come_in_the_order_of_the_parameters():
    """Those on pixels' values; the geometry is resampled once, not as often as it has parts."""
    images = smooth_images(8, channels=3)
    config = ALL.model_copy(update={"crop": 0, "rotate": 0, "zoom": 0, "shear": 0})
    parameters = draw(config, images.shape, generator())
    one_by_one = images
    for field in dataclasses.fields(AugmentParameters):
        value = getattr(parameters, field.name)
        one_by_one = apply(one_by_one, AugmentParameters(**{field.name: value}))
    once = apply(images, parameters)
    erased_NCQ = parameters.erase_NQ[:, None].expand(-1, 3, -1)
    # Noise moves the mean that erasing alone would take.
    torch.testing.assert_close(
        once.flatten(2).scatter(2, erased_NCQ, 0),
        one_by_one.flatten(2).scatter(2, erased_NCQ, 0),
        atol=1e-5,
        rtol=0,
    )
    fills = once.flatten(2).gather(2, erased_NCQ)
    mean_N = apply(images, dataclasses.replace(parameters, noise_NCSS=None, erase_NQ=None)).mean(
        (1, 2, 3)
    )
    torch.testing.assert_close(fills, mean_N[:, None, None].expand_as(fills), atol=1e-5, rtol=0)


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
    corners = [tuple(map(int, square.nonzero()[0])) for square in changed]
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(16))
    for n, (row, column) in enumerate(corners):
        expected = tv.erase(images[n], row, column, 5, 5, images[n].mean().expand(3, 5, 5))
        torch.testing.assert_close(erased[n], expected, atol=1e-6, rtol=0)
    row_N, column_N = torch.tensor(corners).unbind(1)
    square = {"xs": column_N, "ys": row_N, "widths": torch.full((200,), 5)}
    square |= {"heights": torch.full((200,), 5), "values": images.mean((1, 2, 3))}
    expected = kornia.augmentation.RandomErasing().apply_transform(images, square, {})
    torch.testing.assert_close(erased, expected, atol=1e-6, rtol=0)


def test_zero_strengths_return_the_images_themselves():
    images = torch.rand(4, 1, 16, 16)
    assert augment(images, NONE, generator()) is images


@pytest.mark.parametrize("strengths", [{"mirror": 0, name: STRENGTHS[name]} for name in STRENGTHS])
def test_input_is_not_written_to(strengths):
    images = torch.rand(4, 1, 16, 16)
    before = images.clone()
    assert not torch.equal(augment(images, AugmentConfig(**strengths), generator()), before)
    assert torch.equal(images, before)


@pytest.mark.parametrize("config", [ALL, AugmentConfig(mirror=0, erase=0.3, sharpen=1)])
def test_layout_in_memory_does_not_matter(config):
    images = torch.rand(4, 3, 16, 16, generator=generator())
    expected = augment(images, config, generator())
    found = augment(images.to(memory_format=torch.channels_last), config, generator())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


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
            "crop": st.floats(0, 0.9),
            "shear": st.floats(0, 80),
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
