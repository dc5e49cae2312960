"""What is wrong with a cluster file, found offline: no credentials, no network, nothing started."""

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysearch.errors import ConfigError, did_you_mean
from raysearch.search.launch import nodes
from raysearch.search.launch.clusterfile import ClusterFile, load_cluster_file
from raysearch.search.launch.clusterfile import Path as KeyPath
from raysearch.search.launch.faults import Fault
from raysearch.search.launch.handout import is_made_here
from raysearch.search.launch.kuberay import check_kuberay
from raysearch.search.launch.security import check_security
from raysearch.search.launch.sharing import check_storage
from raysearch.search.launch.versions import check_versions

PLACEHOLDER = "REPLACE_ME"


@dataclass(frozen=True)
class Demand:
    """What a search needs. ``gpus``: of one trial, None for as many as there are. ``storage``:
    where its runs shall lie, None for where the file says."""

    gpus: float | None = None
    workers: int = 1
    storage: str | None = None


def check(file: ClusterFile, demand: Demand | None = None) -> list[Fault]:
    """Every fault of ``file``, in the order of its lines."""
    demand = demand or Demand()
    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)  # it tells of each default
    if file.is_kuberay:
        found = [*_placeholders(file), *check_kuberay(file)]
    else:
        found = list(_schema(file))
        if not found:
            found += _prepared(file)
            found += _resources(file, demand)
        found += _placeholders(file)
        found += _files(file)
        found += check_security(file)
        found += check_versions(file)
        found += check_storage(file, demand.storage)
        found += nodes.check_provider(file)
    faults = list({(fault.path, fault.message): fault for fault in found}.values())
    return sorted(faults, key=lambda fault: file.line(fault.path))


def load_checked(path: Path | str, demand: Demand | None = None) -> ClusterFile:
    """The file ``path``; raises `ConfigError` that names every fault, one a line."""
    file = load_cluster_file(path)
    faults = check(file, demand)
    if faults:
        raise ConfigError("\n".join(fault.text(file) for fault in faults))
    return file


def _schema(file: ClusterFile) -> Iterator[Fault]:
    import jsonschema
    import ray.autoscaler

    text = (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()
    validator = jsonschema.Draft7Validator(json.loads(text))
    for error in validator.iter_errors(file.values):
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in sorted(set(error.instance) - set(known), key=str):
                yield Fault((*path, key), f"Ray knows no such key{did_you_mean(str(key), known)}.")
        elif error.validator == "required":
            for key in sorted(set(error.validator_value) - set(error.instance)):
                yield Fault(path, f"the key {key!r} is missing.")
        else:
            yield Fault(path, f"{error.message}.")


def _prepared(file: ClusterFile) -> list[Fault]:
    """What Ray itself says when it fills a file's defaults in, about what fits the schema."""
    from ray.autoscaler._private.providers import _NODE_PROVIDERS
    from ray.autoscaler._private.util import prepare_config, validate_config

    if file.provider not in _NODE_PROVIDERS:
        hint = did_you_mean(file.provider, _NODE_PROVIDERS)
        return [Fault(("provider", "type"), f"Ray knows no provider {file.provider!r}{hint}.")]
    if file.provider == "local":
        return []  # nodes.check_provider says it better
    try:
        full = prepare_config(copy.deepcopy(file.values))
        for kind in full.get("available_node_types", {}).values():
            kind.setdefault("resources", {})  # AWS fills these in from EC2
        validate_config(full)
    except SystemExit:
        return [Fault((), "Ray refuses this file; `ray up` says why.")]
    except Exception as error:
        path, message = _ray_message(error)
        return [Fault(path, f"Ray refuses this file: {message}")]
    return []


def _ray_message(error: Exception) -> tuple[KeyPath, str]:
    path = tuple(getattr(error, "absolute_path", ()))
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    for key in ("head_node_type", "max_workers"):
        if not path and f"`{key}`" in message:
            path = (key,)
    return path, message.splitlines()[0].rstrip(".") + "."


def _placeholders(file: ClusterFile) -> list[Fault]:
    """One fault a line: an alias repeats what its anchor says."""
    found: dict[int, Fault] = {}
    for path, value in _scalars(file.values):
        if PLACEHOLDER in str(value):
            message = f"{PLACEHOLDER} is left in: {value!r}. Write your own there."
            found.setdefault(file.marks[path][1], Fault(path, message))
    return list(found.values())


def _scalars(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _scalars(item, (*path, number))
    else:
        yield path, value


def _files(file: ClusterFile) -> Iterator[Fault]:
    for remote, local in file.mounts.items():
        if not is_made_here(local) and not Path(local).expanduser().exists():
            yield Fault(
                ("file_mounts", remote),
                f"{local} is not on this machine (a relative path starts at {Path.cwd()}).",
            )
    for key in ("ssh_private_key", "ssh_public_key"):
        name = file.get("auth", key)
        if isinstance(name, str) and not Path(name).expanduser().is_file():
            yield Fault(("auth", key), f"{name} is not on this machine.")


def _resources(file: ClusterFile, demand: Demand) -> Iterator[Fault]:
    """Machines of one's own say what they have only once Ray runs there."""
    kinds = nodes.node_types(file)
    if file.provider == "local" or not kinds:
        return
    path: KeyPath = ("available_node_types",)
    if not any(kind.count and (kind.cpus or kind.gpus) for kind in kinds):
        yield Fault(path, "no trial fits: no node has a CPU or a GPU for trials.")
        return
    gpus = sum(kind.gpus * kind.count for kind in kinds)
    if demand.gpus and not gpus:
        yield Fault(
            path,
            f"no trial fits: --gpus-per-trial {demand.gpus:g}, but no node type has a GPU. Give "
            "`resources: {GPU: 1}` to one that has, or leave the option out.",
        )
    elif demand.gpus and demand.gpus > gpus:
        yield Fault(
            path,
            f"no trial fits: --gpus-per-trial {demand.gpus:g}, but all nodes have {gpus:g} GPUs.",
        )
    slots = gpus or sum(kind.cpus * kind.count for kind in kinds)
    if not demand.gpus and demand.workers > slots:
        what = "GPUs" if gpus else "CPUs"
        yield Fault(
            path,
            f"no trial fits: --workers-per-trial {demand.workers}, but all nodes have "
            f"{slots:g} {what}.",
        )
