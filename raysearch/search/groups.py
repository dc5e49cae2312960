"""Placement groups of Ray Train's workers, which hold their CPUs and GPUs.

A group outlives a controller that was killed. Ray has a process for each run that watches the
controller and then removes the group, but it asks the dashboard, and where none runs the group
stays for ever. So the search sees to its groups itself, and does without those processes.
"""

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.util.placement_group import PlacementGroup

PREFIX = "raysearch/groups"


def announce(trial_id: str, group: PlacementGroup) -> None:
    """Keep in Ray's head that the workers of ``trial_id`` run in ``group``."""
    _internal_kv_put(_key(trial_id), group.id.hex())


def free(trial_id: str) -> None:
    """Remove the group that was announced last for ``trial_id``, and what still runs in it."""
    found = _internal_kv_get(_key(trial_id))
    if found:
        _remove(found.decode())
        _internal_kv_del(_key(trial_id))


def free_all() -> None:
    """Remove every group that was made by this driver or what it started."""
    job = ray.get_runtime_context().get_job_id()
    for group, about in ray.util.placement_group_table().items():
        if group.endswith(job) and about["state"] != "REMOVED":
            _remove(group)
    _internal_kv_del(_key(""), del_by_prefix=True)


def _key(trial_id: str) -> str:
    return f"{PREFIX}/{ray.get_runtime_context().get_job_id()}/{trial_id}"


def _remove(group: str) -> None:
    ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
