"""Versions that a cluster file pins must be this machine's: Ray refuses to mix its own."""

import platform
import re
from collections.abc import Iterator
from importlib import metadata

from raysearch import __version__
from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.faults import Fault

SETUP = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
)


def check_versions(file: ClusterFile) -> Iterator[Fault]:
    """Pins in the commands that set nodes up, and in the tags of Ray's images."""
    python = ".".join(platform.python_version_tuple()[:2])
    ray = metadata.version("ray")
    for path, command in file.commands(*SETUP):
        for name, here in (("ray", ray), ("raysearch", __version__)):
            for version in _pinned(command, name):
                if version != here:
                    yield Fault(
                        path, f"installs {name} {version}, but this machine has {here}; pin that."
                    )
        if re.search(r"ray-wheels/|ray-[\w.]*dev\d", command):
            yield Fault(path, f"installs a nightly Ray, but this machine has {ray}; pin that.")
        for version in re.findall(r"(?:--python[= ]|\bpython=+)['\"]?(3\.\d+)", command):
            if version != python:
                yield Fault(
                    path, f"takes Python {version}, but this machine has {python}; take that."
                )
    for key in ("image", "head_image", "worker_image"):
        image = file.get("docker", key)
        match = re.search(r"rayproject/ray(?:-ml)?:(\d+\.\d+\.\d+)(?:-py3(\d+))?", str(image))
        if match and match[1] != ray:
            yield Fault(
                ("docker", key), f"holds Ray {match[1]}, but this machine has {ray}; take that tag."
            )
        if match and match[2] and f"3.{match[2]}" != python:
            yield Fault(
                ("docker", key),
                f"holds Python 3.{match[2]}, but this machine has {python}; take that tag.",
            )


def _pinned(text: str, package: str) -> list[str]:
    """``pip install "ray[default]==2.60.0"`` pins ray to 2.60.0."""
    return re.findall(rf"(?<![\w-]){package}(?:\[[\w,-]*\])?==([\w.+!]+)", text)
