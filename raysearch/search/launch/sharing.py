"""Where a cluster's runs lie must be a place that every worker reaches."""

import re
from collections.abc import Iterator

from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.faults import Fault

OWN = ("/tmp", "/var/tmp", "/dev/shm", "/root", "/run")
"""Folders that every machine has for itself."""
SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")


def check_storage(file: ClusterFile, given: str | None = None) -> Iterator[Fault]:
    """``given``: what ``--storage`` says instead of the file."""
    found = ((), given) if given else file.exported("RAYSEARCH_STORAGE")
    if found is None:
        if file.max_workers:
            yield Fault(
                ("setup_commands",),
                "says nowhere where runs lie. Add `echo 'export RAYSEARCH_STORAGE=s3://bucket/"
                "folder' >> ~/.bashrc`, or a path that all nodes share.",
            )
        return
    path, storage = found
    named = f"--storage {storage}" if given else f"RAYSEARCH_STORAGE={storage}"
    scheme, _, rest = storage.partition("://")
    if rest or storage.endswith("://"):
        if scheme not in SCHEMES:
            yield Fault(path, f"{named}: no {scheme}:// here, but {', '.join(SCHEMES)}.")
        yield from _rights(file, scheme)
    elif file.max_workers and not _is_shared(file, storage):
        yield Fault(
            path,
            f"{named} is a folder of one machine, which workers on others "
            "cannot reach. Name a bucket, or a folder that every node mounts.",
        )


def _is_shared(file: ClusterFile, folder: str) -> bool:
    """On machines of one's own, any folder may be; a cloud's nodes must mount it themselves."""
    if not folder.startswith("/") or any(f"{folder}/".startswith(f"{own}/") for own in OWN):
        return False
    if file.provider == "local":
        return True
    mounted = [
        target
        for _, command in file.commands()
        if re.search(r"\bmount\b|fstab", command)
        for target in re.findall(r"(?<=\s)(/[\w./-]+)", command)
    ]
    return any(f"{folder}/".startswith(f"{target.rstrip('/')}/") for target in mounted)


def _rights(file: ClusterFile, scheme: str) -> Iterator[Fault]:
    """Ray gives its own role, or account, to the head alone."""
    needed = {
        ("aws", "s3"): ("IamInstanceProfile", "{Name: ...}"),
        ("gcp", "gs"): ("serviceAccounts", "[{email: ..., scopes: [...]}]"),
        ("gcp", "gcs"): ("serviceAccounts", "[{email: ..., scopes: [...]}]"),
    }.get((file.provider, scheme))
    if needed is None:
        return
    key, example = needed
    for name, config in file.node_configs.items():
        if name != file.get("head_node_type") and not config.get(key):
            yield Fault(
                ("available_node_types", name, "node_config"),
                f"workers write to {scheme}:// themselves, and have no right to: Ray gives its "
                f"own role to the head alone. Add `{key}: {example}`.",
            )
