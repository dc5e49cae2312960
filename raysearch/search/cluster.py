"""Ray itself: quiet, on this machine or in the cluster that runs here or that RAY_ADDRESS names."""

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raysearch.errors import RunError
from raysearch.machine import usable_cores

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A process for every run, and none is needed to go on elsewhere from a trial's folder.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # The study is what a search is resumed from; Tune's own snapshots of all trials are not read,
    # and would take a twentieth of the driver's time.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # A busy machine is slow, not broken: how long is waited for a node, and by it for its agents.
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_agent_register_timeout_ms": "120000",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    # How long a process that is used again waits for its last trial to let go: one that is too
    # slow for Tune is an error that Tune tells nobody about.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}
PROBE_SECONDS = 2.0


def running_address() -> str | None:
    """Address of the cluster to join: RAY_ADDRESS (``local`` means none), else of the Ray that
    this user's ``ray start`` or ``ray up`` started on this machine and that still answers."""
    given = os.environ.get("RAY_ADDRESS")
    if given:
        return None if given == "local" else given
    # Read without Ray, which settles how it authenticates while it is imported.
    written = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        if written.stat().st_uid != os.getuid():
            return None
        address = written.read_text(encoding="ascii").strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), PROBE_SECONDS).close()
    except (OSError, ValueError):
        return None
    return address


@contextmanager
def ray_cluster(threads: int, address: str | None = None) -> Iterator[dict[str, float]]:
    """Join the cluster at ``address``, or start one on this machine's loopback interface, and
    leave or stop it at the end; yield its resources, e.g. ``{"CPU": 2.0, "GPU": 1.0}``.

    A cluster of our own is closed to other users of the machine by a token made for this run
    (or Ray's own, in the user's home, where Ray was imported before).
    Raises `RunError` where Ray does not start, or the cluster cannot be joined.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    _choose_authentication(own=not address)
    import ray

    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": _import_path()}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        options |= {"address": address, "runtime_env": {"env_vars": environment}}
    else:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": usable_cores(),  # as the plan counts them
            "object_store_memory": 200_000_000,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        # Processes of our own Ray inherit it: those that wait for work from the start can be used.
        with inherited({} if address else environment):
            ray.init(**options)
    except Exception as error:  # timeouts, refusals and version conflicts have no common class
        ray.shutdown()
        raise RunError(_no_ray(address, error)) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextmanager
def inherited(variables: dict[str, str]) -> Iterator[None]:
    """Processes that are started within have ``variables`` in their environment."""
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


def _choose_authentication(own: bool) -> None:
    """Ray reads how to authenticate while it is imported: later it is too late to choose."""
    if "RAY_AUTH_MODE" in os.environ or "ray" in sys.modules:
        return
    if own:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    elif (Path.home() / ".ray" / "auth_token").exists():
        # A head that finds this file asks for it, and one that does not takes it.
        os.environ["RAY_AUTH_MODE"] = "token"


def _no_ray(address: str | None, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if address:
        return (
            f"The Ray cluster at {address} cannot be joined: {type(error).__name__}: {reason} "
            "See whether `ray status` works here; RAY_ADDRESS=local searches on this machine alone."
        )
    return (
        f"Ray did not start on this machine: {type(error).__name__}: {reason} Where the machine "
        "is busy, try again when it is less so; `raysearch doctor` looks for other causes."
    )


def _import_path() -> str:
    """Workers import the same raysearch as the driver, installed or not; where a machine of a
    cluster does not have this folder, its own."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
