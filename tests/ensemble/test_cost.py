"""Costs of ensembles and the front of prefixes that are worth theirs."""

from pathlib import Path

import numpy as np
import pytest

from raysearch import metrics
from raysearch.config import parse_train_config
from raysearch.ensemble.cost import forward_passes, parameters_of, pareto_front
from raysearch.ensemble.library import Candidate
from raysearch.ensemble.member import CANDIDATES
from raysearch.ensemble.selection import OBJECTIVES, select

TRAIN = parse_train_config({"model": "mlp"})


def _candidate(trial, name, parameters):
    file, mirror = CANDIDATES[name]
    path = Path(f"{trial:04d}") / file
    return Candidate(trial, name, path, mirror, parameters, TRAIN, 1, "fp32")


def test_shared_weights_count_once_and_views_once():
    ema, mirrored = _candidate(0, "ema", 10), _candidate(0, "ema_mirror", 10)
    raw, other = _candidate(0, "raw", 10), _candidate(1, "ema", 7)
    assert parameters_of([ema, mirrored]) == 10
    assert parameters_of([ema, raw, other]) == 27
    assert forward_passes([ema]) == 1
    assert forward_passes([ema, mirrored]) == forward_passes([mirrored]) == 2
    assert forward_passes([ema, mirrored, other]) == 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_point_of_the_front_costs_more_and_scores_better(rng, objective):
    labels_V = rng.integers(0, 4, 400)
    logits = rng.normal(size=(20, 400, 4)) + 1.2 * np.eye(4)[labels_V]
    probs_NVK = np.exp(logits)
    probs_NVK = (probs_NVK / probs_NVK.sum(axis=2, keepdims=True)).astype(np.float32)
    candidates = [_candidate(n, "ema", int(rng.integers(1, 100))) for n in range(20)]
    selection = select(probs_NVK, labels_V, objective=objective)
    front = pareto_front(selection, candidates, probs_NVK, labels_V)
    params = [point["params"] for point in front]
    assert params == sorted(set(params))
    if objective != "macro_f1":
        sign = -1 if objective == "log_loss" else 1
        qualities = [sign * point[objective] for point in front]
        assert qualities == sorted(set(qualities))
    assert front[-1]["params"] <= parameters_of([candidates[n] for n in selection.members])
    assert all(point["latency_ms"] is None for point in front)
    best = max(metrics.accuracy(p, labels_V) for p in probs_NVK)
    if objective == "accuracy":
        assert front[-1]["accuracy"] >= best
