"""What goes to the head: raysearch itself and the space with the job, the images by rsync."""

import shutil
from pathlib import Path

import raysearch
from raysearch.errors import ConfigError
from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.raycommand import run_ray
from raysearch.space import SearchSpace, shipped_baselines, shipped_spaces

HEADS_DATA = "raysearch-data"
"""In the home folder on the head, a folder for each set of shards, named by its fingerprint."""
MAX_JOB_BYTES = 400_000_000
"""Ray's own limit for what goes with a job is 512 MiB."""


def pack_job(folder: Path, space: SearchSpace) -> str:
    """Fill ``folder`` with this raysearch, the shipped spaces and ``space`` with the weights that
    lie beside it; returns what `tune` is to be given for the space.

    Raises `ConfigError` where that is more than Ray takes.
    """
    package = Path(raysearch.__file__).resolve().parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, folder / "raysearch", ignore=ignored)
    for files, name in (
        (shipped_spaces(), "search_spaces"),
        (shipped_baselines(), "search_spaces/baselines"),
    ):
        (folder / name).mkdir()
        for path in files.values():
            shutil.copy2(path, folder / name)
    name = next((n for n, path in shipped_spaces().items() if _same(path, space.path)), None)
    if name is None:
        name = _pack_space(folder / "space", space).relative_to(folder).as_posix()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_JOB_BYTES:
        raise ConfigError(
            f"{space.path} and the weights beside it have {size / 1e6:,.0f} MB, and at most "
            f"{MAX_JOB_BYTES / 1e6:,.0f} MB go with a job. Put the weights where all nodes see "
            "them, and name them by an absolute path."
        )
    return name


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _pack_space(folder: Path, space: SearchSpace) -> Path:
    """Weights that lie outside of the space's own folder are taken to be on the cluster."""
    folder.mkdir()
    (folder / space.path.name).write_text(space.source_text, encoding="utf-8")
    home = space.folder.resolve()
    for train in space.starts:
        for start in (train.pretrained, train.init_from):
            path = (home / (start or "").split("#")[0]).resolve()
            if not start or not path.exists() or home not in path.parents:
                continue
            target = folder / path.relative_to(home)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            elif not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    return folder / space.path.name


def send_shards(file: ClusterFile, shards: Path, fingerprint: str) -> str:
    """Send a folder of shards to the head, where what is there already is not sent again;
    returns the path there, for a shell."""
    name = f"{HEADS_DATA}/{fingerprint[:16]}"
    run_ray(file, "data", "exec", file.path, f"mkdir -p ~/{HEADS_DATA}")
    run_ray(file, "data", "rsync-up", file.path, f"{shards}/", f"~/{name}/")
    return f'"$HOME"/{name}'
