import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch.data.splits import cut


def unique_digests(count: int) -> np.ndarray:
    digests = np.zeros((count, 16), np.uint8)
    digests[:, :8] = np.arange(count, dtype=np.int64).view(np.uint8).reshape(count, 8)
    return digests


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=5),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 99),
)
def test_each_class_gives_its_share_and_keeps_some(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    moved = cut(labels, unique_digests(len(labels)), share, np.random.default_rng(seed))
    for label, count in enumerate(counts):
        expected = min(max(1, round(share * count)), count - 1)
        assert moved[labels == label].sum() == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), groups=st.integers(2, 20), twins=st.integers(1, 4))
def test_exact_twins_are_never_separated(seed, groups, twins):
    digests = np.repeat(unique_digests(groups), twins, axis=0)
    labels = np.zeros(len(digests), dtype=np.int64)
    moved = cut(labels, digests, 0.3, np.random.default_rng(seed))
    assert (moved.reshape(groups, twins).all(1) | ~moved.reshape(groups, twins).any(1)).all()
    assert 0 < moved.sum() < len(moved)


def test_equal_seeds_cut_equally():
    labels = np.arange(200) % 4
    digests = unique_digests(200)
    first, again, other = (cut(labels, digests, 0.1, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
