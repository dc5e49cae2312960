"""What a search can use: this machine, or the cluster that it joins, as it is and may become."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raysearch.machine import usable_cores
from raysearch.search.cluster import ray_cluster, running_address

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where ``ray up`` leaves its configuration on a cluster's head."""
JOIN_SECONDS = 60.0
"""For how long machines that ``ray up`` has started are waited for."""


@dataclass(frozen=True)
class Machine:
    """What one machine gives to trials."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Capacity:
    """``machines`` that trials can run on; the first ``present`` of them are there, the others
    are what the autoscaler may start. ``address`` is that of a cluster to join, "" for none."""

    machines: tuple[Machine, ...]
    present: int
    address: str = ""

    @property
    def cpus(self) -> float:
        return sum(machine.cpus for machine in self.machines)

    @property
    def gpus(self) -> float:
        return sum(machine.gpus for machine in self.machines)

    def __str__(self) -> str:
        words = f"the Ray cluster at {self.address}: {_amount(self.machines[: self.present])}"
        if self.present < len(self.machines):
            words += f"; its autoscaler may start {_amount(self.machines[self.present :])} more"
        return words


def local_resources() -> tuple[float, float]:
    """(CPUs, GPUs) of this machine."""
    import torch

    return float(usable_cores()), float(torch.cuda.device_count())


def find_capacity(say: Callable[[str], None] = lambda line: None) -> Capacity:
    """Of the cluster that `running_address` names, or else of this machine.

    Machines that ``ray up`` has started are waited for a little; ``say`` gets a line about it.
    Raises `RunError` where the cluster cannot be joined.
    """
    address = running_address()
    if address is None:
        return Capacity((Machine(*local_resources()),), 1)
    with ray_cluster(1, address):
        types = node_types(read_bootstrap())
        expected = sum(least for _, least, _ in types)
        head, workers = _alive()
        if len(workers) < expected:
            say(f"waiting for {expected - len(workers)} of {expected} machines to join")
            end = time.monotonic() + JOIN_SECONDS
            while len(workers) < expected and time.monotonic() < end:
                time.sleep(1)
                head, workers = _alive()
    here = [machine for machine in (*workers, *head) if machine.cpus >= 1]
    return Capacity((*here, *missing(types, workers)), len(here), address)


def read_bootstrap(path: Path = BOOTSTRAP) -> dict[str, Any]:
    """What ``ray up`` was given, on the head; ``{}`` elsewhere."""
    try:
        return yaml.safe_load(path.expanduser().read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return {}


def node_types(config: dict[str, Any]) -> list[tuple[Machine | None, int, int]]:
    """(resources of one, fewest, most) for each type of worker in a cluster's configuration, those
    with GPUs first; None where only the machine itself can tell its resources."""
    types = []
    cap = int(config.get("max_workers") or 0)
    for name, one in (config.get("available_node_types") or {}).items():
        local = config.get("provider", {}).get("type") == "local"
        if name == config.get("head_node_type") and not local:
            continue
        resources = one.get("resources") or {}
        machine = None
        if "CPU" in resources:
            machine = Machine(float(resources["CPU"]), float(resources.get("GPU", 0)))
        most = min(int(one.get("max_workers") or cap), cap)
        types.append((machine, int(one.get("min_workers") or 0), most))
    types.sort(key=lambda entry: -(entry[0].gpus if entry[0] else 0))
    bounded = []
    for machine, least, most in types:
        most = min(most, cap)
        cap -= most
        bounded.append((machine, least, most))
    return bounded


def missing(
    types: list[tuple[Machine | None, int, int]], workers: Sequence[Machine]
) -> tuple[Machine, ...]:
    """The machines that may still come beside ``workers``, of those that ``types`` allow; one of
    unknown resources is taken to be like the first that is there."""
    there = list(workers)
    coming = []
    for machine, _, most in types:
        kind = machine or (workers[0] if workers else None)
        if kind is None:
            continue
        for _ in range(most):
            if kind in there:
                there.remove(kind)
            else:
                coming.append(kind)
    return tuple(coming)


def _alive() -> tuple[list[Machine], list[Machine]]:
    """The head, and the workers, those with GPUs first."""
    import ray

    head, workers = [], []
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"]:
            machine = Machine(resources.get("CPU", 0.0), resources.get("GPU", 0.0))
            (head if "node:__internal_head__" in resources else workers).append(machine)
    return head, sorted(workers, key=lambda machine: (-machine.gpus, -machine.cpus))


def _amount(machines: Sequence[Machine]) -> str:
    cpus, gpus = sum(m.cpus for m in machines), sum(m.gpus for m in machines)
    plural = "" if len(machines) == 1 else "s"
    return f"{len(machines)} machine{plural}, {cpus:g} CPUs, {gpus:g} GPUs"
