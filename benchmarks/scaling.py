"""How many trials an hour a search makes on many machines, of as many as there could be.

The search is the real one; its trials are stubs that sleep, report epochs and leave small files, so
that two cores can play many machines. ``--fake N`` starts Ray with N nodes on this machine,
``--lab N...`` measures on N hosts made out of namespaces (needs root, see tests/cluster).

    python benchmarks/scaling.py --fake 64 --trials 1024 --trial-seconds 20
    python benchmarks/scaling.py --lab 1 2 4 --trials 16 --trial-seconds 10
"""

import argparse
import functools
import json
import os
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conditions import conditions, write_table

EPOCHS = 4
SPACE = """
description: stubs
search: {{trials: {trials}, epochs: {epochs}, sampler: random, scheduler: none}}
train:
  model: {{name: mlp, hidden: [16]}}
  lr: {{float: [0.001, 0.1], log: true}}
"""


def stub(files: dict[str, bytes], run: str, pause: float, config: dict[str, Any]) -> None:
    """What a trial does, without training: each epoch takes ``pause`` seconds."""
    import time
    from pathlib import Path

    from ray import tune

    number, begin = config["trial"], time.monotonic()
    folder = Path(run) / "trials" / f"{number:04d}"
    (folder / "best").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for epoch in range(1, config["train"]["epochs"] + 1):
        time.sleep(max(0.0, begin + epoch * pause - time.monotonic()))
        loss = 2 + config["train"]["lr"]
        tune.report(
            {
                "trial": number,
                "epoch": epoch,
                "epochs": config["train"]["epochs"],
                "validation_log_loss": loss - epoch / 100,
                "validation_accuracy": 0.2,
                "images_per_second": 1000.0,
                "seconds": pause,
            }
        )


def stub_files(shards: Any) -> dict[str, bytes]:
    """Of a finished trial: as large as those of a small set, and the same for all."""
    import numpy as np

    from raysearch.data.dataset import load_dataset
    from raysearch.probabilities import Probabilities, write_probabilities

    dataset = load_dataset(shards, images_on="host")
    rng = np.random.default_rng(0)
    probs_VK = rng.dirichlet(np.ones(len(dataset.classes)), len(dataset.validation))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validation.arrow"
        candidates = {name: probs_VK.astype(np.float16) for name in ("ema", "ema_mirror")}
        write_probabilities(
            path,
            Probabilities(
                candidates=candidates,
                split="validation",
                digest=dataset.validation.digest,
                classes=dataset.classes,
                epoch=EPOCHS,
                precision=dict.fromkeys(candidates, "fp32"),
            ),
        )
        probabilities = path.read_bytes()
    status = {"status": "completed", "epochs": EPOCHS, "error": ""}
    return {
        "validation.arrow": probabilities,
        "status.json": json.dumps(status).encode(),
        "best/model.safetensors": bytes(1000),
    }


class Clock:
    """Seconds spent in methods, by what they are for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, what: str, owner: type, *methods: str) -> None:
        for name in methods:
            setattr(owner, name, self._timed(what, getattr(owner, name)))

    def _timed(self, what: str, method: Any) -> Any:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[what] = self.seconds.get(what, 0) + time.perf_counter() - begin

        return timed


def measure(address: str, folder: Path, nodes: int, trials: int, seconds: float) -> dict[str, Any]:
    """Search with stubs on the cluster at ``address``, whose nodes share ``folder``."""
    import numpy as np
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

    run = folder / f"run-{nodes}-{np.random.default_rng().integers(1 << 30)}"
    run.mkdir(parents=True)
    (run / "space.yaml").write_text(SPACE.format(trials=trials, epochs=EPOCHS))
    space = load_space(run / "space.yaml")
    synthesize(run / "faces", images=600)
    os.environ["RAY_ADDRESS"] = address
    plan = make_plan(space, find_capacity())
    trial = functools.partial(stub, stub_files(run / "faces"), str(run), seconds / EPOCHS)
    tuner.make_trainable = lambda plan, *_: tune.with_resources(trial, plan.resources)
    clock, reports = Clock(), []
    clock.watch("ledger", StudySearcher, "suggest", "on_trial_result", "on_trial_complete")
    clock.watch("retention", Retention, "on_trial_complete")
    clock.watch("progress", Progress, "on_trial_start", "on_trial_result", "on_trial_complete")
    shown = Progress.on_trial_result

    def on_trial_result(self: Progress, *args: Any, **kwargs: Any) -> None:
        reports.append(time.monotonic())
        shown(self, *args, **kwargs)

    Progress.on_trial_result = on_trial_result
    with ray_cluster(1, address), open(run / "log", "w") as log:
        options = {"seed": 0, "deadline": None, "console": Console(file=log)}
        end = tuner.run_search(RunPlace(run), run / "faces", space, plan, **options)
    assert end.statuses == {"completed": trials}, end
    ideal = 3600 * plan.concurrent / seconds
    hourly = 3600 * trials / end.seconds
    # From when the processes are up: those of a real search start once, too, but run for hours.
    running = reports[-1] - reports[0] + seconds / EPOCHS
    return {
        "nodes": nodes,
        "slots": plan.concurrent,
        "trials": trials,
        "trial_seconds": seconds,
        "trials_per_hour": round(hourly),
        "ideal": round(ideal),
        "share_of_ideal": round(hourly / ideal, 3),
        "share_once_started": round(3600 * trials / running / ideal, 3),
        "search_seconds": round(end.seconds, 1),
        "first_report_after_s": round(end.seconds - running, 1),
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **{f"{what}_s": round(spent, 2) for what, spent in sorted(clock.seconds.items())},
        "ledger_ms_per_trial": round(1000 * clock.seconds["ledger"] / trials, 2),
    }


@contextmanager
def fake_nodes(count: int, cpus: int) -> Iterator[str]:
    """Address of a Ray of a head without CPUs and ``count`` nodes, all on this machine."""
    # Its ports are open to the network, so they want a token; and nobody else on this machine is
    # to find and join it. Ray reads both while it is imported.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="rs-")
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": 100_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**common, "num_cpus": 0, "include_dashboard": False},
    )
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=cpus, wait=False, **common)
        cluster.wait_for_nodes(timeout=600)
        yield cluster.address
    finally:
        cluster.shutdown()
        shutil.rmtree(os.environ.pop("RAY_TMPDIR"), ignore_errors=True)


def measure_fake(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for count in args.fake:
        with tempfile.TemporaryDirectory() as folder, fake_nodes(count, args.cpus) as address:
            row = measure(address, Path(folder), count, args.trials, args.trial_seconds)
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
            inner = [f"--join {count}", f"--trials {args.trials}", f"--cpus {args.cpus}"]
            inner += [f"--trial-seconds {args.trial_seconds}", "--folder /mnt/shared"]
            log = lab.shared() / "driver.log"
            job = cluster.on_head(f"python {Path(__file__).resolve()} {' '.join(inner)}", log)
            if job.wait():
                raise SystemExit(log.read_text())
            yield {"where": "hosts in namespaces", **json.loads(log.read_text().splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fake", type=int, nargs="*", default=[])
    parser.add_argument("--lab", type=int, nargs="*", default=[])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--trial-seconds", type=float, default=10.0)
    parser.add_argument("--cpus", type=int, default=1, help="of each node")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--join", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.join:
        print(json.dumps(measure("auto", args.folder, args.join, args.trials, args.trial_seconds)))
        return
    rows = []
    for row in (*measure_fake(args), *measure_lab(args)):
        rows.append(row | conditions("ray", "optuna"))
        print(json.dumps(row), flush=True)
    if args.out:
        write_table(args.out, rows)


if __name__ == "__main__":
    main()
