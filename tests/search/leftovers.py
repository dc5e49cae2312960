"""What no search may leave behind in a Ray that goes on: processes, placement groups, CPUs."""

import os
import time
from pathlib import Path

import ray

IDLE = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinator")
"""What Ray has for itself, one each for as long as it runs."""


def left_over(seconds: float = 20) -> list[str]:
    """What is still there after ``seconds``, in words; returns as soon as nothing is."""
    limit = time.monotonic() + seconds
    while (found := _found()) and time.monotonic() < limit:
        time.sleep(0.2)
    return found


def _found() -> list[str]:
    used = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0)
    groups = ray.util.placement_group_table().values()
    return [
        *([f"{used:g} CPUs in use"] if used else []),
        *(f"group {g['placement_group_id']}" for g in groups if g["state"] != "REMOVED"),
        *(f"process {pid}: {title}" for pid, title in ray_processes().items()),
    ]


def ray_processes() -> dict[int, str]:
    """Process number to title of what Ray has at work for this process: actors and tasks."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            title = (folder / "cmdline").read_text().strip("\0 ")
        except OSError:
            continue
        if stat[0] != "Z":
            parents[int(folder.name)], titles[int(folder.name)] = int(stat[1]), title
    return {
        pid: title
        for pid, title in titles.items()
        if title.startswith("ray::") and not title.startswith(IDLE) and _is_ours(pid, parents)
    }


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != os.getpid():
        pid = parents[pid]
    return pid == os.getpid()
