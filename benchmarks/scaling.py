"""How many trials an hour a search makes on many machines, of as many as there could be.

The search is the real one; its trials are stubs, so that two cores can play many machines.
``--fake N`` starts Ray with N nodes on this machine, ``--lab N...`` measures on N hosts made out
of namespaces (needs root, see tests/cluster), ``--ledger SAMPLER...`` times proposals and reports
alone, for the space FER2013's search has. Rows are added to the table as they are measured.

    python benchmarks/scaling.py --lab 1 2 4 --trials 16 --trial-seconds 10
    python benchmarks/scaling.py --fake 64 --trials 1000 --trial-seconds 20
    python benchmarks/scaling.py --fake 1 --cpus 32 --trials 10000 --trial-seconds 4 --epochs 2
    python benchmarks/scaling.py --ledger random tpe --trials 1000
"""

import argparse
import csv
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from conditions import conditions, write_table
from fakes import fake_nodes
from stubs import SPACE, Clock, make_stub, stub_files

COLUMNS = (
    "where",
    "nodes",
    "slots",
    "sampler",
    "trials",
    "trial_seconds",
    "epochs",
    "trials_per_hour",
    "ideal",
    "share_of_ideal",
    "share_while_busy",
    "search_s",
    "all_busy_after_s",
    "processes",
    "driver_mib_start",
    "driver_mib_tenth",
    "driver_mib_end",
    "driver_mib_peak",
    "driver_cpu_ms_per_trial",
    "ledger_ms_per_trial",
    "ledger_ms_first_tenth",
    "ledger_ms_last_tenth",
    "progress_ms_per_trial",
    "retention_ms_per_trial",
)


class Watch:
    """A search as its progress hears of it: when trials started and reported, how many ended, and
    what memory and ledger were then."""

    def __init__(self, trials: int, clock: Clock):
        self.trials, self.clock = trials, clock
        self.starts: list[float] = []
        self.reports: list[float] = []
        self.processes: set[str] = set()
        self.ended = 0
        self.mib: dict[int, int] = {}  # by tenths of the trials
        self.ledger: dict[int, float] = {}

    def listen(self, progress: type) -> None:
        for name in ("on_trial_start", "on_trial_result", "on_trial_complete"):
            method, heard = getattr(progress, name), getattr(self, name)

            def both(*args: Any, method: Any = method, heard: Any = heard, **options: Any) -> None:
                heard(**options)
                method(*args, **options)

            setattr(progress, name, both)

    def on_trial_start(self, **_: Any) -> None:
        self.starts.append(time.monotonic())

    def on_trial_result(self, result: dict[str, Any], **_: Any) -> None:
        self.reports.append(time.monotonic())
        self.processes.add(result["process"])
        self._sample()

    def on_trial_complete(self, **_: Any) -> None:
        self.ended += 1
        self._sample()

    def _sample(self) -> None:
        tenth = 10 * self.ended // self.trials
        if tenth not in self.mib:
            self.mib[tenth] = resident_mib()
            self.ledger[tenth] = self.clock.seconds["ledger"]

    def share_while_busy(self, slots: int, pause: float) -> float | None:
        """Of the ideal, from when every slot had a trial until the last trial was handed out."""
        if len(self.starts) <= slots:
            return None
        begin, end = sorted(self.starts)[slots - 1], max(self.starts)
        inside = sum(begin < moment <= end for moment in self.reports)
        return round(inside * pause / (slots * (end - begin)), 3)

    def row(self) -> dict[str, Any]:
        per_tenth = 1000 / (self.trials / 10)
        return {
            "processes": len(self.processes),
            "driver_mib_start": self.mib[0],
            "driver_mib_tenth": self.mib[1],
            "driver_mib_end": self.mib[10],
            "ledger_ms_first_tenth": round(per_tenth * (self.ledger[1] - self.ledger[0]), 2),
            "ledger_ms_last_tenth": round(per_tenth * (self.ledger[10] - self.ledger[9]), 2),
        }


def resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def measure(address: str, folder: Path, nodes: int, args: argparse.Namespace) -> dict[str, Any]:
    """Search with stubs on the cluster at ``address``, whose nodes share ``folder``."""
    from ray import tune
    from rich.console import Console

    from raysearch.data.synthetic import synthesize
    from raysearch.search import tuner
    from raysearch.search.capacity import find_capacity
    from raysearch.search.cluster import ray_cluster
    from raysearch.search.plan import make_plan
    from raysearch.search.progress import Progress
    from raysearch.search.retention import Retention
    from raysearch.search.searcher import StudySearcher
    from raysearch.space import load_space
    from raysearch.storage.runs import RunPlace

    trials, seconds = args.trials, args.trial_seconds
    run = Path(tempfile.mkdtemp(prefix=f"run-{nodes}-", dir=folder))
    text = SPACE.format(trials=trials, epochs=args.epochs, sampler=args.sampler)
    (run / "space.yaml").write_text(text)
    space = load_space(run / "space.yaml")
    synthesize(run / "faces", images=600)
    os.environ["RAY_ADDRESS"] = address
    plan = make_plan(space, find_capacity())
    stub = make_stub(stub_files(run / "faces", space, args.epochs), str(run), seconds)
    tuner.make_trainable = lambda plan, *_: tune.with_resources(stub, plan.resources)
    clock = Clock()
    clock.watch("ledger", StudySearcher, "suggest", "on_trial_result", "on_trial_complete")
    clock.watch("retention", Retention, "on_trial_complete")
    clock.watch("progress", Progress, "on_trial_start", "on_trial_result", "on_trial_complete")
    watch = Watch(trials, clock)
    watch.listen(Progress)
    with ray_cluster(1, address), open(run / "log", "w") as log:
        options = {"seed": 0, "deadline": None, "console": Console(file=log)}
        begin, used = time.monotonic(), time.process_time()
        end = tuner.run_search(RunPlace(run), run / "faces", space, plan, **options)
        used = time.process_time() - used
    assert end.statuses == {"completed": trials}, end
    ideal = 3600 * plan.concurrent / seconds
    spent = {what: round(1000 * s / trials, 2) for what, s in clock.seconds.items()}
    return {
        "nodes": nodes,
        "slots": plan.concurrent,
        "sampler": args.sampler,
        "trials": trials,
        "trial_seconds": seconds,
        "epochs": args.epochs,
        "trials_per_hour": round(3600 * trials / end.seconds),
        "ideal": round(ideal),
        "share_of_ideal": round(3600 * trials / end.seconds / ideal, 3),
        "share_while_busy": watch.share_while_busy(plan.concurrent, seconds / args.epochs),
        "search_s": round(end.seconds, 1),
        "all_busy_after_s": round(sorted(watch.starts)[plan.concurrent - 1] - begin, 1),
        **watch.row(),
        "driver_mib_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "driver_cpu_ms_per_trial": round(1000 * used / trials, 1),
        **{f"{what}_ms_per_trial": value for what, value in spent.items()},
    }


def measure_fake(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for count in args.fake:
        with tempfile.TemporaryDirectory() as folder, fake_nodes(count, args.cpus) as address:
            row = measure(address, Path(folder), count, args)
            yield {"where": "nodes of one machine", **row}


def measure_lab(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
    from lab import Lab
    from lab_cluster import Cluster

    for count in args.lab:
        workers = [f"w{number}" for number in range(1, count + 1)]
        with Lab() as lab:
            lab.up(["laptop", "head", *workers])
            cluster = Cluster(lab, workers=workers, worker_cpus=args.cpus)
            cluster.up()
            with cluster.watch() as watch:
                watch.wait_for({"head", *workers})
            inner = [f"--join {count}", f"--trials {args.trials}", f"--sampler {args.sampler}"]
            inner += [f"--trial-seconds {args.trial_seconds}", f"--epochs {args.epochs}"]
            inner += ["--folder /mnt/shared"]
            log = lab.shared() / "driver.log"
            job = cluster.on_head(f"python {Path(__file__).resolve()} {' '.join(inner)}", log)
            if job.wait():
                raise SystemExit(log.read_text())
            yield {"where": "hosts in namespaces", **json.loads(log.read_text().splitlines()[-1])}


def measure_ledger(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from raysearch.search.searcher import StudySearcher
    from raysearch.search.study import open_study
    from raysearch.space import load_space

    space = load_space("fer2013_cpu")
    for sampler in args.ledger:
        searched = replace(space, search=space.search.replaced(sampler=sampler))
        with tempfile.TemporaryDirectory() as folder:
            study = open_study(Path(folder) / "study.log")
            options = {"trials": args.trials, "epochs": args.epochs, "seed": 0}
            searcher = StudySearcher(study, searched, **options)
            times = [time_trial(searcher) for _ in range(args.trials)]
        tenth = args.trials // 10
        yield {
            "where": "ledger alone",
            "sampler": sampler,
            "trials": args.trials,
            "epochs": args.epochs,
            "ledger_ms_per_trial": round(1000 * sum(times) / len(times), 2),
            "ledger_ms_first_tenth": round(1000 * sum(times[:tenth]) / tenth, 2),
            "ledger_ms_last_tenth": round(1000 * sum(times[-tenth:]) / tenth, 2),
        }


def time_trial(searcher: Any) -> float:
    """Seconds for the proposal, reports and end of one trial, whose loss its rate decides."""
    begin = time.perf_counter()
    config = searcher.suggest("trial")["train"]
    loss = 1 + abs(math.log10(config["lr"]) + 1)
    row = {"epochs": searcher.epochs, "seconds": 1.0}
    for epoch in range(1, searcher.epochs + 1):
        row |= {"epoch": epoch, "validation_log_loss": loss - epoch / 100}
        if epoch < searcher.epochs:
            searcher.on_trial_result("trial", row)
    searcher.on_trial_complete("trial", row)
    return time.perf_counter() - begin


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Below what the table at ``path`` holds already."""
    rows = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    write_table(path, [*rows, row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fake", type=int, nargs="*", default=[])
    parser.add_argument("--lab", type=int, nargs="*", default=[])
    parser.add_argument("--ledger", nargs="*", default=[], metavar="SAMPLER")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--trial-seconds", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--cpus", type=int, default=1, help="of each node")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--join", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trials < 10:
        parser.error("--trials must be 10 or more: memory and ledger are said by tenths")
    if args.join:
        print(json.dumps(measure("auto", args.folder, args.join, args)))
        return
    # Ray settles how it authenticates when it is imported, and `fake_nodes` chooses: so that first.
    for measured in (measure_fake, measure_lab, measure_ledger):
        about = conditions("ray", "optuna")
        for row in measured(args):
            row = dict.fromkeys(COLUMNS) | row | about
            print(json.dumps(row), flush=True)
            if args.out:
                add_row(args.out, row)
            about = conditions("ray", "optuna")


if __name__ == "__main__":
    main()
