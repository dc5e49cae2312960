"""A Ray of many nodes on this machine, each as light as Ray lets it be."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUIET = {
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # each node would watch the same memory
    "RAY_prestart_worker_first_driver": "0",
    "RAY_task_events_report_interval_ms": "0",
    # A hundred processes start on few cores: slow is not dead.
    "RAY_health_check_timeout_ms": "60000",
    "RAY_worker_register_timeout_seconds": "600",
}
IDLE = 'sh -c "while kill -0 $PPID; do sleep 20; done"'
"""In place of a node's two agents, of a hundred MB and some seconds of a core each."""


@contextmanager
def fake_nodes(count: int, cpus: int) -> Iterator[str]:
    """Address of a Ray of a head without CPUs and ``count`` nodes with ``cpus`` each, which have
    no agents: no metrics, no jobs, and the head's makes their processes' environments."""
    # Its ports are open to the network, so they want a token; and nobody else on this machine is
    # to find and join it. Ray reads both while it is imported.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), **QUIET)
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="rs-")
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": 80_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**common, "num_cpus": 0, "include_dashboard": False},
    )
    _leave_out_agents(cluster.head_node.runtime_env_agent_port)
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=cpus, wait=False, **common)
        cluster.wait_for_nodes(timeout=600)
        yield cluster.address
    finally:
        for node in list(cluster.worker_nodes):  # one by one, with patience, takes minutes
            node.kill_all_processes(check_alive=False)
        cluster.shutdown()
        shutil.rmtree(os.environ.pop("RAY_TMPDIR"), ignore_errors=True)


def _leave_out_agents(environments: int) -> None:
    """From now on; ``environments`` is the port of an agent that is there."""
    from ray import _raylet
    from ray._private import services

    start = services.start_ray_process
    ports = {  # that a node's agents tell it; -1 is said by those that do not listen
        _raylet.RUNTIME_ENV_AGENT_PORT_NAME: environments,
        _raylet.METRICS_AGENT_PORT_NAME: -1,
        _raylet.METRICS_EXPORT_PORT_NAME: -1,
        _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME: -1,
    }

    def start_without(command: list[str], *args: Any, **options: Any) -> Any:
        given = dict(part.partition("=")[::2] for part in command)
        agents = ("--dashboard_agent_command", "--runtime_env_agent_command")
        if given.keys() >= set(agents):
            for name, port in ports.items():
                _raylet.persist_port(given["--session_dir"], given["--node_id"], name, port)
            kept = [part for part in command if part.partition("=")[0] not in agents]
            command = [*kept, *(f"{agent}={IDLE}" for agent in agents)]
        return start(command, *args, **options)

    services.start_ray_process = start_without
