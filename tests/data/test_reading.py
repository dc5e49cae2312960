"""`ImageStack` against the same images in one array, and work ahead of its use."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.data.parallel import in_order
from raysearch.data.reading import ImageStack

SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


@given(SIZES, st.integers(0, 99), st.data())
def test_stack_indexes_as_the_joined_array(sizes, seed, data):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 256, (size, 2, 3, 3), dtype=np.uint8) for size in sizes]
    joined = np.concatenate(parts)
    rows_N = rng.permutation(len(joined))[: data.draw(st.integers(1, len(joined)))]
    for stack, array in (
        (ImageStack(parts), joined),
        (ImageStack(parts, rows_N), joined[rows_N]),
        (ImageStack([ImageStack(parts, rows_N), parts[0]]), [*joined[rows_N], *parts[0]]),
    ):
        array = np.array(array)
        assert (stack.shape, len(stack), stack.dtype) == (array.shape, len(array), np.uint8)
        np.testing.assert_array_equal(np.asarray(stack), array)
        chosen = data.draw(st.lists(st.integers(-len(array), len(array) - 1), max_size=9))
        mask = rng.random(len(array)) < 0.5
        step = data.draw(st.integers(1, 3))
        for rows in (np.array(chosen, int), mask, slice(1, 7), slice(step, None, step)):
            np.testing.assert_array_equal(stack[rows], array[rows])
        for row in chosen:
            np.testing.assert_array_equal(stack[row], array[row])


def test_row_that_is_not_there_is_an_error():
    with pytest.raises(IndexError):
        ImageStack([np.zeros((3, 1, 2, 2), np.uint8)] * 2)[np.array([6])]


def test_results_come_in_order_and_only_so_much_is_read_ahead():
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    for position, result in enumerate(in_order(lambda number: -number, items(), workers=1)):
        assert result == -position
        assert len(taken) <= position + 3
    assert len(taken) == 20


def test_fault_in_a_thread_is_raised_where_its_result_is_due():
    def fail(number):
        if number == 3:
            raise ValueError("row 3")
        return number

    before, seen = threading.active_count(), []
    with pytest.raises(ValueError, match="row 3"):
        for number in in_order(fail, range(9), workers=1):
            seen.append(number)
    assert seen == [0, 1, 2]
    assert threading.active_count() == before
