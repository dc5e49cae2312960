"""One thing that is wrong with a cluster file."""

from dataclasses import dataclass
from typing import Any

from raysearch.search.launch.clusterfile import ClusterFile, Path


@dataclass(frozen=True)
class Fault:
    """``path``: of the key at fault, or of where it should stand."""

    path: Path
    message: str

    @property
    def key(self) -> str:
        """``available_node_types.worker.node_config``, ``setup_commands[2]``."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        return text

    def text(self, file: ClusterFile) -> str:
        """``cluster.yaml:12: provider.regoin: message``."""
        key = f"{self.key}: " if self.path else ""
        return f"{file.path}:{file.line(self.path)}: {key}{self.message}"

    def to_json(self, file: ClusterFile) -> dict[str, Any]:
        return {"key": self.key, "line": file.line(self.path), "message": self.message}
