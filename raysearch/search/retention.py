"""Which weights a run keeps: those that can still matter, within what it may take of the disk.

All probabilities stay, so that the leaderboard and its figures are whole; of a trial that has
ended, weights matter where it is a member of the best ensemble so far, then by its log loss.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from raysearch.data.shards import Shards
from raysearch.ensemble.estimate import fit_ensemble
from raysearch.ensemble.library import load_library
from raysearch.storage.runs import RunPlace
from raysearch.train.curve import read_metrics
from raysearch.train.trial import FAILURES, TrialFolder, trial_folders, trial_name

ENDED = ("completed", "pruned", *FAILURES)
CHECK_SECONDS = 1.0
"""How often the size of a run with a limit is looked at, where that is quick."""
CHECK_SHARE = 0.05
"""Of the driver's time, at most, goes into looking: a long search has many files."""
STEPS = 50


class Retention(tune.Callback):
    """After every trial keeps the weights of ``keep`` trials, and all the time the folder ``run``
    below ``max_bytes`` (None: no limit) with room for the export.

    ``full`` says why that cannot be done any more, and is "" until then.
    """

    def __init__(self, place: RunPlace, shards: Shards, keep: int, max_bytes: int | None):
        self.place, self.shards, self.keep, self.max_bytes = place, shards, keep, max_bytes
        self.next_check, self.full = 0.0, ""
        self.holding: list[TrialFolder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        if trial.last_result.get("status") != "interrupted":  # which is gone on with
            self.on_trial_error(iteration, trials, trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        # Looking at every trial after every trial would be what a long search does most.
        if self.holding is None:
            keep_best(self.place, self.shards, self.keep)
            self.holding = _with_weights(self.place.path)
            return
        folder = TrialFolder(self.place.path / trial_name(trial.config["trial"]))
        self.place.remove(folder.checkpoint)
        self.holding = [f for f in (*self.holding, folder) if f.best.is_dir()]
        _keep_best_of(self.holding, self.place, self.shards, self.keep)

    def on_step_end(self, iteration: int, trials: list, **_: Any) -> None:
        begin = time.monotonic()
        if self.max_bytes is not None and not self.full and begin >= self.next_check:
            self.full = shrink(self.place, self.shards, self.max_bytes)
            took = time.monotonic() - begin
            self.next_check = begin + max(CHECK_SECONDS, took / CHECK_SHARE)


def keep_best(place: RunPlace, shards: Shards, keep: int) -> None:
    """Remove the weights of all but ``keep`` of the trials that have ended, and their
    checkpoints, which nothing goes on from."""
    for folder in _ended(place.path):
        place.remove(folder.checkpoint)
    _keep_best_of(_with_weights(place.path), place, shards, keep)


def _keep_best_of(holding: list[TrialFolder], place: RunPlace, shards: Shards, keep: int) -> None:
    if len(holding) > keep:
        members, others = useful_first(place.path, shards, holding)
        for folder in (members + others)[keep:]:
            place.remove(folder.best)


def shrink(place: RunPlace, shards: Shards, max_bytes: int) -> str:
    """Remove weights, the least useful first, until the run and the export of its ensemble take
    at most ``max_bytes``; members of the ensemble stay. Returns why that is not enough, or ""."""
    run = place.path
    if size_of(run) + 2 * sum(size_of(f.best) for f in _with_weights(run)) <= max_bytes:
        return ""
    members, others = useful_first(run, shards, _with_weights(run))
    export = 2 * sum(size_of(folder.best) for folder in members)
    while size_of(run) + export > max_bytes and others:
        folder = others.pop()
        place.remove(folder.best)
        place.remove(folder.snapshots)  # which may be links to the same files
    size = size_of(run)
    if size + export <= max_bytes:
        return ""
    return (
        f"{place} takes {size / 1e6:,.1f} MB and its export about {export / 1e6:,.1f} MB, "
        f"of {max_bytes / 1e6:,.1f} MB allowed, and no weights are left to remove but those of "
        "running trials and of the best ensemble so far"
    )


def useful_first(
    run: Path, shards: Shards, folders: list[TrialFolder]
) -> tuple[list[TrialFolder], list[TrialFolder]]:
    """Of ``folders``, ended trials that have weights: members of the best ensemble that these can
    form, heaviest first, and the others, lowest log loss first."""
    holding = {int(folder.path.name): folder for folder in folders}
    library = load_library(run, shards, trials=holding)
    weight: dict[int, float] = {}
    if len(library):
        ensemble = fit_ensemble(
            library.probs_NVK, library.labels_V, objective="log_loss", steps=STEPS
        )
        for n in ensemble.selection.members:
            number = library.candidates[n].trial
            weight[number] = weight.get(number, 0.0) + float(ensemble.selection.weights_N[n])
    members = sorted(weight, key=lambda number: -weight[number])
    others = sorted(holding.keys() - weight.keys(), key=lambda n: _log_loss(holding[n]))
    return [holding[n] for n in members], [holding[n] for n in others]


def size_of(folder: Path) -> int:
    """Bytes of all files under ``folder``, each once, however many links it has; files that come
    and go meanwhile may be left out."""
    total, linked = 0, set()
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(os.path.join(path, name))
            except FileNotFoundError:
                continue
            if stat.st_nlink > 1:
                if (stat.st_dev, stat.st_ino) in linked:
                    continue
                linked.add((stat.st_dev, stat.st_ino))
            total += stat.st_size
    return total


def _ended(run: Path) -> list[TrialFolder]:
    return [f for f in trial_folders(run) if f.read_status()["status"] in ENDED]


def _with_weights(run: Path) -> list[TrialFolder]:
    return [folder for folder in _ended(run) if folder.best.is_dir()]


def _log_loss(folder: TrialFolder) -> float:
    rows = read_metrics(folder.metrics)
    return min((row["validation_log_loss"] for row in rows), default=np.inf)
