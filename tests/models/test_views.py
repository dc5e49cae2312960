"""Views of an image: whole pixels moved, mirrored, and each kind within the next."""

import numpy as np
import pytest
import torch

from raysearch.models.views import MIRRORED, PLAIN, SHIFTED, VIEWS, views_of


def moved(image_SS: np.ndarray, right: int, down: int) -> np.ndarray:
    side = len(image_SS)
    padded = np.pad(image_SS, side - 1, mode="reflect")
    top, left = side - 1 - down, side - 1 - right
    return padded[top : top + side, left : left + side]


@pytest.mark.parametrize(("side", "by"), [(48, 2), (40, 2), (16, 1), (8, 1), (96, 4)])
def test_shifts_are_a_24th_of_the_side_each_followed_by_its_mirror_image(side, by):
    image = np.random.default_rng(0).random((side, side), np.float32)
    seen = views_of(torch.from_numpy(image)[None, None], SHIFTED)
    places = [(0, 0), (by, 0), (-by, 0), (0, by), (0, -by)]
    expected = [
        v for place in places for v in (moved(image, *place), moved(image, *place)[:, ::-1])
    ]
    assert len(seen) == SHIFTED == len(expected)
    for view, want in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(view[0, 0].numpy(), want)


def test_each_kind_begins_with_the_smaller_one_and_the_image_itself():
    x = torch.rand(3, 1, 24, 24)
    most = views_of(x, SHIFTED)
    assert VIEWS == (PLAIN, MIRRORED, SHIFTED)
    for views in VIEWS:
        seen = views_of(x, views)
        assert len(seen) == views
        assert all(torch.equal(a, b) for a, b in zip(seen, most, strict=False))
    assert torch.equal(most[0], x) and torch.equal(most[1], x.flip(3))
