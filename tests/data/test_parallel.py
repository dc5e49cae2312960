import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch.data.parallel import in_order, in_processes
from raysearch.errors import DataError


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(), max_size=40))
def test_processes_and_threads_map_like_map(items):
    expected = [str(item) * 3 for item in items]
    assert list(in_processes(lambda item: str(item) * 3, items)) == expected
    assert list(in_order(lambda item: str(item) * 3, items)) == expected


def test_results_larger_than_a_pipe_arrive_whole():
    results = in_processes(lambda size: b"x" * size, [3 * 2**20, 1, 2**21])
    assert [len(result) for result in results] == [3 * 2**20, 1, 2**21]


def test_error_of_a_process_is_raised_after_the_results_before_it():
    def invert(item):
        return 1 / item

    results = in_processes(invert, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_killed_process_is_told_in_words():
    def die(item):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match="was killed"):
        list(in_processes(die, range(4)))


def test_no_process_is_left_where_results_are_not_wanted_any_more():
    results = in_processes(lambda item: (os.getpid(), bytes(2**22)), range(100))
    pids = {next(results)[0] for _ in range(2)}
    results.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


ORPHANS = """
import os, signal, sys
from raysearch.data.parallel import in_processes

results = in_processes(lambda item: (os.getpid(), bytes(2**22)), range(1000))
print(*{next(results)[0] for _ in range(2)}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_parent_that_is_killed():
    killed = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    # Their output ends when the last process that could write to it is gone.
    pids, _ = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert pids.split()
