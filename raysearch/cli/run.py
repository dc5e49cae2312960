"""Commands that make and read runs: tune, resume, status."""

import json
import sys
import time
from typing import Annotated, Any

import typer

from raysearch.errors import ConfigError, InputError, RunError

Data = Annotated[str | None, typer.Option(help="Folder of shards, or anything to import.")]
Run = Annotated[str, typer.Argument(help="Folder or URI of the run.")]
Trials = Annotated[int | None, typer.Option(min=1, help="Trials in all.")]
Budget = Annotated[str | None, typer.Option(help="Wall time of the whole command: 90s, 30m, 2h.")]
MaxDisk = Annotated[str | None, typer.Option(help="What the run may take: 500MB, 20GB.")]
Timeout = Annotated[str | None, typer.Option(help="Longest time for an epoch: 90s, 10m.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    for command in (tune, resume, status):
        app.command()(command)


def tune(
    context: typer.Context,
    space: Annotated[str, typer.Argument(help="Search space: a file or a shipped name.")] = "demo",
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder.")] = None,
    trials: Trials = None,
    time_budget: Budget = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of a whole trial.")] = None,
    gpus_per_trial: Annotated[
        str | None, typer.Option(help="A share packs several; auto: by the memory each takes.")
    ] = None,
    workers_per_trial: Annotated[int, typer.Option(min=1, help="Processes per trial.")] = 1,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None,
    executor: Annotated[str | None, typer.Option(help="inline or train (Ray Train).")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Trials to keep weights of.")] = None,
    max_disk: MaxDisk = None,
    trial_timeout: Timeout = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Over the space's own.")] = None,
    storage: Annotated[
        str,
        typer.Option(help="Folder or URI that holds the runs.", envvar="RAYSEARCH_STORAGE"),
    ] = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    cluster: Annotated[str | None, typer.Option(help="A cluster's file: search there.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the cluster.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Take the cluster down after it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search, select, export: from labelled images to a verified ensemble."""
    if cluster is not None or detach or down:
        from raysearch.cli.cluster import tune_there

        raise typer.Exit(tune_there(context))
    begin = time.monotonic()
    from raysearch import pipeline, resuming, runfolder
    from raysearch.space import load_space
    from raysearch.storage.runs import new_place, scratch_folder
    from raysearch.train.start import check_starts

    if executor not in (None, "inline", "train"):
        raise ConfigError(f"--executor must be inline or train, but got {executor!r}.")
    loaded = load_space(space)
    place = new_place(storage, name or runfolder.new_run_name(data, loaded))
    limits = pipeline.Limits(
        trials=trials,
        epochs=epochs,
        time_budget=seconds(time_budget),
        gpus_per_trial=gpus(gpus_per_trial),
        workers_per_trial=workers_per_trial,
        concurrent=concurrent,
        executor=executor,
        keep=keep,
        max_disk=size(max_disk),
        trial_timeout=seconds(trial_timeout),
    )
    if place.exists() and not dry_run:
        with pipeline.working_on(place, say):
            other = resuming.same_again(place.path, loaded, data, limits, seed)
            if other:
                raise InputError(
                    f"{place} already holds a run, and {other}. Go on with that one by `raysearch "
                    f"resume {place}`, or choose another --name."
                )
            say(f"{place} holds this search already: going on with it")
            moved = data if resuming.is_data_gone(place.path) else None
            _go_on(place, begin, as_json, data=moved, time_budget=limits.time_budget)
        return
    scratch = scratch_folder(storage, "synthetic-faces")
    prepared = pipeline.prepare(loaded, data, limits, seed, scratch, say)
    check_starts(loaded.starts, prepared.dataset)
    if dry_run:
        _print_plan(pipeline.dry_run(prepared), as_json)
        return
    with pipeline.working_on(place, say):
        if place.exists():
            raise InputError(f"{place} was begun by another command just now: choose one of them.")
        runfolder.start_run(prepared, place.path, sys.argv, limits)
        place.push()
        say(f"run: {place}")
        summary = pipeline.execute(prepared, place, begin, stderr())
    _finish(summary, as_json)


def resume(
    run: Run,
    data: Annotated[
        str | None, typer.Option(help="Where the run's images are now, if they moved.")
    ] = None,
    trials: Trials = None,
    time_budget: Budget = None,
    max_disk: MaxDisk = None,
    trial_timeout: Timeout = None,
    space: Annotated[str | None, typer.Option(help="A changed space; see --new-study.")] = None,
    new_study: Annotated[
        str | None,
        typer.Option(help="Name of a new run with the changed space and the trials that fit it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted, raise its limits, or change its space."""
    begin = time.monotonic()
    from raysearch import pipeline, resuming
    from raysearch.storage.runs import RunPlace, find_place

    place = find_place(run)
    if new_study is not None and space is None:
        raise ConfigError("--new-study needs the changed space: --space FILE.")
    if space is not None:
        if place.mirror:
            raise ConfigError(f"--space works on a run in a folder, and {place} is a URI.")
        place = RunPlace(resuming.change_space(place.path, space, new_study))
    raised = {
        "trials": trials,
        "time_budget": seconds(time_budget),
        "max_disk": size(max_disk),
        "trial_timeout": seconds(trial_timeout),
    }
    with pipeline.working_on(place, say):
        _go_on(place, begin, as_json, data=data, **raised)


def _go_on(place: Any, begin: float, as_json: bool, **raised: Any) -> None:
    from raysearch import pipeline, resuming
    from raysearch.train.trial import trial_folders

    prepared, anything_left = resuming.resume(place.path, say=say, **raised)
    place.push()
    if not anything_left and (place.path / "ensemble" / "ensemble.json").exists():
        ended = len(trial_folders(place.path))
        more = f" --trials N, above {ended}, adds more." if ended >= prepared.plan.trials else ""
        say(f"{place} is finished: all {ended} trials ended.{more}")
        if as_json:
            print(json.dumps(pipeline.outcome(prepared, place, begin)))
        return
    _finish(pipeline.execute(prepared, place, begin, stderr()), as_json)


def status(run: Run, as_json: AsJson = False) -> None:
    """How far a run is, while it runs or after."""
    from raysearch.report.tables import run_status
    from raysearch.storage.runs import LARGE, open_place

    found = run_status(open_place(run, skip=LARGE).path)
    if as_json:
        print(json.dumps(found))
        return
    counts = ", ".join(f"{count} {state}" for state, count in found["trials"].items() if count)
    print(f"{run}: {counts or 'no trials yet'}, {found['elapsed_seconds']:.0f} s")
    if found["failures"]:
        counts = ", ".join(f"{count} {status}" for status, count in found["failures"].items())
        print(f"failed: {counts}; their messages are in the report and in status.json")
    if found["best"]:
        best = found["best"]
        print(
            f"best: trial {best['trial']}, validation accuracy "
            f"{100 * best['validation_accuracy']:.2f} %, log loss {best['validation_log_loss']:.4f}"
        )


def say(line: str) -> None:
    print(line, file=sys.stderr)


def seconds(text: str | None) -> float | None:
    from raysearch.space import parse_duration

    return None if text is None else parse_duration(text)


def size(text: str | None) -> int | None:
    from raysearch.space import parse_size

    return None if text is None else parse_size(text)


def gpus(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf") or (value > 1 and value % 1):
        raise ConfigError(
            f"--gpus-per-trial must be auto, a share of a GPU such as 0.25, or how many, "
            f"but got {text!r}."
        )
    return value


def stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _finish(summary: dict[str, Any], as_json: bool) -> None:
    """Print what came out; exit 130 where Ctrl-C ended the search, 1 where it was given up."""
    if as_json:
        print(json.dumps(summary))
    else:
        from raysearch.report.terminal import print_summary

        print_summary(summary)
    if summary["interrupted"]:
        print(f"interrupted; go on with: raysearch resume {summary['run']}", file=sys.stderr)
        raise typer.Exit(130)
    if summary["aborted"]:
        raise RunError(
            f"the search was given up: {summary['aborted']}. What it had found is selected and "
            f"exported above; once the cause is gone: raysearch resume {summary['run']}"
        )


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan))
    else:
        from raysearch.report.terminal import print_plan

        print_plan(plan)
