"""What AutoGluon's EnsembleSelection adds, recorded because it cannot be installed beside us: it
wants pandas below 2.4 and pyarrow below 25.

    python tests/ensemble/autogluon_answers.py

writes tests/assets/autogluon_selection.json, in an environment of autogluon.core and numpy.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

STEPS = 25
LIBRARIES = [(seed, 15, 1201, 5) for seed in range(4)] + [(4, 60, 400, 7), (5, 8, 150, 2)]
"""Seed, candidates, samples, classes."""


def make_library(seed: int, candidates: int, samples: int, classes: int):
    """Random candidates that share some of their errors, float32 rows that sum to 1."""
    rng = np.random.default_rng(seed)
    labels_V = rng.integers(0, classes, samples)
    logits = rng.normal(size=(candidates, samples, classes)) + rng.normal(size=(samples, classes))
    logits += 2 * np.eye(classes)[labels_V]
    probs_NVK = np.exp(logits)
    probs_NVK /= probs_NVK.sum(axis=2, keepdims=True)
    return probs_NVK.astype(np.float32), labels_V


def autogluon_order(probs_NVK, labels_V, objective: str) -> list[int]:
    """The additions up to the best, under its deterministic tie rule."""
    from autogluon.core import metrics
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    selector = EnsembleSelection(
        ensemble_size=STEPS,
        problem_type="binary" if probs_NVK.shape[2] == 2 else "multiclass",
        metric=getattr(metrics, objective),
        tie_breaker="second_metric",
    )
    probs_NVK = probs_NVK.astype(np.float64)
    selector.fit(list(probs_NVK[:, :, 1] if probs_NVK.shape[2] == 2 else probs_NVK), labels_V)
    return [int(n) for n in selector.indices_]


def main() -> None:
    orders = {
        objective: {
            "x".join(map(str, library)): autogluon_order(*make_library(*library), objective)
            for library in LIBRARIES
        }
        for objective in ("accuracy", "log_loss")
    }
    path = Path(__file__).parents[1] / "assets" / "autogluon_selection.json"
    recorded = {"autogluon.core": version("autogluon.core"), "steps": STEPS, "orders": orders}
    path.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
