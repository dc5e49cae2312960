"""From a run's folder to its exported ensemble and an honest account of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from raysearch.data.classes import ClassError
from raysearch.data.shards import Shards, open_shards
from raysearch.ensemble.account import EnsembleReport, describe
from raysearch.ensemble.calibration import calibrate
from raysearch.ensemble.cost import Budget, CostTable, NetworkCost, unaffordable
from raysearch.ensemble.estimate import Ensemble, fit_ensemble, nested_estimate
from raysearch.ensemble.evaluation import scores_without_twins
from raysearch.ensemble.front import budgeted_ensembles, pareto_front
from raysearch.ensemble.library import Library, load_library
from raysearch.ensemble.manifest import Manifest
from raysearch.ensemble.member import Member
from raysearch.errors import ArtifactError, ConfigError
from raysearch.models.views import MIRRORED, SHIFTED
from raysearch.train.trial import trial_folders

if TYPE_CHECKING:
    from raysearch.ensemble.refit import Refitted

_ROUNDS = 8
_FOLD_SEED = 0

Progress = Callable[[str], None]
Networks = Mapping[int, NetworkCost]
"""What each trial's network costs, by trial."""


def build_ensemble(
    run: Path | str,
    *,
    objective: str = "log_loss",
    steps: int = 50,
    max_members: int | None = None,
    budget: Budget | None = None,
    shifts: bool = False,
    refit: bool = False,
    out: Path | str | None = None,
    on_progress: Progress | None = None,
) -> EnsembleReport:
    """Select from all trials of ``run``, estimate, and write the artifact to ``out``
    (``RUN/ensemble``), which is replaced only by a whole and checked one.

    With ``shifts``, weights that are selected are seen in ten views too, and selected from again.
    With ``refit`` its members are trained again, on train and validation (`ensemble.refit`).

    Raises `ArtifactError` where ``run`` is no run, holds no usable candidate or none that fits
    ``budget``, `ConfigError` where a student is to be refitted, `DataError` where its data are gone
    or damaged, `RunError` where the export does not reproduce the selection.
    """
    begin = time.monotonic()
    progress = on_progress or (lambda line: None)
    budget = budget or Budget()
    run = Path(run)
    out = Path(out) if out is not None else run / "ensemble"
    options = {"objective": objective, "steps": steps, "max_members": max_members}
    teacher = _description(run).get("teacher")
    if refit and teacher is not None:
        raise ConfigError(
            f"--refit trains without a teacher, but {run} was made by `raysearch distill`: what "
            "came out would have learned from labels alone. Leave out --refit."
        )
    shards = open_data(run)
    library = _usable_library(run, shards, SHIFTED if shifts else MIRRORED, progress)
    library, networks = _affordable(run, library, budget, progress)
    library, ensemble = _select_exact(library, shards, networks, budget, options, progress)
    if shifts:
        library = _with_shifts(library, ensemble, shards, networks, budget, progress)
        library, ensemble = _select_exact(library, shards, networks, budget, options, progress)
    progress("estimating by cross-validation of the selection")
    nested = nested_estimate(
        library.probs_NVK,
        library.labels_V,
        library.groups_V,
        rng=np.random.default_rng(_FOLD_SEED),
        joinable=CostTable(library.candidates, networks).joinable(budget.limits),
        **options,
    )
    costs, front = _front(run, library, ensemble, networks, budget, progress)
    report = describe(library, ensemble, nested, costs, front, out)
    refitted = _refit(run, library, ensemble, shards, progress) if refit else None
    progress(f"exporting {len(report.members)} members and checking the export")
    manifest = _export(library, ensemble, report, shards, refitted, teacher)
    if refitted:
        report = replace(report, refit=refitted.account)
    return replace(report, cost=manifest.cost, seconds=time.monotonic() - begin)


def open_data(run: Path) -> Shards:
    """The shards that ``run`` was searched on, of its classes alone. Raises `ArtifactError` or
    `DataError`."""
    description = _description(run)
    folder = Path(description["data"])
    try:
        return open_shards(folder).subset(description.get("classes"))
    except ClassError as error:
        raise ArtifactError(
            f"{run} cannot use {folder} any more, which has changed since: {error}"
        ) from None


def _description(run: Path) -> dict[str, Any]:
    """run.yaml, whose key ``data`` is a path. Raises `ArtifactError`."""
    path = run / "run.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
        Path(description["data"])
        return description
    except (OSError, TypeError, KeyError, UnicodeError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{run} is not a run: {path} must name the folder of its data under the key 'data' "
            f"({type(error).__name__}: {error}). Give the folder that `raysearch tune` made."
        ) from None


def _usable_library(run: Path, shards: Shards, views: int, progress: Progress) -> Library:
    from raysearch.ensemble.rescore import without_lost_weights

    library = without_lost_weights(load_library(run, shards, views=views))
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


def _affordable(
    run: Path, library: Library, budget: Budget, progress: Progress
) -> tuple[Library, Networks]:
    """The candidates that fit ``budget`` alone, and what the networks cost: latencies too where
    the budget asks for them. A network that has no cost is left out."""
    from raysearch.ensemble.measure import network_costs, with_latency

    records = {
        candidate.trial: library.records[candidate.trial] for candidate in library.candidates
    }
    networks, faults = network_costs(run, records)
    if budget.max_latency_ms is not None:
        networks, unknown = with_latency(run, records, networks, list(networks), progress)
        faults |= unknown
    library = library.without(
        {n: faults[c.trial] for n, c in enumerate(library.candidates) if c.trial in faults}
    )
    _require_candidates(library, run)
    reasons = unaffordable(library.candidates, CostTable(library.candidates, networks), budget)
    return library.without(reasons), networks


def _select_exact(
    library: Library,
    shards: Shards,
    networks: Networks,
    budget: Budget,
    options: dict[str, Any],
    progress: Progress,
) -> tuple[Library, Ensemble]:
    """Select; recompute what was chosen in fp32 where it was not; until nothing changes.

    After some rounds the choice is limited to what is in fp32 by then.
    """
    from raysearch.ensemble.rescore import EXACT, rescore
    from raysearch.train.device import default_device

    def selected(library: Library) -> Ensemble:
        joinable = CostTable(library.candidates, networks).joinable(budget.limits)
        return fit_ensemble(library.probs_NVK, library.labels_V, joinable=joinable, **options)

    validation = shards.split("validation")
    for _ in range(_ROUNDS):
        ensemble = selected(library)
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
    return library, selected(library)


def _with_shifts(
    library: Library,
    ensemble: Ensemble,
    shards: Shards,
    networks: Networks,
    budget: Budget,
    progress: Progress,
) -> Library:
    """The library and, as far as ``budget`` allows, the members' weights in ten views."""
    from raysearch.ensemble.rescore import add_shifts
    from raysearch.train.device import default_device

    members, validation = ensemble.selection.members, shards.split("validation")
    library = add_shifts(library, members, validation, default_device(), progress)
    table = CostTable(library.candidates, networks)
    return library.without(unaffordable(library.candidates, table, budget))


def _front(
    run: Path,
    library: Library,
    ensemble: Ensemble,
    networks: Networks,
    budget: Budget,
    progress: Progress,
) -> tuple[CostTable, list[dict[str, Any]]]:
    """What ensembles within less would score, with the latency of every network in them."""
    from raysearch.ensemble.measure import with_latency

    progress("selecting under smaller budgets")
    costs = CostTable(library.candidates, networks)
    calibrated_NVK = calibrate(library.probs_NVK, ensemble.temperature_N)
    found = budgeted_ensembles(ensemble, calibrated_NVK, library.labels_V, costs, budget.limits)
    trials = {library.candidates[n].trial for one in found for n in one.selection.members}
    networks, _ = with_latency(run, library.records, networks, sorted(trials), progress)
    costs = CostTable(library.candidates, networks)
    return costs, pareto_front(found, calibrated_NVK, library.labels_V, costs)


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
            views=candidate.views,
            train=candidate.train,
            parameters=candidate.parameters,
        )
        for n, candidate in chosen
    ]


def _refit(
    run: Path, library: Library, ensemble: Ensemble, shards: Shards, progress: Progress
) -> "Refitted":
    from raysearch.ensemble.refit import refit_members

    chosen = [library.candidates[n] for n in ensemble.selection.members]
    epochs: dict[int, int] = {}
    for candidate in chosen:
        epochs[candidate.trial] = max(candidate.epoch, epochs.get(candidate.trial, 0))
    return refit_members(run, members_of(library, ensemble), epochs, shards, progress)


def _export(
    library: Library,
    ensemble: Ensemble,
    report: EnsembleReport,
    shards: Shards,
    refitted: "Refitted | None",
    teacher: dict[str, Any] | None,
) -> Manifest:
    from raysearch.ensemble.artifact import write_artifact

    members, records = members_of(library, ensemble), library.records
    validation = shards.split("validation")
    if refitted:
        members, records = refitted.members, refitted.records
    probs_VK = ensemble.predict(library.probs_NVK)
    twins, without_twins = scores_without_twins(shards, validation, probs_VK)
    return write_artifact(
        report.path,
        members,
        {member.trial: records[member.trial] for member in members},
        temperature=ensemble.temperature,
        validation=validation,
        scores={
            "objective": report.objective,
            "validation": report.validation,
            "nested": report.nested,
            "best_single": report.best_single,
            "without_train_twins": without_twins,
        },
        data={
            "fingerprint": shards.fingerprint,
            "name": shards.path.name,
            "splits": {name: len(shards.split(name)) for name in shards.splits},
            "validation_images_also_in_train": twins,
        },
        cost=report.cost,
        probs_VK=probs_VK,
        trained_on=("train", "validation") if refitted else ("train",),
        teacher=teacher,
    )
