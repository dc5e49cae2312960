"""How far the score that a selection ends with is from the score on other images.

    python benchmarks/optimism.py [--run RUN] [--repeats 6] [--out results/optimism.csv]

Each way of combining candidates is fitted on some images and scored on others that it never saw.
Without a run: synthetic libraries (as in selection.py), fitted on 3,589 samples, scored on 12,000.
With one: its own validation images in random halves, images of equal pixels in the same half.
Optimism is the score on the images fitted on less that on the others; from it the same difference
of the plain mean of all candidates, which chooses nothing, is taken: that part is luck of the
draw. Positive is too good, for log loss too. The rows called nested hold the cross-validated
estimate in place of the score fitted on.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from conditions import conditions, write_table
from selection import make_library

from raysearch import metrics
from raysearch.ensemble.calibration import calibrate, fit_temperature, fit_temperatures, sharpen
from raysearch.ensemble.estimate import combine, grouped_folds, nested_estimate
from raysearch.ensemble.selection import select, select_bagged

SIZES = (10, 50)
FRESH = 12_000
TOP_K = 10


def greedy(objective: str) -> Callable:
    def weigh(calibrated_NVK, labels_V, rng):
        ones_N = np.ones(len(calibrated_NVK))
        return combine(calibrated_NVK, ones_N, labels_V, objective=objective).selection.weights_N

    return weigh


def bagged(objective: str) -> Callable:
    def weigh(calibrated_NVK, labels_V, rng):
        options = {"bags": 20, "fraction": 0.5, "steps": 25, "rng": rng}
        return select_bagged(calibrated_NVK, labels_V, objective=objective, **options).weights_N

    return weigh


def sorted_start(calibrated_NVK, labels_V, rng):
    return select(calibrated_NVK, labels_V, sorted_start=min(TOP_K, 50)).weights_N


def top(k: int) -> Callable:
    def weigh(calibrated_NVK, labels_V, rng):
        losses = [metrics.log_loss(probs_VK, labels_V) for probs_VK in calibrated_NVK]
        best = np.argsort(losses, kind="stable")[:k]
        return np.bincount(best, minlength=len(losses)) / len(best)

    return weigh


METHODS = {
    "greedy, log loss": greedy("log_loss"),
    "greedy, accuracy": greedy("accuracy"),
    "20 bags of half, log loss": bagged("log_loss"),
    "20 bags of half, accuracy": bagged("accuracy"),
    "greedy from the best 10, log loss": sorted_start,
    "mean of the best 10": top(TOP_K),
    "best single": top(1),
}


def scores(probs_VK, labels_V) -> np.ndarray:
    return np.array([metrics.accuracy(probs_VK, labels_V), metrics.log_loss(probs_VK, labels_V)])


def compare(fitted, other, groups_V, rng) -> Iterator[tuple[str, np.ndarray, np.ndarray, int]]:
    """Method, scores where it was fitted, scores elsewhere (accuracy, log loss), members."""
    (probs_NVK, labels_V), (fresh_NVK, fresh_V) = fitted, other
    temperature_N = fit_temperatures(probs_NVK, labels_V)
    calibrated_NVK = calibrate(probs_NVK, temperature_N)
    elsewhere_NVK = calibrate(fresh_NVK, temperature_N)
    everywhere = {"mean of all": lambda calibrated_NVK, labels_V, rng: np.full(N, 1 / N)}
    N = len(probs_NVK)
    for name, weigh in (everywhere | METHODS).items():
        weights_N = weigh(calibrated_NVK, labels_V, rng)
        members = np.flatnonzero(weights_N)
        mean_VK = np.tensordot(weights_N[members], calibrated_NVK[members], 1)
        temperature = fit_temperature(mean_VK, labels_V)
        fresh_VK = np.tensordot(weights_N[members], elsewhere_NVK[members], 1)
        outside = scores(sharpen(fresh_VK, temperature), fresh_V)
        yield name, scores(sharpen(mean_VK, temperature), labels_V), outside, len(members)
        if name.startswith("greedy, "):
            objective = name.removeprefix("greedy, ").replace(" ", "_")
            nested = nested_estimate(probs_NVK, labels_V, groups_V, rng=rng, objective=objective)
            inside = np.array([nested.accuracy, nested.log_loss])
            yield f"nested, {name.removeprefix('greedy, ')}", inside, outside, len(members)


def synthetic(candidates: int, repeats: int) -> Iterator[tuple]:
    for seed in range(repeats):
        probs_NVK, labels_V = make_library(candidates, 3589 + FRESH, seed)
        parts = np.arange(3589), np.arange(3589, 3589 + FRESH)
        yield *[(np.ascontiguousarray(probs_NVK[:, part]), labels_V[part]) for part in parts], None


def halves(run: Path, repeats: int) -> Iterator[tuple]:
    """Random halves of the run's validation images, each fitted on and scored on in turn."""
    from raysearch.ensemble.build import open_data
    from raysearch.ensemble.library import load_library

    library = load_library(run, open_data(run))
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        half_V = grouped_folds(library.labels_V, library.groups_V, 2, rng)
        for half in (0, 1):
            parts = [
                (np.ascontiguousarray(library.probs_NVK[:, rows]), library.labels_V[rows])
                for rows in (half_V == half, half_V != half)
            ]
            yield *parts, library.groups_V[half_V == half]


def study(source: str, libraries: Iterator[tuple]) -> list[dict]:
    found: dict[tuple[int, str], list] = {}
    images = 0
    for number, (fitted, other, groups_V) in enumerate(libraries):
        rng = np.random.default_rng(number)
        total, images = len(fitted[0]), len(fitted[1])
        groups_V = np.arange(images) if groups_V is None else groups_V
        for size in [*(s for s in SIZES if s < total), total]:
            chosen = rng.permutation(total)[:size]
            small = [(probs_NVK[chosen], labels_V) for probs_NVK, labels_V in (fitted, other)]
            rows = list(compare(*small, groups_V, rng))
            luck = rows[0][1] - rows[0][2]
            for name, inside, outside, members in rows:
                values = [*inside, *outside, *(inside - outside - luck), members]
                found.setdefault((size, name), []).append(values)
        print(f"{source}: repeat {number + 1} done", flush=True)
    return [row(source, images, *key, np.array(values)) for key, values in found.items()]


def row(source: str, images: int, candidates: int, method: str, values: np.ndarray) -> dict:
    mean = values.mean(axis=0).tolist()
    error = (values.std(axis=0, ddof=1) / np.sqrt(len(values))).tolist()
    return {
        "library": source,
        "candidates": candidates,
        "images_fitted_on": images,
        "repeats": len(values),
        "method": method,
        "members": round(mean[6], 1),
        "accuracy_fitted": round(mean[0], 5),
        "accuracy_elsewhere": round(mean[2], 5),
        "accuracy_optimism": round(mean[4], 5),
        "accuracy_optimism_se": round(error[4], 5),
        "log_loss_fitted": round(mean[1], 5),
        "log_loss_elsewhere": round(mean[3], 5),
        "log_loss_optimism": round(-mean[5], 5),
        "log_loss_optimism_se": round(error[5], 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run's folder; synthetic libraries without")
    parser.add_argument("--candidates", type=int, default=500, help="of a synthetic library")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("results/optimism.csv"))
    options = parser.parse_args()
    if options.run:
        rows = study(options.run.resolve().name, halves(options.run, options.repeats))
    else:
        rows = study("synthetic", synthetic(options.candidates, options.repeats))
    about = conditions("numpy", "numba")
    rows = [one | about for one in rows]
    write_table(options.out, rows)
    for one in rows:
        print({key: value for key, value in one.items() if key not in about})


if __name__ == "__main__":
    main()
