"""From a run's folder to its exported ensemble and an honest account of it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raysearch import metrics
from raysearch.data.classes import ClassError
from raysearch.data.shards import Shards, open_shards
from raysearch.ensemble import baselines
from raysearch.ensemble.calibration import calibrate
from raysearch.ensemble.cost import pareto_front
from raysearch.ensemble.estimate import Ensemble, NestedEstimate, fit_ensemble, nested_estimate
from raysearch.ensemble.library import Library, load_library
from raysearch.ensemble.member import Member
from raysearch.errors import ArtifactError
from raysearch.train.trial import trial_folders

_ROUNDS = 8
_FOLD_SEED = 0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EnsembleReport:
    """The content of ``raysearch ensemble --json``, and where the artifact is (``path``).

    ``validation`` is the score that selection ended with, optimistic; ``nested`` the
    cross-validated one. ``best_single`` and ``baselines`` are calibrated as the ensemble is.
    ``trajectory`` is the objective after each greedy step.
    """

    objective: str
    members: list[dict[str, Any]]
    validation: dict[str, float]
    nested: dict[str, float]
    best_single: dict[str, Any]
    baselines: dict[str, dict[str, float]]
    front: list[dict[str, Any]]
    trajectory: list[float]
    seconds: float
    skipped: dict[str, str]
    path: Path

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "path"}


def build_ensemble(
    run: Path | str,
    *,
    objective: str = "log_loss",
    steps: int = 50,
    max_members: int | None = None,
    out: Path | str | None = None,
    on_progress: Progress | None = None,
) -> EnsembleReport:
    """Select from all trials of ``run``, estimate, and write the artifact to ``out``
    (``RUN/ensemble``), which is replaced only by a whole and checked one.

    Raises `ArtifactError` where ``run`` is no run or holds no usable candidate, `DataError` where
    its data are gone or damaged, `RunError` where the export does not reproduce the selection.
    """
    begin = time.monotonic()
    progress = on_progress or (lambda line: None)
    run = Path(run)
    out = Path(out) if out is not None else run / "ensemble"
    options = {"objective": objective, "steps": steps, "max_members": max_members}
    shards = open_data(run)
    library = _usable_library(run, shards, progress)
    library, ensemble = _select_exact(library, shards, options, progress)
    progress("estimating by cross-validation of the selection")
    nested = nested_estimate(
        library.probs_NVK,
        library.labels_V,
        library.groups_V,
        rng=np.random.default_rng(_FOLD_SEED),
        **options,
    )
    report = _describe(library, ensemble, nested, out)
    progress(f"exporting {len(report.members)} members and checking the export")
    _export(library, ensemble, report, shards)
    return replace(report, seconds=time.monotonic() - begin)


def open_data(run: Path) -> Shards:
    """The shards that ``run`` was searched on, of its classes alone. Raises `ArtifactError` or
    `DataError`."""
    path = run / "run.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
        folder = Path(description["data"])
    except (OSError, TypeError, KeyError, UnicodeError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{run} is not a run: {path} must name the folder of its data under the key 'data' "
            f"({type(error).__name__}: {error}). Give the folder that `raysearch tune` made."
        ) from None
    try:
        return open_shards(folder).subset(description.get("classes"))
    except ClassError as error:
        raise ArtifactError(
            f"{run} cannot use {folder} any more, which has changed since: {error}"
        ) from None


def _usable_library(run: Path, shards: Shards, progress: Progress) -> Library:
    from raysearch.ensemble.rescore import without_lost_weights

    library = without_lost_weights(load_library(run, shards))
    trials = len(trial_folders(run))
    progress(f"{len(library)} candidates of {len(library.records)} trials, of {trials} in the run")
    _require_candidates(library, run)
    if len(np.unique(library.groups_V)) < 2:
        raise ArtifactError(
            "Selection needs at least two different validation images, but "
            f"{shards.path} has {len(np.unique(library.groups_V))}."
        )
    return library


def _require_candidates(library: Library, run: Path | str) -> None:
    if len(library):
        return
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(library.skipped.items())[:3])
    raise ArtifactError(
        f"{run} holds no candidate for an ensemble: it needs a trial that finished an epoch on "
        f"these data and whose weights were kept. {reasons or 'There are no trials'}. "
        f"Go on with the search by `raysearch resume {run}`."
    )


def _select_exact(
    library: Library, shards: Shards, options: dict[str, Any], progress: Progress
) -> tuple[Library, Ensemble]:
    """Select; recompute what was chosen in fp32 where it was not; until nothing changes.

    After some rounds the choice is limited to what is in fp32 by then.
    """
    from raysearch.ensemble.rescore import EXACT, rescore
    from raysearch.train.device import default_device

    validation = shards.split("validation")
    for _ in range(_ROUNDS):
        ensemble = fit_ensemble(library.probs_NVK, library.labels_V, **options)
        members = ensemble.selection.members
        inexact = [n for n in members if library.candidates[n].precision != EXACT]
        if not inexact:
            return library, ensemble
        library = rescore(library, inexact, validation, default_device(), progress)
        _require_candidates(library, shards.path)
    inexact = {
        n: "not computed in fp32"
        for n, candidate in enumerate(library.candidates)
        if candidate.precision != EXACT
    }
    library = library.without(inexact)
    return library, fit_ensemble(library.probs_NVK, library.labels_V, **options)


def _describe(
    library: Library, ensemble: Ensemble, nested: NestedEstimate, out: Path
) -> EnsembleReport:
    selection, labels_V = ensemble.selection, library.labels_V
    calibrated_NVK = calibrate(library.probs_NVK, ensemble.temperature_N)
    best = baselines.best_single(calibrated_NVK, labels_V, selection.objective)
    summary = metrics.summary(ensemble.predict(library.probs_NVK), labels_V)
    return EnsembleReport(
        objective=selection.objective,
        members=[
            {
                "trial": library.candidates[n].trial,
                "candidate": library.candidates[n].name,
                "weight": float(selection.weights_N[n]),
                "params": library.candidates[n].parameters,
                "stability": float(nested.stability_N[n]),
            }
            for n in selection.members
        ],
        validation={key: summary[key] for key in ("accuracy", "log_loss", "macro_f1", "ece")},
        nested={
            key: getattr(nested, key)
            for key in ("accuracy", "accuracy_se", "log_loss", "log_loss_se")
        },
        best_single={
            "trial": library.candidates[best].trial,
            "candidate": library.candidates[best].name,
            **baselines.calibrated_scores(calibrated_NVK[best], labels_V),
        },
        baselines=baselines.baselines(calibrated_NVK, labels_V, selection.objective),
        front=pareto_front(selection, library.candidates, calibrated_NVK, labels_V),
        trajectory=[float(value) for value in selection.trajectory],
        seconds=0.0,
        skipped=library.skipped,
        path=out,
    )


def members_of(library: Library, ensemble: Ensemble) -> list[Member]:
    """The selected candidates as what an artifact is made of, heaviest first."""
    chosen = [(n, library.candidates[n]) for n in ensemble.selection.members]
    return [
        Member(
            trial=candidate.trial,
            candidate=candidate.name,
            weight=float(ensemble.selection.weights_N[n]),
            temperature=float(ensemble.temperature_N[n]),
            weights_file=candidate.weights_file,
            mirror=candidate.mirror,
            train=candidate.train,
            parameters=candidate.parameters,
        )
        for n, candidate in chosen
    ]


def _export(library: Library, ensemble: Ensemble, report: EnsembleReport, shards: Shards) -> None:
    from raysearch.ensemble.artifact import write_artifact

    members = members_of(library, ensemble)
    write_artifact(
        report.path,
        members,
        {member.trial: library.records[member.trial] for member in members},
        temperature=ensemble.temperature,
        validation=shards.split("validation"),
        scores={
            "objective": report.objective,
            "validation": report.validation,
            "nested": report.nested,
            "best_single": report.best_single,
        },
        data={
            "fingerprint": shards.fingerprint,
            "name": shards.path.name,
            "splits": {name: len(shards.split(name)) for name in shards.splits},
        },
        probs_VK=ensemble.predict(library.probs_NVK),
    )
