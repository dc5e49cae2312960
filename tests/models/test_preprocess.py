"""Preprocessing against plain formulas, torchvision and pillow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from raysearch.models.preprocess import Preprocess


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_dataset_normalization_agrees_with_torchvision(channels):
    mean, std = [0.5, 0.4, 0.3][:channels], [0.2, 0.25, 0.3][:channels]
    images = pixels(5, channels, 48, 48)
    expected = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), mean, std)
    result = Preprocess("dataset", 48, mean, std)(images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_per_image_normalization_is_the_formula_in_float64(channels):
    images = pixels(4, channels, 32, 32)
    result = Preprocess("per_image", 32, [0.0] * channels, [1.0] * channels)(images)
    for image, normalized in zip(images.numpy() / 255.0, result.numpy(), strict=True):
        expected = (image - image.mean()) / max(image.std(), 1 / 32)
        np.testing.assert_allclose(normalized, expected, atol=2e-5)


def test_constant_image_becomes_zero_and_not_nan():
    images = torch.full((2, 1, 48, 48), 255, dtype=torch.uint8)
    assert Preprocess("per_image", 48, [0.5], [0.25])(images).abs().max() < 1e-4


def test_faint_image_is_divided_by_one_over_its_side():
    images = torch.full((1, 1, 48, 48), 128, dtype=torch.uint8)
    images[0, 0, 1::2] = 129
    result = Preprocess("per_image", 48, [0.5], [0.25])(images)
    torch.testing.assert_close(
        result[0, 0, 0], torch.full((48,), -0.5 / 255 * 48), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("stored, side", [(48, 24), (48, 37), (48, 64), (37, 48), (96, 48)])
def test_resizing_agrees_with_torchvision(stored, side):
    images = pixels(3, 1, stored, stored)
    expected = tv.resize(images.float() / 255, [side, side], antialias=True)
    result = Preprocess("dataset", side, [0.5], [0.25]).resize(images)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stored, side", [(96, 48), (48, 36), (32, 48)])
def test_resizing_agrees_with_pillow_within_a_grey_level(stored, side):
    image = pixels(1, 1, stored, stored)
    resized = Image.fromarray(image[0, 0].numpy()).resize((side, side), Image.Resampling.BILINEAR)
    result = 255 * Preprocess("dataset", side, [0.5], [0.25]).resize(image)[0, 0]
    assert np.abs(result.numpy() - np.asarray(resized, dtype=np.float32)).max() <= 1.01


def test_oblong_images_become_square():
    assert Preprocess("dataset", 48, [0.5], [0.25])(pixels(2, 1, 60, 30)).shape == (2, 1, 48, 48)


def test_images_of_the_right_size_are_only_scaled():
    images = pixels(2, 1, 48, 48)
    assert torch.equal(
        Preprocess("dataset", 48, [0.5], [0.25]).resize(images), images.float() / 255
    )


def test_nothing_is_saved_with_the_weights():
    assert Preprocess("dataset", 48, [0.5], [0.25]).state_dict() == {}


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    factor=st.floats(0.5, 1),
    offset=st.floats(-0.2, 0.2),
    side=st.integers(16, 48),  # smaller ones may reach the floor of the divisor
)
def test_per_image_normalization_undoes_brightness_and_contrast(seed, factor, offset, side):
    preprocess = Preprocess("per_image", side, [0.5], [0.25])
    x = pixels(3, 1, side, side, seed=seed) / 255
    torch.testing.assert_close(
        preprocess.standardize(factor * x + offset), preprocess.standardize(x), atol=1e-4, rtol=0
    )
