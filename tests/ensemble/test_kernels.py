"""Compiled loops where numba has no OpenMP."""

import os
import subprocess
import sys

TWO_THREADS = """
import threading
import numpy as np
from raysearch.ensemble.calibration import calibrate, fit_temperatures
rng = np.random.default_rng(0)
probs = rng.dirichlet(np.ones(4), (40, 500)).astype(np.float32)
labels = rng.integers(0, 4, 500)
expected = fit_temperatures(probs, labels)
wrong = []

def work():
    for _ in range(100):
        if not np.array_equal(fit_temperatures(probs, labels), expected):
            wrong.append(1)
        calibrate(probs, expected)

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("right" if not wrong else "wrong")
"""


def test_two_python_threads_may_select_where_numba_has_its_simplest_pool_alone():
    """Retention and the live ensemble do. Without a lock, numba ends the process."""
    variables = {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "right\n", done.stderr
