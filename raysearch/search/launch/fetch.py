"""A finished run comes home: through the bucket it lies in, or over ssh from the head."""

from pathlib import Path

from raysearch.errors import InputError, RunError
from raysearch.files import write_text
from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.raycommand import run_ray

ORIGIN = ".fetched_from"
"""In a run's folder here: where it is a copy of."""


def check_free(folder: Path, run: str) -> None:
    """Raises `InputError` where ``folder`` holds another run than ``run``."""
    if folder.exists() and any(folder.iterdir()) and origin(folder) != run:
        raise InputError(
            f"{folder} is not a copy of {run}, which would be fetched there. Choose another "
            "--name, or move that folder away."
        )


def origin(folder: Path) -> str:
    try:
        return (folder / ORIGIN).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def fetch(file: ClusterFile, run: str, folder: Path) -> None:
    """Copy the run at ``run``, a URI or a path on the head, to ``folder``. Raises `RunError`."""
    check_free(folder, run)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / ORIGIN, run + "\n")
    if "://" in run:
        fetch_uri(run, folder)
    else:
        run_ray(file, "fetch", "rsync-down", file.path, f"{run}/", f"{folder}/")
    if not (folder / "run.yaml").exists():
        raise RunError(f"{run} holds no run; the log says why.")


def fetch_uri(run: str, folder: Path) -> None:
    """Checkpoints, which only `resume` needs, stay where they are."""
    from raysearch.storage.mirror import Mirror
    from raysearch.storage.runs import CHECKPOINTS

    Mirror(folder, run).pull(skip=CHECKPOINTS)
