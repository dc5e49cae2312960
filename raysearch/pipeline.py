"""`raysearch tune`, stage by stage: data, plan, search, ensemble, report.

Each stage reads the last one's folder, so that `resume` is the same path entered later.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from raysearch.config import TrainConfig
from raysearch.configfile import classes_located
from raysearch.data.dataset import Dataset, load_dataset
from raysearch.data.shards import MANIFEST, open_shards
from raysearch.errors import Interrupted, RunError
from raysearch.files import remove_stale, write_json
from raysearch.report.runfiles import ENSEMBLE_REPORT, read_object
from raysearch.search.capacity import Capacity, find_capacity
from raysearch.search.plan import Estimate, Plan, check_disk, estimate, free_disk, make_plan
from raysearch.search.population import what_changes
from raysearch.space import SearchSpace
from raysearch.storage.runs import RunPlace
from raysearch.train.trial import trial_folders
from raysearch.yamlfile import parse_yaml

ENDING_SHARE, ENDING_SECONDS = 0.1, (20, 300)
"""Part of a time budget that is kept for selection, export and report, and its bounds."""
ENDING_GROWTH, ENDING_FIXED = 1.5, 10
"""The same from a measured selection and export: a factor on it, and seconds for the rest."""


@dataclass(frozen=True)
class Limits:
    """What the command line says over the search space; None leaves the space's own value."""

    trials: int | None = None
    epochs: int | None = None
    time_budget: float | None = None
    gpus_per_trial: float | str | None = None
    workers_per_trial: int = 1
    concurrent: int | None = None
    executor: str | None = None
    keep: int | None = None
    max_disk: int | None = None
    trial_timeout: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A search that has passed every check and has not started."""

    space: SearchSpace
    data: Path
    synthetic: bool
    dataset: Dataset
    capacity: Capacity
    plan: Plan
    seed: int
    time_budget: float | None


def prepare(
    space: SearchSpace,
    data: str | None,
    limits: Limits,
    seed: int | None,
    scratch: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Read everything that the search needs; raises `InputError` before anything is started.

    Without ``data``, synthetic faces are drawn into ``scratch``. ``say`` gets a line about the
    cluster, where one is joined, and about a size of images that nobody chose.
    """
    if space.search.scheduler == "pbt":
        what_changes(space)
    folder = resolve_data(data, scratch)
    shards = open_shards(folder, verify=False)
    tell_size(space, shards.shape, say)
    capacity = find_capacity(say)
    if capacity.address:
        say(f"found {capacity}")
    plan = make_plan(
        space,
        capacity,
        trials=limits.trials,
        epochs=limits.epochs,
        gpus_per_trial=limits.gpus_per_trial,
        workers_per_trial=limits.workers_per_trial,
        concurrent=limits.concurrent,
        executor=limits.executor,
        keep=limits.keep,
        max_disk=limits.max_disk,
        trial_timeout=limits.trial_timeout,
    )
    dataset = _open_dataset(space, folder)
    check_disk(space, plan, dataset)
    return Prepared(
        space=space,
        data=folder,
        synthetic=shards.manifest["source"].get("found") == "synthetic",
        dataset=dataset,
        capacity=capacity,
        plan=plan,
        seed=space.search.seed if seed is None else seed,
        time_budget=limits.time_budget or space.search.time_budget,
    )


def tell_size(space: SearchSpace, shape: Sequence[int], say: Callable[[str], None]) -> None:
    """Where ``space`` leaves ``image_size`` at its default and images (``[C, H, W]``) are of
    another size."""
    chosen = "image_size" in space.constants or any(
        dimension.path == "image_size" for dimension in space.dimensions
    )
    side = TrainConfig.model_fields["image_size"].default
    if not chosen and side != shape[1]:
        say(
            f"{space.path} says no image_size: images of {shape[2]} x {shape[1]} pixels are "
            f"resized to {side} x {side}"
        )


def _open_dataset(space: SearchSpace, folder: Path) -> Dataset:
    """The classes that ``space`` names; nothing here needs all images in memory."""
    with classes_located(parse_yaml(space.source_text, str(space.path)), "train"):
        return load_dataset(folder, classes=space.constants.get("classes"), images_on="host")


def resolve_data(data: str | None, scratch: Path) -> Path:
    """The folder of shards for ``--data``: itself, an import of it, or synthetic faces."""
    if data is None:
        from raysearch.data.synthetic import synthesize

        if not (scratch / MANIFEST).exists():
            synthesize(scratch)
        return scratch
    source = Path(data)
    if (source / MANIFEST).exists():
        return source.resolve()
    from raysearch.data.cached import import_beside

    return import_beside(source)


@contextmanager
def working_on(place: RunPlace, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Let no other process work on the run at ``place``, and have here what others did before.

    Raises `RunError` where another process is working on it.
    """
    from raysearch.search.lock import locked

    place.path.mkdir(parents=True, exist_ok=True)
    with locked(place, say):
        place.pull()
        remove_stale(place.path)
        yield


def execute(prepared: Prepared, place: RunPlace, begin: float, console: Console) -> dict[str, Any]:
    """Search, select, export and report at ``place``, where this process is `working_on` the run;
    what is already there is kept.

    ``begin``: `time.monotonic` of the command's start, which the time budget counts from.
    Returns what `print_summary` prints. Raises `RunError` where no trial finished an epoch or a
    machine of the cluster cannot take part in it, `Interrupted` where Ctrl-C came before that.
    """
    from raysearch.search.cluster import ray_cluster

    run, shipped = place.path, None
    deadline, budget = None, prepared.time_budget
    if budget is not None:
        deadline = begin + max(budget - ending_seconds(budget, run), 1.0)
    address = prepared.capacity.address or None
    with ray_cluster(prepared.plan.threads, address):
        from raysearch.search.shipping import check_shared, ship
        from raysearch.search.tuner import run_search

        if address:
            check_shared(place)
            shipped = ship(prepared.data)
        end = run_search(
            place,
            prepared.data,
            prepared.space,
            prepared.plan,
            seed=prepared.seed,
            deadline=deadline,
            console=console,
            shipped=shipped,
        )
    remove_stale(run)  # of trials that were stopped as they wrote
    searched = time.monotonic()
    ensemble = conclude(place, console, end.interrupted)
    place.push()
    return {
        "run": str(place),
        "folder": str(run),
        "synthetic": prepared.synthetic,
        "trials": end.statuses,
        "interrupted": end.interrupted,
        "aborted": end.aborted,
        "search_seconds": end.seconds,
        "utilization": end.utilization,
        "ending_seconds": time.monotonic() - searched,
        "seconds": time.monotonic() - begin,
        "ensemble": ensemble,
    }


def outcome(prepared: Prepared, place: RunPlace, begin: float) -> dict[str, Any]:
    """What `execute` returns, of a run in which nothing is left to do."""
    statuses = Counter(folder.read_status()["status"] for folder in trial_folders(place.path))
    return {
        "run": str(place),
        "folder": str(place.path),
        "synthetic": prepared.synthetic,
        "trials": dict(statuses),
        "interrupted": False,
        "aborted": "",
        "search_seconds": 0.0,
        "utilization": 0.0,
        "ending_seconds": 0.0,
        "seconds": time.monotonic() - begin,
        "ensemble": read_object(place.path / ENSEMBLE_REPORT),
    }


def ending_seconds(budget: float, run: Path | None = None) -> float:
    """Part of a time budget to keep for the end of Ray, selection, export and report.

    What selection and export took when ``run`` was last concluded is the best guess where it
    has been; they take longer with more trials.
    """
    low, high = ENDING_SECONDS
    planned = min(max(budget * ENDING_SHARE, low), high)
    measured = read_object(run / ENSEMBLE_REPORT).get("seconds") if run else None
    if isinstance(measured, int | float):
        planned = max(low, ENDING_GROWTH * measured + ENDING_FIXED)
    return min(planned, budget / 2)


def conclude(place: RunPlace, console: Console, interrupted: bool) -> dict[str, Any]:
    """Leaderboard, ensemble, artifact and report from what the trials left at ``place``."""
    from raysearch.ensemble.build import build_ensemble
    from raysearch.report.page import write_report
    from raysearch.report.tables import write_leaderboard

    run = place.path
    write_leaderboard(run)
    if not any(folder.validation.exists() for folder in trial_folders(run)):
        if interrupted:
            raise Interrupted(
                f"interrupted before a trial in {place} had finished an epoch; go on with: "
                f"raysearch resume {place}"
            )
        raise RunError(no_result(place))
    console.print(
        "selecting the ensemble, exporting it and checking the export",
        highlight=False,
        soft_wrap=True,
    )
    report = build_ensemble(run).to_json()
    write_json(run / ENSEMBLE_REPORT, report)
    write_report(run)
    return report


def no_result(place: RunPlace) -> str:
    errors = [folder.read_status()["error"] for folder in trial_folders(place.path)]
    errors = [error for error in errors if error]
    none = f"No trial in {place} finished an epoch"
    if not errors:
        return f"{none}. Give it more time: `raysearch resume {place}`."
    common = max(set(errors), key=errors.count)
    return f"{none}; {errors.count(common)} of {len(errors)} ended with: {common}"


def dry_run(prepared: Prepared) -> dict[str, Any]:
    """The plan and its cost, measured with a few steps on this machine."""
    expected: Estimate = estimate(prepared.space, prepared.plan, prepared.dataset, prepared.seed)
    return {
        "space": prepared.space.path.name,
        "data": str(prepared.data),
        "train_images": len(prepared.dataset.train),
        **vars(prepared.plan),
        "cluster": str(prepared.capacity) if prepared.capacity.address else None,
        "epochs_in_all": prepared.plan.trial_epochs,
        "time_budget_seconds": prepared.time_budget,
        "ending_seconds": prepared.time_budget and ending_seconds(prepared.time_budget),
        "estimate": expected.to_json(),
        "disk_free_bytes": free_disk(prepared.data),
    }
