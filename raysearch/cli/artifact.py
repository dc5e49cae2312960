"""Commands on an exported ensemble: evaluate, predict, export."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="Folder of an exported ensemble.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

ONE_CLASS_IMAGES, ONE_CLASS_SHARE = 10, 0.9
"""From how many predictions on, and from what share of one class, a warning is due."""


def register(app: typer.Typer) -> None:
    app.command()(evaluate)
    app.command()(predict)
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
    seen = {"train": "trained", "validation": "selected"}
    known = predictor.artifact.manifest.data.get("fingerprint")
    if report["classes_left_out"]:
        names = ", ".join(report["classes_left_out"])
        _warn(f"note: the ensemble does not know the classes {names}: their images are left out")
    if split in seen and known_part(shards, predictor.classes).fingerprint == known:
        _warn(f"note: the ensemble was {seen[split]} on this split: its scores are optimistic")
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_scores(report)


def predict(
    artifact: ArtifactArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER|ZIP...", help="What to predict.")
    ],
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV table too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the class of images; those that cannot be read are named on stderr."""
    from raysearch.ensemble.inputs import read_batches, read_images
    from raysearch.ensemble.predictor import Predictor
    from raysearch.errors import DataError

    predictor = Predictor(artifact)
    rejected: list[str] = []

    def reject(name: str, reason: str) -> None:
        rejected.append(name)
        _warn(f"warning: {name} is left out: {reason}")

    rows = []
    readable = read_images(images, predictor.shape, reject)
    for names, images_NCHW in read_batches(readable, predictor.batch_size):
        rows += _rows(names, predictor.predict_probs(images_NCHW), predictor.classes)
    if not rows:
        raise DataError(
            f"None of what was given could be read as an image ({len(rejected)} left out, see "
            "above). Give image files, or folders or zips of them."
        )
    _warn_of_one_class(rows, predictor.artifact.manifest.class_shares)
    _print_predictions(rows, as_json)
    if csv_file is not None:
        _write_csv(csv_file, rows, predictor.classes)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="New folder for the ensemble.")],
) -> None:
    """Copy a run's ensemble to a folder of its own, verified before and after."""
    from raysearch.ensemble.artifact import copy_artifact
    from raysearch.errors import ArtifactError

    source = run / "ensemble"
    if not source.is_dir():
        raise ArtifactError(
            f"{run} holds no ensemble. Make it with `raysearch ensemble {run}`, or give the "
            "folder of a run."
        )
    artifact = copy_artifact(source, out)
    _warn(
        f"{len(artifact.manifest.members)} members, {len(artifact.manifest.files)} files verified"
    )
    print(out)


def _rows(names: list[str], probs_NK: Any, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "file": name,
            "label": classes[int(probs_K.argmax())],
            "probability": float(probs_K.max()),
            "probabilities": dict(zip(classes, map(float, probs_K), strict=True)),
        }
        for name, probs_K in zip(names, probs_NK, strict=True)
    ]


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def _warn_of_one_class(rows: list[dict[str, Any]], shares: dict[str, float]) -> None:
    labels = [row["label"] for row in rows]
    label = max(set(labels), key=labels.count)
    count = labels.count(label)
    if len(rows) >= ONE_CLASS_IMAGES and count >= ONE_CLASS_SHARE * len(rows):
        usual = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        _warn(
            f"warning: {count} of {len(rows)} predictions are {label!r}. In validation the "
            f"classes were: {usual}. If these images should differ, check that they are cropped "
            "and framed like the training images."
        )


def _print_predictions(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("file", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    for row in rows:
        table.add_row(_plain(row["file"]), _plain(row["label"]), f"{row['probability']:.4f}")
    Console(highlight=False).print(table)


def _write_csv(path: Path, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> None:
    from raysearch.errors import RunError
    from raysearch.files import atomic_path

    try:
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["file", "label", "probability", *classes])
            for row in rows:
                values = (row["probability"], *row["probabilities"].values())
                writer.writerow([row["file"], row["label"], *(f"{v:.4f}" for v in values)])
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from None


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
        table.add_row(_plain(row["class"]), *values, f"{row['support']:,}")
    return table


def _confusion_table(report: dict[str, Any]):
    from rich.table import Table

    classes = [_plain(row["class"]) for row in report["per_class"]]
    table = Table("true \\ predicted", title="Confusion", title_justify="left")
    for name in classes:
        table.add_column(name, justify="right")
    for name, counts in zip(classes, report["confusion"], strict=True):
        table.add_row(name, *map(str, counts))
    return table


def _plain(text: str) -> str:
    """``text`` as rich prints it literally, whatever brackets a file or class name has."""
    from rich.markup import escape

    return escape(text)
