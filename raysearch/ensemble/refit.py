"""The selected members trained again on train and validation, before they are exported.

The usual last step of a competition, and of auto-sklearn (`refit`) and AutoGluon (`refit_full`):
what was held out to select by is a tenth more to learn from. No image is left that would tell how
good the result is: the score that is reported stays the nested estimate of the selection.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysearch.data.dataset import load_merged
from raysearch.data.shards import Shards
from raysearch.ensemble.member import Member, weights_of
from raysearch.train.device import default_device
from raysearch.train.refit import refit_trial
from raysearch.train.trial import TrialFolder, TrialRecord

FOLDER = "refit"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Refitted:
    """Members whose weights have seen validation; their weights in the vote and temperatures are
    those of the selection. ``account`` is ``refit`` of `EnsembleReport`."""

    members: list[Member]
    records: dict[int, TrialRecord]
    account: dict[str, Any]


_LEFT = {"ema": "model", "last": "model", "raw": "raw"}
"""Weights of a candidate to those that training leaves, whose last epoch is the chosen one."""


def refit_members(
    run: Path,
    members: Sequence[Member],
    epochs: Mapping[int, int],
    shards: Shards,
    on_progress: Progress = lambda line: None,
) -> Refitted:
    """Train the trials of ``members`` again, each for as many ``epochs`` (by trial) as its selected
    weights had, in ``RUN/refit``. What is whole there already is taken."""
    begin, device = time.monotonic(), default_device()
    dataset = load_merged(shards.path, device, classes=shards.classes)
    records, folders = {}, {}
    for number, trial in enumerate(epochs, start=1):
        folders[trial] = run / FOLDER / "trials" / f"{trial:04d}"
        about = f"refit {number} of {len(epochs)}, trial {trial}"
        on_progress(f"{about}: {len(dataset.train):,} images, {epochs[trial]} epochs")
        records[trial] = refit_trial(
            folders[trial],
            TrialFolder(run / "trials" / f"{trial:04d}"),
            epochs[trial],
            dataset,
            device=device,
            on_epoch=lambda epoch, about=about: on_progress(f"{about}: epoch {epoch} done"),
        )
    return Refitted(
        members=[
            replace(m, weights_file=folders[m.trial] / "best" / f"{left}.safetensors")
            for m in members
            for left in [_LEFT[weights_of(m.candidate)]]
        ],
        records=records,
        account={
            "images": len(dataset.train),
            "epochs": {str(trial): count for trial, count in epochs.items()},
            "seconds": time.monotonic() - begin,
        },
    )
