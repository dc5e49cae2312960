"""The search itself: Tune's event loop over our searcher, scheduler and executors."""

import functools
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from rich.console import Console

from raysearch.data.shards import Shards, open_shards
from raysearch.report.runfiles import add_search
from raysearch.search.failures import RESTARTS, Failures
from raysearch.search.forgetting import Forget
from raysearch.search.groups import free_all
from raysearch.search.mirroring import Fetch, Send
from raysearch.search.packing import Packing
from raysearch.search.plan import Plan
from raysearch.search.population import population_of, what_changes
from raysearch.search.progress import Progress
from raysearch.search.retention import Retention, keep_best
from raysearch.search.schedulers import make_scheduler
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.shipping import ShippedShards
from raysearch.search.study import finish_pruning, losses_by_trial, open_study
from raysearch.search.train_executor import TrainTrial
from raysearch.search.worker import train_inline
from raysearch.space import SearchSpace
from raysearch.storage.runs import RunPlace
from raysearch.train.curve import read_metrics
from raysearch.train.trial import TrialFolder, trial_folders, trial_name

ENDS = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class SearchEnd:
    """How a search ended: ``statuses`` counts its trials by status; ``aborted`` is why it was
    given up, or "". ``utilization`` is the part of its time that its slots were training, in
    [0, 1]."""

    statuses: dict[str, int]
    interrupted: bool
    aborted: str
    seconds: float
    utilization: float


def run_search(
    place: RunPlace,
    data: Path,
    space: SearchSpace,
    plan: Plan,
    *,
    seed: int,
    deadline: float | None,
    console: Console,
    shipped: ShippedShards | None = None,
) -> SearchEnd:
    """Run or continue the search at ``place``; Ray must be up.

    ``deadline`` is a `time.monotonic`; ``shipped`` are the shards in ``data`` for machines that
    do not have that folder.
    """
    begin = time.monotonic()
    run = place.path
    two = "params" in space.search.objective
    fetch, send = Fetch(place.mirror), Send(place.mirror)
    study = open_study(run / "study.log", objectives=len(space.search.objective))
    settle(run, study)
    shards = open_shards(data, verify=False).subset(space.constants.get("classes"))
    population = population_of(study, space, seed)
    if population:
        console.print(what_changes(space), highlight=False, soft_wrap=True)
    searcher = StudySearcher(
        study,
        space,
        trials=plan.trials,
        epochs=plan.epochs,
        seed=seed,
        deadline=deadline,
        outcome=functools.partial(outcome, run, fetch) if two else None,
        saved=send.send_study,
        packing=make_packing(plan, shards),
        population=population,
    )
    hangs = plan.trial_timeout if plan.executor == "inline" else None
    failures = Failures(hangs)  # `TrainTrial` sees to its own workers
    progress = Progress(run, shards, plan.trials, console, deadline, failures)
    retention = Retention(place, shards, plan.keep, plan.max_disk)
    staging = make_staging(run)
    payload = {
        "run": str(run),
        "uri": place.mirror.uri if place.mirror else None,
        "data": str(data),
        "shipped": shipped,
        "threads": plan.threads,
        "memory_share": plan.memory_share,
        "timeout": plan.trial_timeout,
        "snapshot_every": population.every if population else 0,
    }
    trainable = make_trainable(plan, payload, staging)
    with interruptible() as interrupt, progress:
        try:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=make_scheduler(
                        space, plan.epochs, population, losses_by_trial(study)
                    ),
                    num_samples=-1,
                    max_concurrent_trials=plan.concurrent,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=staging,
                    verbose=0,
                    # Each relies on what those before it have done about a trial.
                    callbacks=[fetch, failures, progress, retention, send, Forget()],
                    stop=EndOfSearch(deadline, interrupt, failures, retention),
                    failure_config=tune.FailureConfig(max_failures=RESTARTS),
                ),
            ).fit()
            free_all()  # of trials in an epoch so long that Tune killed their processes
        finally:
            for number in progress.running:
                fetch.fetch(number)
            progress.close()
            shutil.rmtree(staging, ignore_errors=True)
    keep_best(place, shards, plan.keep)
    if population and searcher.is_done:
        for folder in trial_folders(run):
            place.remove(folder.snapshots)
    statuses = Counter(folder.read_status()["status"] for folder in trial_folders(run))
    aborted = failures.verdict() or retention.full
    seconds = time.monotonic() - begin
    used = progress.trained / (seconds * plan.slots)
    add_search(run, {"seconds": seconds, "slots": plan.slots, "utilization": used})
    place.push()
    return SearchEnd(dict(statuses), interrupt.is_set, aborted, seconds, used)


def make_packing(plan: Plan, shards: Shards) -> Packing | None:
    if not plan.packed_gpus:
        return None
    return Packing(plan.packed_gpus, plan.resources["gpu"], shards.shape[0], len(shards.classes))


def make_staging(run: Path) -> str:
    """An empty folder for what Tune writes, of which nothing is needed later; what a killed search
    of this run left there is removed."""
    name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]
    staging = Path(tempfile.gettempdir()) / f"raysearch-tune-{os.getuid()}-{name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    return str(staging)


def settle(run: Path, study: optuna.Study) -> None:
    """Finish the end of trials that a kill cut short: in the study, and their status where that is
    not yet in their folder."""
    finish_pruning(study)
    for trial in study.get_trials(deepcopy=False, states=tuple(ENDS)):
        folder = TrialFolder(run / trial_name(trial.number))
        written = folder.read_status()
        if folder.path.is_dir() and written["status"] in ("pending", "running", "interrupted"):
            status = ENDS[trial.state]
            error = "the search was killed before it said why" if status == "failed" else ""
            folder.write_status(status, written["epochs"], error)


def outcome(run: Path, fetch: Fetch, number: int) -> list[float]:
    """Lowest validation log loss and number of parameters of a trial. Tune asks the searcher, which
    asks for them, before it tells callbacks that the trial ended."""
    fetch.fetch(number)
    folder = TrialFolder(run / trial_name(number))
    losses = [row[METRIC] for row in read_metrics(folder.metrics)]
    return [min(losses), float(folder.read_record().parameters)]


def make_trainable(plan: Plan, payload: dict[str, Any], staging: str) -> Any:
    """The executor of ``plan``, with what every trial is given and what it needs to start."""
    if plan.executor == "inline":

        def inline(config: dict[str, Any]) -> None:
            train_inline(payload | config)

        def share(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            own = {"CPU": plan.resources["cpu"], "GPU": config["gpus"]}
            return tune.PlacementGroupFactory([own])

        return tune.with_resources(inline, share if plan.packed_gpus else plan.resources)

    class Trial(TrainTrial):
        common = payload | {
            "workers": plan.workers,
            "worker_resources": {k.upper(): v for k, v in plan.resources.items()},
            "backend": plan.backend,
            "storage": staging,
        }

    # The trial's own actor only waits, and its workers hold the resources; but Tune must be given
    # something to hold, and a byte of memory is there on every node.
    return tune.with_resources(Trial, {"cpu": 0, "gpu": 0, "memory": 1})


class Interrupt:
    """Set by the first Ctrl-C or SIGTERM; the second one is not caught."""

    def __init__(self) -> None:
        self.is_set = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        interrupt.is_set = True
        for name, handler in previous.items():
            signal.signal(name, handler)

    for name in previous:
        signal.signal(name, on_signal)
    try:
        yield interrupt
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


class EndOfSearch(tune.Stopper):
    """Ends the whole search at its deadline or an interrupt, where too much fails, and where the
    disk is full; single trials it leaves alone."""

    def __init__(
        self,
        deadline: float | None,
        interrupt: Interrupt,
        failures: Failures,
        retention: Retention,
    ):
        self.deadline, self.interrupt = deadline, interrupt
        self.failures, self.retention = failures, retention

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        late = self.deadline is not None and time.monotonic() >= self.deadline
        given_up = self.failures.verdict() or self.retention.full
        return late or self.interrupt.is_set or bool(given_up)
