"""A run's folder: its name, and run.yaml, which says what was run, on what, with what."""

import platform
import secrets
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raysearch import __version__
from raysearch.errors import ArtifactError
from raysearch.files import write_text
from raysearch.search.capacity import Capacity, local_resources
from raysearch.space import SearchSpace

if TYPE_CHECKING:
    from raysearch.pipeline import Limits, Prepared


def new_run_name(data: Path | str | None, space: SearchSpace) -> str:
    """``<data>-<space>-<UTC time>-<4 hex>``."""
    stem = "synthetic" if data is None else Path(data).name.split(".")[0]
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stem}-{space.path.stem}-{moment}-{secrets.token_hex(2)}"


def start_run(prepared: "Prepared", run: Path, command: list[str], limits: "Limits") -> None:
    """Make the run's folder with run.yaml and space.yaml in it."""
    write_text(run / "space.yaml", prepared.space.source_text)
    description = {
        "command": " ".join(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "space": prepared.space.path.name,
        "space_folder": str(prepared.space.folder),
        "data": str(prepared.data),
        "data_source": "synthetic" if prepared.synthetic else "given",
        "data_fingerprint": prepared.dataset.fingerprint,
        "classes": list(prepared.dataset.classes),
        "seed": prepared.seed,
        "limits": vars(limits),
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(prepared.capacity),
    }
    write_text(run / "run.yaml", yaml.safe_dump(description, sort_keys=False))


def is_run(folder: Path) -> bool:
    return (folder / "run.yaml").is_file()


def read_run(run: Path) -> dict[str, Any]:
    """run.yaml of a run; raises `ArtifactError` where ``run`` is not one."""
    try:
        description = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
        return dict(description)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{run} is not a run of `raysearch tune`: run.yaml cannot be read ({error})."
        ) from None


def read_search(run: Path) -> dict[str, Any]:
    """`read_run` of a search; raises `ArtifactError` for a student's run too, which has no search
    to go on with and no trial that could be repeated without its teacher."""
    description = read_run(run)
    if "teacher" in description:
        raise ArtifactError(
            f"{run} was made by `raysearch distill`: the same command goes on with it, or makes it "
            f"again in another folder. It was: {description.get('command')}"
        )
    return description


def versions() -> dict[str, str]:
    names = ("torch", "ray", "optuna", "timm", "pyarrow", "numpy")
    found = {"raysearch": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str:
    """Commit of the checkout that raysearch runs from, or ""."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def hardware(capacity: Capacity | None = None) -> dict[str, Any]:
    """Of this machine, and of the cluster where one was joined."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    here = {"cpus": int(local_resources()[0]), "machine": platform.machine(), "gpus": gpus}
    return here | ({"cluster": str(capacity)} if capacity and capacity.address else {})
