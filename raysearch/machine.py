"""What of this machine is ours to use."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Cores that this process may run on, or fewer where its container has a smaller quota of
    CPU time (`docker run --cpus`, a pod's limit), in whole cores and at least one."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cpu_quota(cgroups)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _cpu_quota(cgroups: Path) -> float | None:
    """CPU seconds a second; None where there is no limit."""
    try:  # cgroups of version 2, then 1
        text = (cgroups / "cpu.max").read_text(encoding="ascii").split()
    except OSError:
        try:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            text = [(cgroups / "cpu" / name).read_text(encoding="ascii") for name in names]
        except OSError:
            return None
    try:
        quota, period = map(int, text)
    except ValueError:  # "max"
        return None
    return quota / period if quota > 0 and period > 0 else None
