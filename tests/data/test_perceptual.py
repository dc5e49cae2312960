import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raysearch.data.perceptual import components, dhash, near_pairs


@pytest.mark.parametrize("shape", [(1, 48, 48), (3, 30, 50), (1, 9, 8)])
def test_dhash_agrees_with_imagehash(rng, shape):
    images = rng.integers(0, 256, (50, *shape), dtype=np.uint8)
    for image, value in zip(images, dhash(images), strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        assert str(imagehash.dhash(picture)) == f"{value:016x}"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), distance=st.integers(0, 3), flips=st.integers(0, 6))
def test_near_pairs_agree_with_comparing_all(seed, distance, flips):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 12, dtype=np.uint64)
    near = base.copy()
    for _ in range(flips):
        near ^= np.uint64(1) << rng.integers(0, 64, 12, dtype=np.uint64)
    hashes = np.unique(np.concatenate([base, near, base ^ np.uint64(1)]))
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    first, second = np.nonzero(np.triu(apart <= distance, 1))
    assert near_pairs(hashes, distance).tolist() == np.stack([first, second], 1).tolist()


def test_no_hashes_have_no_pairs():
    assert near_pairs(np.empty(0, np.uint64)).shape == (0, 2)


def test_larger_distance_than_the_bands_guarantee_is_refused():
    with pytest.raises(ValueError, match="0 to 3"):
        near_pairs(np.zeros(1, np.uint64), 4)


def test_components_are_named_by_their_smallest_member():
    assert components(6, np.array([[4, 5], [1, 4], [0, 2]])).tolist() == [0, 1, 0, 3, 1, 1]
