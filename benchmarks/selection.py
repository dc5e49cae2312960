"""Time greedy selection beside the usual way, one metric call per candidate and step.

    python benchmarks/selection.py [--candidates 1000] [--peer-steps 3] [--out FILE]
    python benchmarks/selection.py --scale [--out FILE]

Ours counts everything from the probabilities to the weights. The peers are a loop over NumPy
metrics, and AutoGluon's EnsembleSelection where `autogluon.core` can be imported. Each of a
peer's steps is the same work, so it is timed over the first few and scaled to all of them; the
table says over how many. All programs run in turn in one process, on synthetic probabilities.

With ``--scale``: seconds and memory of ours alone for libraries of up to 10,000 candidates.
"""

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np

from raysearch import metrics
from raysearch.ensemble.selection import select

DEFAULT_OUT = "results/selection.csv"
SIZES = (500, 1000, 2000, 5000, 10_000)
SHARES_K = np.array([0.13, 0.015, 0.14, 0.25, 0.165, 0.12, 0.18])  # of FER2013's classes


def make_library(candidates: int, samples: int, seed: int):
    """Twelve families of candidates, five checkpoints a trial, all of them near 73% right."""
    rng = np.random.default_rng(seed)
    classes = len(SHARES_K)
    labels_V = rng.choice(classes, samples, p=SHARES_K / SHARES_K.sum())
    truth_VK = np.eye(classes)[labels_V]
    hard_VK = rng.normal(size=(samples, classes))
    family_FVK = rng.normal(size=(12, samples, classes))
    probs_NVK = np.empty((candidates, samples, classes), np.float32)
    for n in range(candidates):
        if n % 5 == 0:
            family, skill, sharpness = rng.integers(12), rng.normal(2, 0.1), rng.uniform(0.8, 2.5)
            trial_VK = rng.normal(size=(samples, classes))
        noise_VK = 0.22 * (family_FVK[family] + trial_VK) + rng.normal(0, 0.12, trial_VK.shape)
        powers_VK = np.exp(sharpness * (skill * truth_VK + hard_VK + noise_VK))
        probs_NVK[n] = powers_VK / powers_VK.sum(axis=1, keepdims=True)
    return probs_NVK, labels_V


def numpy_loop(probs_NVK, labels_V, objective: str, steps: int) -> list[int]:
    """The usual way: score the mean with every candidate, one at a time."""
    score = metrics.accuracy if objective == "accuracy" else metrics.log_loss
    sign = -1 if objective == "accuracy" else 1
    total_VK = np.zeros(probs_NVK.shape[1:])
    order: list[int] = []
    for step in range(1, steps + 1):
        losses = [sign * score((total_VK + p) / step, labels_V) for p in probs_NVK]
        best = int(np.argmin(losses))
        total_VK += probs_NVK[best]
        order.append(best)
    return order


def autogluon(probs_NVK, labels_V, objective: str, steps: int) -> list[int]:
    from autogluon.core import metrics as scorers
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    selector = EnsembleSelection(
        ensemble_size=steps,
        problem_type="multiclass",
        metric=getattr(scorers, objective),
        tie_breaker="second_metric",
    )
    selector.fit(list(probs_NVK), labels_V)
    return [int(n) for n in selector.indices_]


def ours(probs_NVK, labels_V, objective: str, steps: int) -> list[int]:
    return list(select(probs_NVK, labels_V, objective=objective, steps=steps).order)


def timed(program: Callable, runs: int, *arguments) -> tuple[float, list[int]]:
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        order = program(*arguments)
        seconds.append(time.perf_counter() - begin)
    return median(seconds), order


def peers() -> list[tuple[str, Callable]]:
    found: list[tuple[str, Callable]] = [("numpy loop", numpy_loop)]
    try:
        found.append((f"autogluon.core {metadata.version('autogluon.core')}", autogluon))
    except metadata.PackageNotFoundError:
        print("autogluon.core is not installed: compared with the NumPy loop alone")
    return found


def compare(probs_NVK, labels_V, options) -> list[dict]:
    rows = []
    for objective in ("accuracy", "log_loss"):
        begin = time.perf_counter()
        ours(probs_NVK, labels_V, objective, 1)
        first = time.perf_counter() - begin
        full = (probs_NVK, labels_V, objective, options.steps)
        own, order = timed(ours, options.runs, *full)
        rows.append(_row(objective, "raysearch", options.steps, options.runs, own, first=first))
        short = (probs_NVK, labels_V, objective, options.peer_steps)
        for name, program in peers():
            seconds, theirs = timed(program, options.peer_runs, *short)
            seconds *= options.steps / options.peer_steps
            row = _row(objective, name, options.peer_steps, options.peer_runs, seconds)
            row |= {"ratio": round(seconds / own, 1), "same_order": _agree(order, theirs)}
            rows.append(row)
    return rows


def scale(options) -> list[dict]:
    """Growing libraries: wall and CPU seconds of a whole selection, cost per candidate and step,
    and the peak of memory over the library's own size (1: nothing beside it)."""
    largest_NVK, labels_V = make_library(max(SIZES), options.samples, seed=0)
    rows = []
    for candidates in SIZES:
        probs_NVK = largest_NVK[:candidates]
        for objective in ("log_loss", "accuracy"):
            ours(probs_NVK[:50], labels_V, objective, 1)  # compiles
            before = _resident(forget_peak=True)["VmRSS"]
            full = (probs_NVK, labels_V, objective, options.steps)
            spent = [_spent(*full) for _ in range(options.runs)]
            wall, cpu = (median(seconds) for seconds in zip(*spent, strict=True))
            beside = _resident()["VmHWM"] - before
            rows.append(
                {
                    "objective": objective,
                    "candidates": candidates,
                    "runs": options.runs,
                    "seconds": round(wall, 3),
                    "cpu_seconds": round(cpu, 3),
                    "cpu_microseconds_per_candidate_and_step": round(
                        1e6 * cpu / candidates / options.steps, 2
                    ),
                    "memory_over_library": round(1 + beside / probs_NVK.nbytes, 2),
                }
            )
    return rows


def _spent(*arguments) -> tuple[float, float]:
    """Wall and CPU seconds of one selection."""
    wall, cpu = time.perf_counter(), time.process_time()
    ours(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def _resident(forget_peak: bool = False) -> dict[str, int]:
    """Bytes of memory in use now (``VmRSS``) and at most (``VmHWM``), as Linux counts them."""
    if forget_peak:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}


def _agree(order: list[int], theirs: list[int]) -> str:
    """Leading additions in common, of those that the peer reports (its best prefix)."""
    same = next((i for i, n in enumerate(theirs) if n != order[i]), len(theirs))
    return f"{same} of {len(theirs)}"


def _row(objective, program, timed_steps, runs, seconds, first=None) -> dict:
    return {
        "objective": objective,
        "program": program,
        "timed_steps": timed_steps,
        "runs": runs,
        "median_seconds_all_steps": round(seconds, 4),
        "first_call_seconds": round(first, 2) if first else "",
        "ratio": 1,
        "same_order": "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=3589)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peer-steps", type=int, default=3)
    parser.add_argument("--peer-runs", type=int, default=3)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if options.scale:
        rows = scale(options)
    else:
        rows = compare(*make_library(options.candidates, options.samples, seed=0), options)
    out = options.out or Path("results/selection_scale.csv" if options.scale else DEFAULT_OUT)
    conditions = {
        "candidates": options.candidates,
        "samples": options.samples,
        "classes": len(SHARES_K),
        "steps": options.steps,
        "data": "synthetic",
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "load_before": round(load, 1),
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "numba": metadata.version("numba"),
        "date": datetime.now(UTC).date().isoformat(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, conditions | rows[0])
        writer.writeheader()
        writer.writerows(conditions | row for row in rows)
    for row in rows:
        print({key: value for key, value in row.items() if value != ""})
    print(out)


if __name__ == "__main__":
    main()
