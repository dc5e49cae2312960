"""What a trial costs beyond its own training, five ways.

    python benchmarks/overhead.py [--out results/overhead.csv]

The same network, drawn faces and epochs, one trial after the other on one thread:

raysearch-inline    our search, its default executor
raysearch-train     our search, each trial by Ray Train with one worker
tune-function       a bare function given to Ray Tune, with Tune's defaults
tune-torchtrainer   Ray's documented way to tune with Ray Train: a function that fits a
                    `TorchTrainer` and hands on what it reports by `TuneReportCallback`
optuna              a plain `Study.optimize`, no other process

All take turns, one session each (a process of its own, with a Ray of its own) for every block. All
trials report every epoch and save their weights with it; ours leave the trial's whole folder. The
documented way is polled as often as ours, every 0.1 s where Ray's default is 2 s, in its favour.

A trial's time is from the end of the `fit` before it, or from the start of the search once Ray is
up, to the end of its own. Taken off is the time inside its own `fit`, without what `fit` waits for
its reports. A new process's first steps are slow and count as `fit`, which is in favour of the
ways that start one for every trial.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from conditions import conditions, write_table

from raysearch.config import parse_train_config
from raysearch.data.dataset import load_dataset
from raysearch.data.synthetic import synthesize
from raysearch.train.loop import EpochEnd, fit

EPOCHS, IMAGES = 3, 500
LOWEST, HIGHEST = 0.001, 0.1  # learning rate
NETWORK = {"name": "vgg", "width": 8, "depth": 4}
TRAIN = {"model": NETWORK, "image_size": 24, "batch_size": 64, "precision": "fp32"}
SPACE = {
    "description": "a small network",
    "search": {"epochs": EPOCHS, "sampler": "tpe", "scheduler": "none"},
    "train": TRAIN | {"lr": {"float": [LOWEST, HIGHEST], "log": True}},
}


def timed_fit(times: Path | str) -> Callable[..., None]:
    """`fit` that adds a line to ``times``: when it began, when it ended, how long its reports
    took."""

    def timed(config: Any, dataset: Any, report: Any, *arguments: Any, **options: Any) -> None:
        waited = 0.0

        def timed_report(end: EpochEnd) -> None:
            nonlocal waited
            begin = time.monotonic()
            report(end)
            waited += time.monotonic() - begin

        begin = time.monotonic()  # on Linux one clock for all processes
        fit(config, dataset, timed_report, *arguments, **options)
        note(times, begin=begin, end=time.monotonic(), waited=waited)

    return timed


def note(times: Path | str, **moments: float) -> None:
    with open(times, "a") as file:
        file.write(json.dumps(moments) + "\n")


def train(given: dict[str, Any], report: Callable, checkpoint: Callable[[str], Any]) -> None:
    """A trial as others write it: every epoch reports metrics and a folder of weights."""
    torch.set_num_threads(1)

    def on_epoch(end: EpochEnd) -> None:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(end.training.network.state_dict(), f"{folder}/network.pt")
            report(end.metrics, checkpoint=checkpoint(folder))

    config = parse_train_config(TRAIN | {"epochs": EPOCHS, "lr": given["lr"]})
    timed_fit(given["times"])(config, load_dataset(given["data"]), on_epoch, device="cpu")


def search_ours(executor: str, folder: Path, data: Path, trials: int) -> None:
    from rich.console import Console

    from raysearch.search import tuner
    from raysearch.search.capacity import Capacity, Machine
    from raysearch.search.cluster import ray_cluster
    from raysearch.search.plan import make_plan
    from raysearch.space import load_space
    from raysearch.storage.runs import RunPlace

    (folder / "space.yaml").write_text(json.dumps(SPACE))  # JSON is YAML
    space, times = load_space(folder / "space.yaml"), folder / "times"
    plan = make_plan(space, Capacity((Machine(1, 0),), 1), trials=trials, executor=executor)
    tuner.train_inline = timed_inline(times)
    tuner.TrainTrial = timed_train_trial(tuner.TrainTrial, times)
    with ray_cluster(plan.threads), open(folder / "log", "w") as log:
        options = {"seed": 0, "deadline": None, "console": Console(file=log)}
        note(times, begin=time.monotonic())
        end = tuner.run_search(RunPlace(folder), data, space, plan, **options)
    assert end.statuses == {"completed": trials}, end


def timed_inline(times: Path) -> Callable[[dict], None]:
    def train_inline(payload: dict[str, Any]) -> None:
        from raysearch.search import worker
        from raysearch.train import runner

        runner.fit = timed_fit(times)
        worker.train_inline(payload)

    return train_inline


def timed_train_trial(base: type, times: Path) -> type:
    def train_worker(payload: dict[str, Any]) -> None:
        from raysearch.search import train_executor
        from raysearch.train import runner

        runner.fit = timed_fit(times)
        train_executor.train_worker(payload)

    class Timed(base):
        def setup(self, config: dict[str, Any]) -> None:
            from raysearch.search import train_executor

            train_executor.train_worker = train_worker
            super().setup(config)

    return Timed


def search_tune(trainable: Callable[[dict], None], folder: Path, data: Path, trials: int) -> None:
    # Ray reads how to authenticate while it is imported, and would write a token into the home.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1")
    import ray
    from ray import tune

    given = {"data": str(data), "times": str(folder / "times"), "folder": str(folder)}
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    note(folder / "times", begin=time.monotonic())
    results = tune.Tuner(
        trainable,
        param_space={"lr": tune.loguniform(LOWEST, HIGHEST), **given},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    ray.shutdown()
    assert results.num_terminated == trials and not results.num_errors, results


def search_function(folder: Path, data: Path, trials: int) -> None:
    def trial(config: dict[str, Any]) -> None:
        from ray.tune import Checkpoint, report

        train(config, report, Checkpoint.from_directory)

    search_tune(trial, folder, data, trials)


def search_torchtrainer(folder: Path, data: Path, trials: int) -> None:
    """After the example in Ray's guide "Hyperparameter Tuning with Ray Tune" (of Ray Train)."""

    def worker(config: dict[str, Any]) -> None:
        from ray.train import Checkpoint, report

        train(config, report, Checkpoint.from_directory)

    def driver(config: dict[str, Any]) -> None:
        import ray.train
        from ray import tune
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        TorchTrainer(
            worker,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=f"train-trial_id={tune.get_context().get_trial_id()}",
                storage_path=config["folder"],
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    search_tune(driver, folder, data, trials)


def search_optuna(folder: Path, data: Path, trials: int) -> None:
    import optuna

    def objective(trial: optuna.Trial) -> float:
        losses = []

        def report(metrics: dict, checkpoint: str) -> None:
            losses.append(metrics["validation_log_loss"])
            trial.report(losses[-1], metrics["epoch"])

        lr = trial.suggest_float("lr", LOWEST, HIGHEST, log=True)
        train({"lr": lr, "data": data, "times": folder / "times"}, report, str)
        return min(losses)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    note(folder / "times", begin=time.monotonic())
    study.optimize(objective, n_trials=trials)


WAYS: dict[str, Callable[[Path, Path, int], None]] = {
    "raysearch-inline": partial(search_ours, "inline"),
    "raysearch-train": partial(search_ours, "train"),
    "tune-function": search_function,
    "tune-torchtrainer": search_torchtrainer,
    "optuna": search_optuna,
}
QUICK = {"raysearch-inline": 4, "optuna": 4}  # times as many trials


def costs(lines: list[str]) -> list[tuple[float, float]]:
    """(seconds beyond its fit, seconds of its fit) of each trial of a session."""
    start, *fits = map(json.loads, lines)
    since, found = start["begin"], []
    for moments in fits:
        own = moments["end"] - moments["begin"] - moments["waited"]
        found.append((moments["end"] - since - own, own))
        since = moments["end"]
    return found


def session(way: str, folder: Path, data: Path, trials: int) -> list[tuple[float, float]]:
    folder.mkdir()
    command = [sys.executable, __file__, "--session", way, folder, data, "--trials", str(trials)]
    with open(folder / "output", "w") as output:
        code = subprocess.run(command, stdout=output, stderr=output, timeout=900).returncode
    if code:
        raise SystemExit(f"{way} ended with {code}:\n{(folder / 'output').read_text()[-5000:]}")
    return costs((folder / "times").read_text().splitlines())


def summarize(way: str, sessions: list[list[tuple[float, float]]]) -> dict[str, Any]:
    later = [beyond for trials in sessions for beyond, _ in trials[1:]]
    return {
        "way": way,
        "sessions": len(sessions),
        "trials": sum(map(len, sessions)),
        "first_s": round(median(trials[0][0] for trials in sessions), 3),
        "median_s": round(median(later), 3),
        "p90_s": round(float(np.quantile(later, 0.9)), 3),
        "fit_median_s": round(median(own for trials in sessions for _, own in trials[1:]), 3),
        "share_of_5_minutes": round(median(later) / 300, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--trials", type=int, default=4, help="of a session; quick ways get more")
    parser.add_argument("--out", type=Path, default=Path("results/overhead.csv"))
    parser.add_argument("--session", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.session:
        way, folder, data = args.session
        WAYS[way](Path(folder), Path(data), args.trials)
        return
    under = conditions("ray", "optuna", "torch")
    found: dict[str, list] = {way: [] for way in args.ways}
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        data = Path(name) / "faces"
        synthesize(data, images=IMAGES)
        for block in range(args.blocks):
            for way in args.ways:
                folder, trials = Path(name) / f"{way}-{block}", args.trials * QUICK.get(way, 1)
                found[way].append(session(way, folder, data, trials))
                print(way, *(f"{beyond:.2f}" for beyond, _ in found[way][-1]), file=sys.stderr)
    rows = [summarize(way, sessions) | under for way, sessions in found.items()]
    write_table(args.out, rows)
    for row in rows:
        print(f"{row['way']:18} first {row['first_s']:6.2f} s, later {row['median_s']:7.3f} s")
    print(args.out)


if __name__ == "__main__":
    main()
