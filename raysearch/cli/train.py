"""``raysearch train``: one configuration, or one trial of a run again."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raysearch.cli.run import AsJson, Data, stderr
from raysearch.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file of one training run, a baseline, or a run's folder.")
    ],
    data: Data = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Trial of the run to repeat.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the trial, gone on with where it holds one.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the configuration's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the configuration's.")] = None,
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
            return train_one(loaded, shards, folder, default_device(), stderr())
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
    return repeat_trial(original, shards, folder, default_device(), stderr())


def _print_comparison(result: dict[str, Any], trial: int | None) -> None:
    epochs, differences = result["compared_epochs"], result["differences"]
    if not differences:
        print(f"equal to trial {trial} in every metric of its {epochs} epochs, times aside")
    for found in differences:
        print(
            f"differs from trial {trial} in {found['metric']} from epoch {found['epoch']} on: "
            f"{found['is']!r}, was {found['was']!r}"
        )
