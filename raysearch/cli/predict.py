"""``raysearch predict``: classes of images, or of the faces in them, from an exported ensemble."""

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysearch.cli.common import ArtifactArgument, JsonOption, log, plain

if TYPE_CHECKING:
    from raysearch.ensemble.inputs import Input

ONE_CLASS_IMAGES, ONE_CLASS_SHARE = 10, 0.9
"""From how many predictions on, and from what share of one class, a warning is due."""


def register(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    artifact: ArtifactArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER|ZIP...", help="What to predict.")
    ],
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV table too.")
    ] = None,
    faces: Annotated[
        bool, typer.Option("--faces", help="Predict each face that is found, not whole images.")
    ] = False,
    face_model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YuNet ONNX file that finds the faces; with --faces."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the class of images; those that cannot be read are named on stderr."""
    from raysearch.ensemble.faces import FaceFinder
    from raysearch.ensemble.inputs import batches_of, read_images
    from raysearch.ensemble.predictor import Predictor
    from raysearch.errors import ConfigError

    if face_model is not None and not faces:
        raise ConfigError("--face-model says how faces are found: give --faces too.")
    predictor = Predictor(artifact)
    rejected: list[str] = []

    def reject(name: str, reason: str) -> None:
        rejected.append(name)
        log(f"warning: {name} is left out: {reason}")

    find = FaceFinder(face_model) if faces else None
    rows: list[dict[str, Any]] = []
    begin = time.perf_counter()
    for batch in batches_of(read_images(images, predictor.shape, reject, find), 64):
        rows += _rows(batch, predictor)
    seconds = time.perf_counter() - begin
    if not rows:
        raise _nothing(len(rejected), faces)
    _warn_of_one_class(rows, predictor.artifact.manifest.class_shares)
    _print_predictions(rows, as_json)
    if csv_file is not None:
        _write_csv(csv_file, rows, predictor.classes)
    what = ("face" if faces else "image") + ("s" if len(rows) > 1 else "")
    log(
        f"{len(rows):,} {what} in {seconds:.2f} s, "
        f"{len(rows) / seconds:.0f} a second (reading, decoding and predicting)"
        + (f"; {len(rejected):,} left out" if rejected else "")
    )


def _nothing(rejected: int, faces: bool) -> Exception:
    from raysearch.errors import DataError

    found = "No face was found in what was given" if faces else "None of what was given is an image"
    remedy = "Give image files, or folders or zips of them"
    return DataError(f"{found} ({rejected} left out, see above). {remedy}.")


def _rows(batch: "list[Input]", predictor: Any) -> list[dict[str, Any]]:
    import numpy as np

    probs_NK = predictor.predict_probs(np.stack([item.pixels for item in batch]))
    return [
        {
            "file": item.name,
            **({} if item.face is None else {"face": list(item.face)}),
            "label": predictor.classes[int(probs_K.argmax())],
            "probability": float(probs_K.max()),
            "probabilities": dict(zip(predictor.classes, map(float, probs_K), strict=True)),
        }
        for item, probs_K in zip(batch, probs_NK, strict=True)
    ]


def _warn_of_one_class(rows: list[dict[str, Any]], shares: dict[str, float]) -> None:
    labels = [row["label"] for row in rows]
    label = max(set(labels), key=labels.count)
    count = labels.count(label)
    if len(rows) >= ONE_CLASS_IMAGES and count >= ONE_CLASS_SHARE * len(rows):
        usual = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        log(
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

    faces = "face" in rows[0]
    table = Table(box=None)
    table.add_column("file", overflow="fold")
    for name in ["face (x y width height)"] if faces else []:
        table.add_column(name)
    table.add_column("label")
    table.add_column("probability", justify="right")
    for row in rows:
        face = [" ".join(map(str, row["face"]))] if faces else []
        table.add_row(plain(row["file"]), *face, plain(row["label"]), f"{row['probability']:.4f}")
    Console(highlight=False).print(table)


def _write_csv(path: Path, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> None:
    from raysearch.errors import RunError
    from raysearch.files import atomic_path

    faces = ["face_x", "face_y", "face_width", "face_height"] if "face" in rows[0] else []
    try:
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["file", "label", "probability", *classes, *faces])
            for row in rows:
                values = [row["probability"], *row["probabilities"].values()]
                numbers = [f"{value:.4f}" for value in values]
                writer.writerow([row["file"], row["label"], *numbers, *row.get("face", [])])
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from None
