"""`raysearch tune --cluster`: checked here, run there, fetched back."""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from raysearch.errors import ConfigError, RaysearchError, RunError
from raysearch.search.launch import bringup, job, parcel
from raysearch.search.launch.checks import Demand, load_checked
from raysearch.search.launch.clusterfile import ClusterFile, load_cluster_file
from raysearch.search.launch.fetch import check_free, fetch
from raysearch.search.launch.kuberay import usage
from raysearch.search.launch.tunnel import Tunnel
from raysearch.space import SearchSpace

LOCAL_RESULTS = Path("results")
OF_ONE_MACHINE = "~/raysearch-results"
"""Where a cluster without workers keeps its runs, unless its file says."""


@dataclass(frozen=True)
class Request:
    """What `tune` was asked. ``options``: words for the command line on the head, as they are."""

    cluster: Path
    space: str
    data: str | None
    name: str | None
    options: tuple[str, ...]
    demand: Demand
    detach: bool = False
    down: bool = False
    dry_run: bool = False
    as_json: bool = False


@dataclass(frozen=True)
class Checked:
    """A request that has passed every check; nothing is started yet. The images are ``shards``
    here, or ``remote_data`` there, or, where both are None, faces that are drawn there."""

    request: Request
    file: ClusterFile
    space: SearchSpace
    shards: Path | None
    fingerprint: str
    remote_data: str | None
    storage: str
    name: str

    @property
    def run(self) -> str:
        return f"{self.storage.rstrip('/')}/{self.name}"

    @property
    def results(self) -> Path:
        return results_folder(self.name)


def results_folder(name: str) -> Path:
    """Where the run ``name`` is fetched to, from wherever it is attached to."""
    return (LOCAL_RESULTS / name).resolve()


def say(line: str) -> None:
    print(f"[cluster] {line}", file=sys.stderr, flush=True)


def write_log(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def load_launchable(path: Path, demand: Demand | None = None, checked: bool = True) -> ClusterFile:
    """A file for Ray's launcher, free of faults where ``checked``. Raises `ConfigError`."""
    file = load_cluster_file(path)
    if file.is_kuberay:
        raise ConfigError(f"{path} is {usage(file)}")
    return load_checked(path, demand) if checked else file


def tune_on_cluster(request: Request) -> int:
    """The exit code of the search, or 0 where it was detached from. Raises `RaysearchError`."""
    checked = check_request(request)
    if request.dry_run:
        _print(_plan(checked), request.as_json)
        return 0
    with Tunnel(checked.file) as tunnel:
        bringup.bring_up(checked.file, tunnel, say)
        name = _submit(checked, tunnel)
        say(f"submitted {name}; its run is {checked.run}")
        if request.detach:
            say(f"follow it: raysearch attach {request.cluster} {name}")
            _print({"job": name, "run": checked.run}, request.as_json)
            return 0
        return _finish(checked.file, tunnel, name, request.down)


def attach(cluster: Path, name: str | None, down: bool) -> int:
    """Follow a search that was submitted before, the newest unless ``name`` says which."""
    file = load_launchable(cluster, checked=False)
    with Tunnel(file) as tunnel:
        if not tunnel.find():
            raise RunError(
                f"no cluster runs from {cluster}. Its runs are in {file.storage}; the same "
                "`raysearch tune --cluster` command, with the run's --name, goes on with one."
            )
        name = name or job.newest_job(job.connect(tunnel))
        return _finish(file, tunnel, name, down)


def check_request(request: Request) -> Checked:
    """Everything that can be known before anything is started. Data that must be imported is."""
    from raysearch.runfolder import new_run_name
    from raysearch.space import load_space

    if request.detach and request.down:
        raise ConfigError("--down comes after the search, which --detach does not wait for.")
    file = load_launchable(request.cluster, request.demand)
    space = load_space(request.space)
    storage = request.demand.storage or file.storage or OF_ONE_MACHINE
    if "://" not in storage and not storage.startswith(("/", "~/")):
        raise ConfigError(
            f"--storage must be a URI or an absolute path on the cluster, but got {storage!r}."
        )
    name = request.name or new_run_name(request.data, space)
    check_free(results_folder(name), f"{storage.rstrip('/')}/{name}")
    shards, fingerprint, remote = _find_data(request.data, space)
    return Checked(request, file, space, shards, fingerprint, remote, storage, name)


def _find_data(data: str | None, space: SearchSpace) -> tuple[Path | None, str, str | None]:
    """(shards here, their fingerprint, what the head is told instead of them)."""
    from raysearch.data.dataset import load_dataset
    from raysearch.pipeline import resolve_data
    from raysearch.train.start import check_starts

    if data is None:
        return None, "", None
    if "://" in data:
        return None, "", data
    if data.startswith("/") and not os.path.exists(data):
        say(f"{data} is not on this machine, and so taken for a path on the cluster")
        return None, "", data
    shards = resolve_data(data, Path(data))
    dataset = load_dataset(shards, classes=space.constants.get("classes"), images_on="host")
    check_starts(space.starts, dataset)
    from raysearch.data.shards import open_shards

    return shards, open_shards(shards, verify=False).fingerprint, None


def _submit(checked: Checked, tunnel: Tunnel) -> str:
    request, file = checked.request, checked.file
    data = [] if checked.remote_data is None else ["--data", *job.quote([checked.remote_data])]
    if checked.shards is not None:
        say(f"sending {checked.shards} to the head, where it is not there already")
        data = ["--data", parcel.send_shards(file, checked.shards, checked.fingerprint)]
    metadata = {
        "run": checked.run,
        "name": checked.name,
        "json": "yes" if request.as_json else "",
    }
    with tempfile.TemporaryDirectory() as folder:
        space = parcel.pack_job(Path(folder), checked.space)
        words = ["python", "-m", "raysearch", "tune", *job.quote([space]), *data]
        words += ["--storage", _for_shell(checked.storage), "--name", *job.quote([checked.name])]
        words += job.quote(list(request.options))
        return job.submit(job.connect(tunnel), words, Path(folder), metadata)


def _for_shell(path: str) -> str:
    """``~/`` is the home folder there, not here."""
    (quoted,) = job.quote([path.removeprefix("~/")])
    return f'"$HOME"/{quoted}' if path.startswith("~/") else quoted


def _finish(file: ClusterFile, tunnel: Tunnel, name: str, down: bool) -> int:
    """Follow the job ``name``, fetch its run, take the cluster down where asked to."""
    log = _LastObject()
    try:
        end = job.follow(name, lambda: job.connect(tunnel), log.write, say)
    except KeyboardInterrupt:
        say(f"detached; the search goes on. Follow it: raysearch attach {file.path} {name}")
        say(f"stop it: ray exec {file.path} 'ray job stop {name}'")
        return 130
    except RunError as error:
        raise RunError(
            f"{error} Where the head is lost, the same `raysearch tune` command, with the run's "
            "--name, brings the cluster up again and goes on with the run."
        ) from None
    say(f"{name} ended: {end.status.lower()}, exit code {end.exit_code}")
    trouble = _fetch(file, end, log.found)
    if down and trouble is None:
        bringup.take_down(file, say)
    elif down:
        say("the cluster is left running, because the run could not be fetched")
    if trouble is not None and end.exit_code == 0:
        raise trouble
    return end.exit_code


def _fetch(file: ClusterFile, end: job.End, summary: dict | None) -> RaysearchError | None:
    """Bring the run home and print where it is; what went wrong is returned."""
    run = end.metadata.get("run")
    if not run or end.exit_code == 2:
        return None
    results = results_folder(end.metadata["name"])
    try:
        fetch(file, run, results)
    except (RaysearchError, OSError) as error:
        say(f"{run} was not fetched: {error}")
        return error if isinstance(error, RaysearchError) else RunError(str(error))
    say(f"fetched {run} into {results}")
    if end.metadata.get("json"):
        print(json.dumps({**(summary or {}), "cluster_run": run, "run": str(results)}))
    else:
        print(results)
    return None


class _LastObject:
    """Passes a log on, and keeps the last line that is a JSON object: what ``--json`` printed."""

    def __init__(self) -> None:
        self.found: dict | None = None
        self._line = ""

    def write(self, text: str) -> None:
        write_log(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith("{") and line.rstrip().endswith("}"):
                try:
                    self.found = json.loads(line)
                except ValueError:
                    continue


def _plan(checked: Checked) -> dict[str, str | int]:
    return {
        "cluster": str(checked.file.path),
        "provider": checked.file.provider,
        "max_workers": checked.file.max_workers,
        "space": str(checked.space.path),
        "data": str(checked.shards or checked.remote_data or "synthetic faces, drawn there"),
        "run": checked.run,
        "results": str(checked.results),
    }


def _print(values: dict[str, str | int], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values))
    else:
        print("\n".join(f"{name:<12} {value}" for name, value in values.items()))
