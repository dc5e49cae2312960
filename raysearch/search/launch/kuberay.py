"""Manifests for KubeRay: recognised, looked over, and left to kubectl."""

from collections.abc import Iterator
from typing import Any

from raysearch.search.launch.clusterfile import ClusterFile, Path
from raysearch.search.launch.faults import Fault


def usage(file: ClusterFile) -> str:
    """How such a manifest is used."""
    kind, name = file.get("kind", default="?"), file.get("metadata", "name", default="NAME")
    logs = f"kubectl logs -f job/{name}" if kind == "RayJob" else f"kubectl get raycluster {name}"
    return (
        f"a {kind} for KubeRay, which kubectl uses: kubectl apply -f {file.path}; {logs}; "
        f"kubectl delete -f {file.path}"
    )


def check_kuberay(file: ClusterFile) -> Iterator[Fault]:
    spec: Path = ("spec", "rayClusterSpec") if file.get("kind") == "RayJob" else ("spec",)
    if file.get(*spec, "authOptions", "mode") != "token":
        yield Fault(
            spec,
            "whoever reaches a pod could run commands there. Add `authOptions: {mode: token}`.",
        )
    for group in _groups(file, spec):
        limits = _limits(file, group)
        if limits and not any("cpu" in limit or "nvidia.com/gpu" in limit for limit in limits):
            yield Fault(group, "no trial fits: its containers have neither CPUs nor GPUs.")
        replicas = file.get(*group, "maxReplicas")
        if not replicas:
            yield Fault(group, "has no workers: `maxReplicas` must be the most that may run.")
    if not _groups(file, spec):
        yield Fault(spec, "has no `workerGroupSpecs`, so no workers for trials.")


def _groups(file: ClusterFile, spec: Path) -> list[Path]:
    path = (*spec, "workerGroupSpecs")
    return [(*path, number) for number in range(len(file.items(*path)))]


def _limits(file: ClusterFile, group: Path) -> list[dict[str, Any]]:
    path = (*group, "template", "spec", "containers")
    containers = range(len(file.items(*path)))
    found = [file.mapping(*path, number, "resources", "limits") for number in containers]
    return [limits for limits in found if limits]
