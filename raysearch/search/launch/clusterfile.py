"""A file for `ray up`, with the line of every key, and what the launcher reads out of it.

Ray reads it as YAML 1.1, anchors and all, and so do we: `raysearch.yamlfile` is stricter.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import yaml

from raysearch.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file to a value."""

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
DASHBOARD_PORT = 8265
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@dataclass(frozen=True)
class ClusterFile:
    """``values`` are those of the file's first document."""

    path: FilePath
    values: dict[str, Any]
    marks: dict[Path, tuple[int, int]]
    """Lines of each key or list item, and of its value: an alias's is where its anchor stands."""

    def line(self, path: Path) -> int:
        """Line, from 1, of the key or list item ``path``, or of what should hold it."""
        while path not in self.marks:
            path = path[:-1]
        return self.marks[path][0]

    def get(self, *path: str | int, default: Any = None) -> Any:
        """The value at ``path``; ``default`` where there is none, or no mapping on the way."""
        value: Any = self.values
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def mapping(self, *path: str | int) -> dict[Any, Any]:
        """The mapping at ``path``; empty where something else is there."""
        value = self.get(*path)
        return value if isinstance(value, dict) else {}

    def items(self, *path: str | int) -> list[Any]:
        """The list at ``path``; empty where something else is there."""
        value = self.get(*path)
        return value if isinstance(value, list) else []

    @property
    def is_kuberay(self) -> bool:
        return str(self.get("apiVersion", default="")).startswith("ray.io/")

    @property
    def provider(self) -> str:
        return str(self.get("provider", "type", default=""))

    @property
    def name(self) -> str:
        return str(self.get("cluster_name", default="default"))

    def commands(self, *sections: str) -> list[tuple[Path, str]]:
        """Every command of ``sections`` (all, where none is named), with its path."""
        found = []
        for section in sections or COMMANDS:
            for number, command in enumerate(self.items(section)):
                found.append(((section, number), str(command)))
        return found

    @cached_property
    def mounts(self) -> dict[str, str]:
        """``file_mounts``: path on the nodes to path here."""
        return {str(k): str(v) for k, v in self.mapping("file_mounts").items()}

    def exported(self, name: str) -> tuple[Path, str] | None:
        """Where the commands set the environment variable ``name`` last, and to what."""
        found = None
        for path, command in self.commands():
            for match in re.finditer(rf"\b{name}=(\"[^\"]*\"|'[^']*'|[^\s;'\"]+)", command):
                found = path, match[1].strip("\"'")
        return found

    @property
    def storage(self) -> str | None:
        """Where the cluster's runs lie: a URI, a path, or None where the file does not say."""
        found = self.exported("RAYSEARCH_STORAGE")
        return found[1] if found else None

    @property
    def dashboard_port(self) -> int:
        commands = " ".join(text for _, text in self.commands("head_start_ray_commands"))
        match = re.search(r"--dashboard-port[= ](\d+)", commands)
        return int(match[1]) if match else DASHBOARD_PORT

    @cached_property
    def node_types(self) -> dict[Any, dict[str, Any]]:
        """By name, the head's too; empty for provider `local`, which has none."""
        types = self.mapping("available_node_types")
        return {name: kind for name, kind in types.items() if isinstance(kind, dict)}

    @property
    def node_configs(self) -> dict[Any, dict[str, Any]]:
        """``node_config`` of each node type that has one."""
        configs = {name: kind.get("node_config") for name, kind in self.node_types.items()}
        return {name: config for name, config in configs.items() if isinstance(config, dict)}

    @property
    def max_workers(self) -> int:
        machines = len(self.items("provider", "worker_ips"))
        limit = self.get("max_workers", default=machines if self.provider == "local" else 2)
        return limit if isinstance(limit, int) else 0


def load_cluster_file(path: FilePath | str) -> ClusterFile:
    """Read ``path``. Raises `ConfigError`, with the line, where it is no YAML mapping."""
    path = FilePath(path)
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path}: a cluster file holds at most {MAX_BYTES} bytes.")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: a cluster file must be UTF-8 text.") from None
    try:
        node = next(iter(yaml.compose_all(text, yaml.SafeLoader)), None)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: a cluster file must be a mapping of name to value.")
        marks = _marks(node)
        values = next(iter(yaml.safe_load_all(text)))
    except yaml.MarkedYAMLError as error:
        place = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}.") from None
    except (_TooMany, RecursionError):
        raise ConfigError(f"{path}: its aliases stand for too many values.") from None
    return ClusterFile(path, values, marks)


class _TooMany(Exception):
    pass


def _marks(top: yaml.Node) -> dict[Path, tuple[int, int]]:
    marks: dict[Path, tuple[int, int]] = {(): (1, 1)}

    def visit(node: yaml.Node, path: Path) -> None:
        if len(marks) > MAX_VALUES:
            raise _TooMany
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                line = item.start_mark.line + 1
                marks[*path, number] = line, line
                visit(item, (*path, number))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.tag.endswith(":merge"):
                    visit(value, path)
                    continue
                lines = key.start_mark.line + 1, value.start_mark.line + 1
                marks[*path, key.value] = lines
                visit(value, (*path, key.value))

    visit(top, ())
    return marks
