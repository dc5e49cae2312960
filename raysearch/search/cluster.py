"""Ray itself: quiet, on this machine or in the cluster that RAY_ADDRESS names."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_raylet_start_wait_time_s": "180",  # a busy machine is slow, not broken
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    # How long a process that is used again waits for its last trial to let go: one that is too
    # slow for Tune is an error that Tune tells nobody about.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}


@contextmanager
def ray_cluster(threads: int) -> Iterator[dict[str, float]]:
    """Join the cluster of RAY_ADDRESS, or start one on this machine's loopback interface and
    stop it at the end; yield its resources, e.g. ``{"CPU": 2.0, "GPU": 1.0}``.

    A cluster of our own is closed to other users of the machine by a token made for this run
    (or Ray's own, in the user's home, where Ray was imported before).
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    # Ray reads how to authenticate while it is imported: later it is too late to choose.
    if not address and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": _import_path()}
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": environment},
    }
    if not address:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": 200_000_000,
            "_node_ip_address": "127.0.0.1",
        }
    ray.init(**options)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _import_path() -> str:
    """Workers import the same raysearch as the driver, installed or not."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
