"""Which way of searching finds more in the same time: samplers and schedulers on real images.

    python benchmarks/strategies.py --data DIR --minutes 5 --seeds 0 1 2 --runs DIR --out FILE

Each run is the whole `raysearch tune`, on a stratified quarter of the training images and all of
validation, of networks so small that minutes on two cores pay for dozens of trials. Strategies
take turns within a seed, so that what else the machine does meets all of them; a run that is
finished in ``--runs`` already is taken as it is. Four times along each: the lowest validation log
loss of the trials that had ended, and the nested estimate of the ensemble that they make.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from conditions import conditions, write_table
from training import stratified

from raysearch.data.shards import Shards, open_shards, write_shards
from raysearch.ensemble.estimate import nested_estimate
from raysearch.ensemble.library import load_library
from raysearch.files import atomic_folder
from raysearch.train.curve import read_metrics
from raysearch.train.trial import TrialFolder, trial_folders

SPACE = """
search: {{trials: 10000, epochs: {epochs}, sampler: {sampler}, scheduler: {scheduler}, keep: 10000}}
train:
  schedule: one_cycle
  image_size: {{choice: [20, 24]}}
  batch_size: {{choice: [32, 64, 128]}}
  model:
    name: vgg
    width: {{choice: [4, 6, 8]}}
    depth: {{int: [4, 8]}}
    residual: {{choice: [false, true]}}
    dropout: {{float: [0.0, 0.5]}}
  optimizer: {{choice: [sgd, adamw]}}
  lr:
    - {{float: [0.003, 0.6], log: true, when: {{optimizer: sgd}}}}
    - {{float: [1e-4, 0.03], log: true, when: {{optimizer: adamw}}}}
  weight_decay: {{float: [1e-4, 0.2], log: true}}
  label_smoothing: {{float: [0.0, 0.3]}}
  augment:
    mirror: 0.5
    shift: {{float: [0.0, 0.2]}}
    rotate: {{float: [0, 30]}}
    erase: {{float: [0.0, 0.5]}}
"""
KNOWN = """
known:
  - {batch_size: 64, image_size: 24, model.width: 8, model.depth: 6, model.residual: false,
     model.dropout: 0.1, optimizer: sgd, lr: 0.08, weight_decay: 5e-3, label_smoothing: 0.1,
     augment.shift: 0.06, augment.rotate: 8, augment.erase: 0.0}
"""
STRATEGIES = {
    "random": ("random", "none", ""),
    "tpe": ("tpe", "none", ""),
    "random+asha": ("random", "asha", ""),
    "tpe+asha": ("tpe", "asha", ""),
    "tpe+asha+known": ("tpe", "asha", KNOWN),  # how the shipped space for GPUs searches
}
MOMENTS = (0.25, 0.5, 0.75, 1.0)


def quarter(data: Path, out: Path) -> Path:
    """Shards of a stratified quarter of train and the whole of validation."""
    if out.exists():
        return out
    shards = open_shards(data)
    train, validation = shards.split("train"), shards.split("validation")
    chosen = stratified(np.asarray(train.labels_N), 0.25)
    images = np.concatenate([train.images_NCHW[chosen], np.asarray(validation.images_NCHW)])
    labels = np.concatenate([train.labels_N[chosen], validation.labels_N])
    rows = {"train": np.arange(len(chosen)), "validation": np.arange(len(chosen), len(images))}
    with atomic_folder(out) as partial:
        source = {"kind": "a quarter", "of": shards.fingerprint}
        write_shards(partial, images, labels, [""] * len(images), rows, shards.classes, source)
    return out


def search(strategy: str, seed: int, data: Path, args: argparse.Namespace) -> Path:
    """The finished run of one strategy and seed."""
    name = f"{strategy.replace('+', '-')}-{seed}"
    run = args.runs / name
    if (run / "ensemble_report.json").exists():
        return run
    sampler, scheduler, known = STRATEGIES[strategy]
    space = args.runs / f"{name}.yaml"
    values = {"epochs": args.epochs, "sampler": sampler, "scheduler": scheduler}
    space.write_text(SPACE.format(**values) + known, encoding="utf-8")
    command = [sys.executable, "-m", "raysearch", "tune", space, "--data", data, "--name", name]
    command += ["--storage", args.runs, "--seed", seed, "--time-budget", f"{args.minutes}m"]
    with open(args.runs / f"{name}.log", "w", encoding="utf-8") as log:
        subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=True)
    return run


def ended_at(folder: TrialFolder) -> float:
    return folder.status.stat().st_mtime


def found(run: Path, shards: Shards) -> Iterator[dict[str, Any]]:
    """A row for each of `MOMENTS` of the time from the first start of a trial to the last end."""
    folders = [folder for folder in trial_folders(run) if read_metrics(folder.metrics)]
    begin = min(folder.config.stat().st_mtime for folder in folders)
    end = max(map(ended_at, folders))
    for moment in MOMENTS:
        now = begin + moment * (end - begin)
        ended = {int(folder.path.name): folder for folder in folders if ended_at(folder) <= now}
        row = {"share_of_time": moment, "search_seconds": round(now - begin), "ended": len(ended)}
        if ended:
            yield row | score(run, shards, ended)


def score(run: Path, shards: Shards, ended: dict[int, TrialFolder]) -> dict[str, Any]:
    curves = {number: read_metrics(folder.metrics) for number, folder in ended.items()}
    rows = [row for curve in curves.values() for row in curve]
    best = min(rows, key=lambda row: row["validation_log_loss"])
    statuses = [folder.read_status()["status"] for folder in ended.values()]
    library = load_library(run, shards, ended)
    nested = nested_estimate(
        library.probs_NVK, library.labels_V, library.groups_V, rng=np.random.default_rng(0)
    )
    return {
        "completed": statuses.count("completed"),
        "pruned": statuses.count("pruned"),
        "epochs": len(rows),
        "best_log_loss": round(best["validation_log_loss"], 4),
        "best_accuracy": round(best["validation_accuracy"], 4),
        "nested_log_loss": round(nested.log_loss, 4),
        "nested_accuracy": round(nested.accuracy, 4),
    }


def print_summary(rows: list[dict[str, Any]]) -> None:
    last: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["share_of_time"] == 1:
            last[row["strategy"]].append(row)
    for strategy, ends in last.items():
        told = []
        for name in ("best_log_loss", "nested_log_loss", "nested_accuracy", "ended"):
            values = [end[name] for end in ends]
            spread = stdev(values) if len(values) > 1 else float("nan")
            told.append(f"{name} {mean(values):.4f} (sd {spread:.4f})")
        print(f"{strategy:16} {len(ends)} seeds: {', '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="shards of the whole set")
    parser.add_argument("--runs", type=Path, required=True, help="where the searches are kept")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each search")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    data = quarter(args.data, args.runs / "quarter.shards")
    shards, rows = open_shards(data), []
    for seed in args.seeds:
        for strategy in args.strategies:
            about = {"strategy": strategy, "seed": seed, "minutes": args.minutes}
            run = search(strategy, seed, data, args)
            measured = conditions("optuna", "ray", "torch")
            rows += [about | row | measured for row in found(run, shards)]
            if args.out:
                write_table(args.out, rows)
        print_summary(rows)


if __name__ == "__main__":
    main()
