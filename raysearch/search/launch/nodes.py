"""What each provider takes, beyond Ray's schema, which leaves its options open."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raysearch.errors import did_you_mean
from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.faults import Fault
from raysearch.search.launch.nodes_aws import check_aws_node, gpus_of_instance

EVERYWHERE = (
    "type",
    "use_internal_ips",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
    "worker_rpc_drain",
)
PROVIDER_KEYS = {
    "aws": (
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "security_group",
        "key_pair",
        "aws_credentials",
        "cloudwatch",
    ),
    "gcp": ("region", "availability_zone", "project_id", "gcp_credentials"),
    "local": (
        "head_ip",
        "worker_ips",
        "coordinator_address",
        "external_head_ip",
        "use_external_head_ip",
    ),
}
"""Keys of ``provider`` that Ray 2.60 reads."""
REQUIRED = {"aws": ("region",), "gcp": ("region", "availability_zone", "project_id")}
GCP_NODE_KEYS = (
    "machineType disks networkInterfaces scheduling metadata labels tags guestAccelerators "
    "serviceAccounts minCpuPlatform canIpForward description hostname name shieldedInstanceConfig "
    "confidentialInstanceConfig reservationAffinity resourcePolicies deletionProtection "
    "displayDevice advancedMachineFeatures networkPerformanceConfig params sourceMachineImage "
    "acceleratorType acceleratorConfig runtimeVersion networkConfig schedulingConfig dataDisks"
).split()
"""Fields of Compute Engine's instances and of TPU nodes."""
MARKET_KEYS = ("preemptible", "provisioningModel", "onHostMaintenance", "automaticRestart")


@dataclass(frozen=True)
class NodeType:
    """What one node of a type offers to trials; ``count``: how many there may be."""

    name: str
    cpus: float
    gpus: float
    count: int


def node_types(file: ClusterFile) -> list[NodeType]:
    """The file's node types, heads too; unknown CPUs count as one."""
    found = []
    for name, kind in file.node_types.items():
        given = file.mapping("available_node_types", name, "resources")
        config = file.mapping("available_node_types", name, "node_config")
        gpus = given.get("GPU", gpus_of_instance(config) if file.provider == "aws" else 0)
        most = _number(kind.get("max_workers", file.max_workers))
        count = 1 if name == file.get("head_node_type") else int(min(most, file.max_workers))
        found.append(NodeType(str(name), _number(given.get("CPU", 1)), _number(gpus), count))
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def check_provider(file: ClusterFile) -> Iterator[Fault]:
    kind = file.provider
    if kind not in PROVIDER_KEYS:
        return
    known = (*EVERYWHERE, *PROVIDER_KEYS[kind])
    for key in file.mapping("provider"):
        if key not in known:
            hint = did_you_mean(str(key), known)
            yield Fault(("provider", key), f"provider {kind} has no option {key!r}{hint}.")
    for key in REQUIRED.get(kind, ()):
        if not file.get("provider", key):
            yield Fault(("provider",), f"provider {kind} needs {key!r}.")
    yield from {"aws": _aws, "gcp": _gcp, "local": _local}[kind](file)


def _aws(file: ClusterFile) -> Iterator[Fault]:
    region, zones = file.get("provider", "region"), file.get("provider", "availability_zone")
    for zone in str(zones or "").split(","):
        if region and zone.strip() and not re.fullmatch(rf"{region}[a-z]", zone.strip()):
            yield Fault(
                ("provider", "availability_zone"),
                f"{zone.strip()!r} is no zone of {region}; one is {region}a.",
            )
    for name, config in file.node_configs.items():
        for path, message in check_aws_node(config):
            yield Fault(("available_node_types", name, "node_config", *path), message)


def _gcp(file: ClusterFile) -> Iterator[Fault]:
    for name, config in file.node_configs.items():
        path = ("available_node_types", name, "node_config")
        for key in config:
            if key not in GCP_NODE_KEYS:
                hint = did_you_mean(str(key), GCP_NODE_KEYS)
                yield Fault((*path, key), f"Compute Engine knows no such field{hint}.")
        has_gpus = config.get("guestAccelerators") or re.match(
            r"(g2|a2|a3|a4|g4)-", str(config.get("machineType", "")).rpartition("/")[2]
        )
        if not has_gpus:
            continue
        if not file.get("available_node_types", name, "resources", "GPU"):
            yield Fault(
                ("available_node_types", name),
                "has GPUs that Ray is not told of: Google does not say. Add `resources: {GPU: 1}`.",
            )
        if "TERMINATE" not in str(config.get("scheduling")):
            yield Fault(
                path,
                "a machine with GPUs cannot be moved: add `onHostMaintenance: TERMINATE` under "
                "`scheduling`.",
            )


def _local(file: ClusterFile) -> Iterator[Fault]:
    if not file.get("provider", "coordinator_address"):
        for key in ("head_ip", "worker_ips"):
            if file.get("provider", key) is None:
                yield Fault(("provider",), f"provider local needs {key!r}.")
    for key in ("available_node_types", "head_node_type"):
        if file.get(key):
            yield Fault((key,), "provider local has no node types: it takes machines as they are.")
    enabled = any(
        re.search(r"RAY_enable_autoscaler_v2=(0|false)", command)
        for _, command in file.commands("head_start_ray_commands")
    )
    if file.max_workers and not enabled:
        yield Fault(
            ("head_start_ray_commands",),
            "with provider local, Ray's autoscaler v2 starts one worker too few. Put `export "
            "RAY_enable_autoscaler_v2=0;` before `ray start --head`.",
        )
