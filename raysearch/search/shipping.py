"""What trials on other machines need: the images, and a place for what they make.

Images go through Ray's object store, once to each machine, and are kept there under their
fingerprint for later runs.
"""

import fcntl
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysearch import __version__
from raysearch.data.manifest import MANIFEST, read_manifest
from raysearch.data.shards import open_shards
from raysearch.errors import DataError, RunError
from raysearch.files import atomic_folder
from raysearch.storage.locations import cache_folder, scratch_copy
from raysearch.storage.mirror import Mirror
from raysearch.storage.runs import RunPlace

CHECK_SECONDS = 120.0
PROBE = ".shared"


@dataclass(frozen=True)
class ShippedShards:
    """The files of a data folder in Ray's object store, by name."""

    fingerprint: str
    files: dict[str, Any]


def ship(folder: Path) -> ShippedShards:
    """Put the shards in ``folder`` and their manifest where all machines can fetch them."""
    manifest = read_manifest(folder)
    names = [shard["file"] for split in manifest["splits"].values() for shard in split["shards"]]
    files = {name: ray.put((folder / name).read_bytes()) for name in (*names, MANIFEST)}
    return ShippedShards(manifest["fingerprint"], files)


def local_shards(folder: str, shipped: ShippedShards | None) -> str:
    """``folder`` where this machine has the same images in it, else the copy in its cache, which
    the first process to ask fetches and compares with the checksums."""
    if shipped is None or _holds(Path(folder), shipped.fingerprint):
        return folder
    copy = cache_folder() / "data" / shipped.fingerprint
    copy.parent.mkdir(parents=True, exist_ok=True)
    with open(copy.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _holds(copy, shipped.fingerprint):
            with atomic_folder(copy, replace=True) as fresh:
                for name, reference in shipped.files.items():
                    (fresh / name).write_bytes(ray.get(reference))
                open_shards(fresh)
    return str(copy)


def _holds(folder: Path, fingerprint: str) -> bool:
    try:
        return open_shards(folder, verify=False).fingerprint == fingerprint
    except DataError:
        return False


def check_shared(place: RunPlace) -> None:
    """Raises `RunError` unless every machine that is there has this raysearch, sees the run at
    ``place`` and can write to it; those that come later are asked by their first trial."""
    probe, text = PROBE, secrets.token_hex(8)
    place.write_file(probe, text)
    uri = place.mirror.uri if place.mirror else None
    looks = []
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, scheduling_strategy=there, max_retries=0)(look)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            looks.append((name, task.remote(str(place.path), uri, probe, text, __version__)))
    try:
        for name, answer in looks:
            fault = ray.get(answer, timeout=CHECK_SECONDS)
            if fault:
                raise RunError(f"{name} cannot take part in {place}: {fault}")
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"Not every machine of the cluster answers: {reason}") from None
    finally:
        place.remove_file(probe)


def look(path: str, uri: str | None, probe: str, text: str, version: str) -> str:
    """What keeps this machine from taking part in a run, or ""."""
    if version != __version__:
        return f"it has raysearch {__version__}, the search {version}; install the same one"
    answer = f"{probe}-{secrets.token_hex(4)}"
    try:
        if uri is None:
            found = (Path(path) / probe).read_text()
            (Path(path) / answer).write_text(text)
            (Path(path) / answer).unlink()
        else:
            mirror = Mirror(scratch_copy(uri, 0), uri)
            found = mirror.read(probe).decode()
            mirror.write(answer, text.encode())
            mirror.delete(answer)
    except (OSError, RunError) as error:
        return unshared(f"{type(error).__name__}: {error}")
    return "" if found == text else unshared("it has another folder of the same name")


def unshared(fault: str) -> str:
    return (
        f"the run's folder is not shared with it ({fault}). Give --storage a path that every "
        "machine mounts, or an object store: s3://bucket/folder, gs://bucket/folder."
    )
