"""Compiled loops against NumPy's, and where numba has no OpenMP."""

import os
import subprocess
import sys

import numpy as np

from raysearch.ensemble import kernels

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


def test_margins_and_their_bounds_equal_numpys(rng):
    """For more candidates, samples and rivals than one block holds."""
    probs_NVK = rng.dirichlet(np.ones(3), (300, 520)).astype(np.float32)
    labels_V = rng.integers(0, 3, 520)
    fixed_NVK = np.rint(probs_NVK.astype(np.float64) * kernels.UNIT).astype(int)
    truth_NV = np.take_along_axis(fixed_NVK, labels_V[None, :, None], axis=2)
    lead_NX = (truth_NV - fixed_NVK).reshape(300, -1)

    low_VK, high_VK = kernels.margin_bounds(probs_NVK, labels_V)
    np.testing.assert_array_equal(low_VK.ravel(), lead_NX.min(axis=0))
    np.testing.assert_array_equal(high_VK.ravel(), lead_NX.max(axis=0))

    rival_P = np.flatnonzero(rng.random(lead_NX.shape[1]) < 0.3)
    truth_P = rival_P // 3 * 3 + labels_V[rival_P // 3]
    margins_PN = kernels.gather_margins(
        probs_NVK.reshape(300, -1), truth_P.astype(np.uintp), rival_P.astype(np.uintp)
    )
    np.testing.assert_array_equal(margins_PN, lead_NX[:, rival_P].T)
