"""Going on with a run: as it is, with raised limits, or with another space as a new run."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raysearch.data.classes import ClassError
from raysearch.data.shards import open_shards
from raysearch.errors import ConfigError, InputError
from raysearch.files import atomic_folder, write_text
from raysearch.pipeline import Limits, Prepared, prepare, resolve_data
from raysearch.runfolder import read_search, start_run
from raysearch.search.population import is_complete
from raysearch.space import SearchSpace, load_space
from raysearch.train.start import check_starts
from raysearch.train.trial import trial_folders


def own_space(run: Path, description: dict[str, Any]) -> SearchSpace:
    folder = Path(description.get("space_folder", run))
    return load_space(run / "space.yaml", folder=folder, look=False)


def same_again(
    run: Path, space: SearchSpace, data: str | None, limits: Limits, seed: int | None
) -> str:
    """How what is asked for differs from ``run``, or "" where it is the same search again."""
    description = read_search(run)
    asked = space.search.seed if seed is None else seed
    if own_space(run, description).diff(space):
        return "it has another search space"
    if description["seed"] != asked:
        return f"its seed is {description['seed']}, not {asked}"
    if other_data := _other_data(run, description, space, data):
        return other_data
    was = vars(Limits(**description["limits"]))
    for name, value in vars(limits).items():
        if name != "time_budget" and value != was[name]:
            return f"it runs {_option(name, was[name])}, not {_option(name, value)}"
    return ""


def _other_data(
    run: Path, description: dict[str, Any], space: SearchSpace, data: str | None
) -> str:
    own = description["data"]
    if data is None:
        return "" if description["data_source"] == "synthetic" else f"its data is {own}"
    if not Path(data).exists() and Path(own).exists():
        return f"there is no {data} to compare with its data, {own}"
    folder = resolve_data(data, run)  # an import of what was only touched lies elsewhere
    same = str(folder) == own or _fingerprint(folder, space) == description["data_fingerprint"]
    return "" if same else f"its data is {own}, and {data} holds other images"


def _fingerprint(folder: Path, space: SearchSpace) -> str:
    """Of the classes of ``space`` in the shards in ``folder``; "" where it lacks one."""
    try:
        shards = open_shards(folder, verify=False)
        return shards.subset(space.constants.get("classes")).fingerprint
    except ClassError:
        return ""


def is_data_gone(run: Path) -> bool:
    return not Path(read_search(run)["data"]).exists()


def _option(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"without {flag}" if value is None else f"with {flag} {value}"


def resume(
    run: Path,
    data: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    **raised: Any,
) -> tuple[Prepared, bool]:
    """What `execute` needs to go on with ``run``, which nobody else may be working on, and whether
    anything is left to do. Those of ``raised`` (fields of `Limits`) that are not None replace the
    run's own from now on, in its run.yaml; a time budget counts for this time alone. ``data`` is
    where the images are from now on, if they moved."""
    description = read_search(run)
    space = own_space(run, description)
    raised = {name: value for name, value in raised.items() if value is not None}
    limits = replace(Limits(**description["limits"]), **raised)
    statuses = [folder.read_status()["status"] for folder in trial_folders(run)]
    if raised.get("trials", len(statuses)) < len(statuses):
        raise ConfigError(
            f"--trials is how many trials there are to be in all: at least the {len(statuses)} "
            f"that {run} has, but got {raised['trials']}."
        )
    data = data or description["data"]
    prepared = prepare(space, data, limits, description["seed"], Path(data), say)
    _require_same_data(prepared, run, description)
    more = len(statuses) < prepared.plan.trials and not is_complete(run, space)
    if more:
        check_starts(space.starts, prepared.dataset)
    lasting = {name: value for name, value in raised.items() if name != "time_budget"}
    now = {"data": str(prepared.data), "limits": description["limits"] | lasting}
    if description | now != description:
        write_text(run / "run.yaml", yaml.safe_dump(description | now, sort_keys=False))
    unfinished = any(status in ("running", "interrupted", "pending") for status in statuses)
    return prepared, unfinished or more


def change_space(run: Path, given: str, name: str | None) -> Path:
    """The run to go on with where ``run`` is to be resumed with the space ``given``: itself where
    that is its own; else a new run beside it called ``name``, made here, with those of its
    finished trials that lie in the new space.

    Raises `ConfigError` with every difference where there is no name for a new run, `InputError`
    where there is such a run already.
    """
    from raysearch.search.newstudy import import_trials

    description, space = read_search(run), load_space(given)
    changes = own_space(run, description).diff(space)
    if not changes:
        return run
    listed = "".join(f"\n  {line}" for line in changes)
    if name is None:
        raise ConfigError(
            f"A study has one space, and {space.path} is not that of {run}:{listed}\n"
            "Go on without --space, or add --new-study NAME: a new run with those finished trials "
            "that lie in the new space."
        )
    target = run.parent / name
    if target.exists():
        raise InputError(f"{target} exists already; choose another --new-study.")
    limits, data = Limits(**description["limits"]), Path(description["data"])
    prepared = prepare(space, str(data), limits, description["seed"], data)
    _require_same_data(prepared, run, description)
    with atomic_folder(target) as folder:
        start_run(prepared, folder, sys.argv, limits)
        imported = import_trials(run, folder, space)
    print(f"{space.path} changes the space of {run}:{listed}", file=sys.stderr)
    for number, reason in imported.reasons.items():
        print(f"trial {number} stays behind: {reason}", file=sys.stderr)
    print(f"{target} begins with {len(imported.numbers)} trials of {run}", file=sys.stderr)
    return target


def _require_same_data(prepared: Prepared, run: Path, description: dict[str, Any]) -> None:
    if prepared.dataset.fingerprint != description["data_fingerprint"]:
        raise ConfigError(
            f"The data in {prepared.data} has changed since {run} began (fingerprint "
            f"{prepared.dataset.fingerprint}, was {description['data_fingerprint']}). "
            "Scores on the two cannot be compared: start a new run."
        )
