"""Commands that make and read runs: tune, resume, status, train."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from raysearch.errors import ConfigError, InputError, RunError

Data = Annotated[str | None, typer.Option(help="Folder of shards, or anything to import.")]
Trials = Annotated[int | None, typer.Option(min=1, help="Trials in all.")]
Budget = Annotated[str | None, typer.Option(help="Wall time of the whole command: 90s, 30m, 2h.")]
MaxDisk = Annotated[str | None, typer.Option(help="What the run may take: 500MB, 20GB.")]
Timeout = Annotated[str | None, typer.Option(help="Longest time for an epoch: 90s, 10m.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def register(app: typer.Typer) -> None:
    for command in (tune, resume, status, train):
        app.command()(command)


def tune(
    space: Annotated[str, typer.Argument(help="Search space: a file or a shipped name.")] = "demo",
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder.")] = None,
    trials: Trials = None,
    time_budget: Budget = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of a whole trial.")] = None,
    gpus_per_trial: Annotated[float | None, typer.Option(help="A share packs several.")] = None,
    workers_per_trial: Annotated[int, typer.Option(min=1, help="Processes per trial.")] = 1,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None,
    executor: Annotated[str | None, typer.Option(help="inline or train (Ray Train).")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Trials to keep weights of.")] = None,
    max_disk: MaxDisk = None,
    trial_timeout: Timeout = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    storage: Annotated[str, typer.Option(help="Folder that holds the runs.")] = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search, select, export: from labelled images to a verified ensemble."""
    begin = time.monotonic()
    from raysearch import pipeline, runfolder
    from raysearch.space import load_space
    from raysearch.train.start import check_starts

    if executor not in (None, "inline", "train"):
        raise ConfigError(f"--executor must be inline or train, but got {executor!r}.")
    if "://" in storage:
        raise ConfigError(f"--storage must be a folder on this machine, but got {storage!r}.")
    loaded = load_space(space)
    run = Path(storage).resolve() / (name or runfolder.new_run_name(data, loaded))
    if (run / "run.yaml").exists():
        raise InputError(
            f"{run} already holds a run. Go on with it by `raysearch resume {run}`, "
            "or choose another --name."
        )
    limits = pipeline.Limits(
        trials=trials,
        epochs=epochs,
        time_budget=seconds(time_budget),
        gpus_per_trial=gpus_per_trial,
        workers_per_trial=workers_per_trial,
        concurrent=concurrent,
        executor=executor,
        keep=keep,
        max_disk=size(max_disk),
        trial_timeout=seconds(trial_timeout),
    )
    scratch = Path(storage).resolve() / "synthetic-faces"
    prepared = pipeline.prepare(loaded, data, limits, seed, scratch)
    check_starts(loaded.starts, prepared.dataset)
    if dry_run:
        _print_plan(pipeline.dry_run(prepared), as_json)
        return
    runfolder.start_run(prepared, run, sys.argv, limits)
    _finish(pipeline.execute(prepared, run, begin, _stderr()), as_json)


def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
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

    run = run.resolve()
    if new_study is not None and space is None:
        raise ConfigError("--new-study needs the changed space: --space FILE.")
    if space is not None:
        run = resuming.change_space(run, space, new_study)
    prepared, anything_left = resuming.resume(
        run,
        trials=trials,
        time_budget=seconds(time_budget),
        max_disk=size(max_disk),
        trial_timeout=seconds(trial_timeout),
    )
    if not anything_left and (run / "ensemble" / "ensemble.json").exists():
        done = prepared.plan.trials
        print(f"{run} is finished: all {done} trials ended. --trials N adds more.", file=sys.stderr)
        return
    _finish(pipeline.execute(prepared, run, begin, _stderr()), as_json)


def status(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")], as_json: AsJson = False
) -> None:
    """How far a run is, while it runs or after."""
    from raysearch.report.tables import run_status

    found = run_status(run)
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


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file of one training run, a baseline, or a run's folder.")
    ],
    data: Data = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Trial of the run to repeat.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the trial; resumed if it is.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Train one configuration, or repeat one trial of a run, without a search and without Ray."""
    from raysearch.runfolder import is_run

    changes = {k: v for k, v in (("epochs", epochs), ("seed", seed)) if v is not None}
    if trial is not None or is_run(config):
        result = _repeat(config, trial, data, out, changes)
    elif data is None:
        raise ConfigError(f"--data must name the images that {config} is trained on.")
    else:
        result = _train_config(config, data, out, changes)
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"{result['status']}: validation accuracy {100 * result['validation_accuracy']:.2f} %, "
        f"log loss {result['validation_log_loss']:.4f} (epoch {result['epoch']}), "
        f"{result['parameters']:,} parameters\n{result['folder']}"
    )
    if "differences" in result:
        _print_comparison(result, trial)


def _train_config(
    config: Path, data: str, out: Path | None, changes: dict[str, int]
) -> dict[str, Any]:
    from raysearch.configfile import classes_located, load_train_config
    from raysearch.pipeline import resolve_data
    from raysearch.space import resolve_config
    from raysearch.train.device import default_device
    from raysearch.train.single import train_one
    from raysearch.yamlfile import load_yaml

    path = resolve_config(config)
    loaded = load_train_config(path).model_copy(update=changes)
    folder = out or Path("results") / "train" / config.stem
    shards = resolve_data(data, Path("results/synthetic-faces"))
    try:
        with classes_located(load_yaml(path)):
            return train_one(loaded, shards, folder, default_device(), _stderr())
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on with {folder}", file=sys.stderr)
        raise typer.Exit(130) from None


def _repeat(
    run: Path, trial: int | None, data: str | None, out: Path | None, changes: dict[str, int]
) -> dict[str, Any]:
    from raysearch.pipeline import resolve_data
    from raysearch.runfolder import read_search
    from raysearch.train.device import default_device
    from raysearch.train.repeat import repeat_trial
    from raysearch.train.trial import TrialFolder

    run = run.resolve()
    description = read_search(run)
    if trial is None:
        raise ConfigError(f"{run} is a run: --trial N says which of its trials to repeat.")
    if changes:
        raise ConfigError("--trial repeats a trial as it was: leave out --epochs and --seed.")
    original = TrialFolder(run / "trials" / f"{trial:04d}")
    folder = out or Path("results") / "train" / f"{run.name}-{trial:04d}"
    shards = resolve_data(data or description["data"], Path("results/synthetic-faces"))
    return repeat_trial(original, shards, folder, default_device(), _stderr())


def _print_comparison(result: dict[str, Any], trial: int | None) -> None:
    epochs, differences = result["compared_epochs"], result["differences"]
    if not differences:
        print(f"equal to trial {trial} in every metric of its {epochs} epochs, times aside")
    for found in differences:
        print(
            f"differs from trial {trial} in {found['metric']} from epoch {found['epoch']} on: "
            f"{found['is']!r}, was {found['was']!r}"
        )


def seconds(text: str | None) -> float | None:
    from raysearch.space import parse_duration

    return None if text is None else parse_duration(text)


def size(text: str | None) -> int | None:
    from raysearch.space import parse_size

    return None if text is None else parse_size(text)


def _stderr() -> Any:
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
