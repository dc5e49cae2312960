"""Commands on an exported ensemble: evaluate, export."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from raysearch.cli.common import ArtifactArgument, JsonOption, log, plain


def register(app: typer.Typer) -> None:
    app.command()(evaluate)
    app.command()(export)


def evaluate(
    artifact: ArtifactArgument,
    data: Annotated[Path, typer.Option(help="Folder of imported data.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Score an ensemble on one split of imported data."""
    from raysearch.data.shards import open_shards
    from raysearch.ensemble.evaluation import evaluate as score
    from raysearch.ensemble.evaluation import known_part
    from raysearch.ensemble.predictor import Predictor

    predictor = Predictor(artifact)
    shards = open_shards(data)
    report = score(predictor, shards, split)
    manifest = predictor.artifact.manifest
    seen = {"validation": "selected"} | dict.fromkeys(manifest.trained_on, "trained")
    known = manifest.data.get("fingerprint")
    if report["classes_left_out"]:
        names = ", ".join(report["classes_left_out"])
        log(f"note: the ensemble does not know the classes {names}: their images are left out")
    if split in seen and known_part(shards, predictor.classes).fingerprint == known:
        log(f"note: the ensemble was {seen[split]} on this split: its scores are optimistic")
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_scores(report)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URI of a run.")],
    out: Annotated[Path, typer.Option(help="New folder for the ensemble.")],
) -> None:
    """Copy a run's ensemble to a folder of its own, verified before and after."""
    from raysearch.ensemble.artifact import copy_artifact
    from raysearch.errors import ArtifactError
    from raysearch.storage.runs import open_place

    source = open_place(run).path / "ensemble"
    if not source.is_dir():
        raise ArtifactError(
            f"{run} holds no ensemble. Make it with `raysearch ensemble {run}`, or give the "
            "folder of a run."
        )
    artifact = copy_artifact(source, out)
    log(f"{len(artifact.manifest.members)} members, {len(artifact.manifest.files)} files verified")
    print(out)


def _print_scores(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{report['split']}: {report['images']:,} images", title_justify="left")
    table.add_column("score")
    table.add_column("value", justify="right")
    percent = f"{report['accuracy']:.2%} ± {report['accuracy_se']:.2%}"
    table.add_row("accuracy", percent)
    twins = report["accuracy_without_train_twins"]
    table.add_row(
        f"without {report['train_twins']} also in train",
        "none left" if twins is None else f"{twins:.2%}",
    )
    for name in ("balanced_accuracy", "macro_f1", "log_loss", "ece"):
        table.add_row(name.replace("_", " "), f"{report[name]:.4f}")
    console.print(table)
    console.print(_class_table(report["per_class"]))
    console.print(_confusion_table(report))


def _class_table(per_class: list[dict[str, Any]]):
    from rich.table import Table

    table = Table("class", title="By class", title_justify="left")
    for name in ("precision", "recall", "f1", "support"):
        table.add_column(name, justify="right")
    for row in per_class:
        values = (f"{row[name]:.4f}" for name in ("precision", "recall", "f1"))
        table.add_row(plain(row["class"]), *values, f"{row['support']:,}")
    return table


def _confusion_table(report: dict[str, Any]):
    from rich.table import Table

    classes = [plain(row["class"]) for row in report["per_class"]]
    table = Table("true \\ predicted", title="Confusion", title_justify="left")
    for name in classes:
        table.add_column(name, justify="right")
    for name, counts in zip(classes, report["confusion"], strict=True):
        table.add_row(name, *map(str, counts))
    return table
