"""One network in place of an ensemble: a student that learns from its probabilities.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015. The ensemble is asked
once about every training image as it is stored; the student sees them augmented. What comes out is
a run of one trial, which is exported as every other one, with its own scores on validation.
"""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from raysearch.config import TrainConfig
from raysearch.data.dataset import load_dataset
from raysearch.data.shards import Split, open_shards
from raysearch.ensemble.account import EnsembleReport
from raysearch.ensemble.artifact import Artifact, load_artifact
from raysearch.ensemble.build import build_ensemble
from raysearch.ensemble.evaluation import known_part
from raysearch.ensemble.manifest import CONFIG, SUMS, read_json
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import ConfigError, InputError
from raysearch.files import sha256_of, write_json, write_text
from raysearch.probabilities import Probabilities, read_probabilities, write_probabilities
from raysearch.report.runfiles import ENSEMBLE_REPORT
from raysearch.runfolder import git_commit, hardware, is_run, read_run, versions
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.single import train_one
from raysearch.train.start import fit_start, is_configuration, read_start
from raysearch.train.teaching import Teacher
from raysearch.train.trial import TrialFolder, TrialRecord

_CHUNK = 4096


@dataclass(frozen=True)
class Lesson:
    """Who teaches whom, on what and how: ``temperature`` and ``share`` are those of `Teacher`."""

    artifact: Artifact
    data: Path
    train: TrainConfig
    temperature: float = 2.0
    share: float = 0.5


def prepare(
    source: Path, data: Path | None, train: TrainConfig | None, epochs: int | None
) -> Lesson:
    """The lesson of the ensemble in ``source``, an artifact or a run with one.

    ``data`` is the run's where left out, ``train`` the configuration of the heaviest member,
    ``epochs`` that configuration's. Raises `ConfigError`, `ArtifactError` or `DataError` where
    there is nothing to learn from, or nothing honest could be measured of what was learned.
    """
    artifact = load_artifact(source / "ensemble" if is_run(source) else source)
    manifest = artifact.manifest
    if manifest.refitted:
        raise ConfigError(
            f"{artifact.path} was trained on validation too: a student of it has seen validation "
            "by its eyes, and nothing honest could be measured of it. Distill the ensemble before "
            "its refit: `raysearch ensemble RUN` without --refit makes it again."
        )
    if data is None and not is_run(source):
        raise ConfigError(f"--data must name the images that a student of {source} learns from.")
    data = data or Path(read_run(source)["data"])
    if train is None:
        heaviest = max(manifest.members, key=lambda member: member.weight)
        where = artifact.path / heaviest.folder / CONFIG
        train = TrialRecord.from_json(read_json(where), str(where)).train
    if train.classes is not None and train.classes != artifact.classes:
        raise ConfigError(
            f"The student's classes are {', '.join(train.classes)}, but its teacher's "
            f"{', '.join(artifact.classes)}: leave out `classes`."
        )
    # All of the data's classes need no choice, which would need images of each in both splits.
    chosen = (
        None if open_shards(data, verify=False).classes == artifact.classes else artifact.classes
    )
    changes = {"classes": chosen, "epochs": epochs or train.epochs}
    return Lesson(artifact, data.resolve(), train.model_copy(update=changes))


def distill(
    lesson: Lesson, out: Path, device: torch.device, console: Console
) -> tuple[EnsembleReport, dict[str, Any]]:
    """Train the student in the new run ``out``, or go on with it, and export it to
    ``OUT/ensemble``; returns its account and what is known of the teacher.

    Raises `InputError` where ``out`` holds something else, `DataError` where the data are not for
    this ensemble, `ConfigError` where the student cannot be trained so, `RunError` where the
    training fails.
    """

    def progress(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    shards = known_part(open_shards(lesson.data), lesson.artifact.classes)
    about = teacher_account(lesson)
    student = out / "trials" / "0000"
    if not TrialFolder(student).metrics.exists():
        _check(lesson, device)
    _begin(out, lesson, shards.fingerprint, about)
    probs_NK = _teacher_probs(lesson.artifact, shards.split("train"), out, progress)
    teacher = Teacher(torch.from_numpy(probs_NK).to(device), lesson.temperature, lesson.share)
    train_one(lesson.train, lesson.data, student, device, console, teacher=teacher)
    report = build_ensemble(out, max_members=1, on_progress=progress)
    write_json(out / ENSEMBLE_REPORT, report.to_json())
    return report, about


def teacher_account(lesson: Lesson) -> dict[str, Any]:
    """What the student's artifact says of its teacher; scores are the teacher's nested estimate on
    its own validation split."""
    manifest = lesson.artifact.manifest
    params = {member.folder: member.params for member in manifest.members}
    return {
        "name": lesson.artifact.path.resolve().name,
        "sha256": sha256_of(lesson.artifact.path / SUMS),
        "data_fingerprint": manifest.data.get("fingerprint"),
        "networks": len(params),
        "params": sum(params.values()),
        "nested": manifest.scores.get("nested"),
        "temperature": lesson.temperature,
        "share": lesson.share,
    }


def _check(lesson: Lesson, device: torch.device) -> None:
    """Raise what training would, before the ensemble is asked about every training image."""
    train = lesson.train
    dataset = load_dataset(lesson.data, classes=train.classes, images_on="host")
    training = Training(train, dataset, device, Workers())
    if not is_configuration(train.init_from) and (start := read_start(train)):
        fit_start(start, train, dataset.shape[0], dataset.classes, training.network)


def _begin(out: Path, lesson: Lesson, fingerprint: str, about: dict[str, Any]) -> None:
    """Make the run's folder, or find it made for the same lesson."""
    if is_run(out):
        known = read_run(out)
        if (known.get("teacher"), known.get("data_fingerprint")) != (about, fingerprint):
            raise InputError(
                f"{out} holds another run, or a student of another teacher, of other data or at "
                "another temperature or share. Name a new folder by --out, or remove it."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists and holds other files. Name a new folder by --out.")
    description = {
        "command": " ".join(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": str(lesson.data),
        "data_source": "given",
        "data_fingerprint": fingerprint,
        "classes": list(lesson.artifact.classes),
        "seed": lesson.train.seed,
        "teacher": about,
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(),
    }
    write_text(out / "run.yaml", yaml.safe_dump(description, sort_keys=False))


def _teacher_probs(artifact: Artifact, train: Split, out: Path, progress) -> np.ndarray:
    """``probs_NK`` float32 of the training images, kept in ``OUT/teacher.arrow``."""
    path = out / "teacher.arrow"
    try:
        kept = read_probabilities(path)
        if kept.digest == train.digest:
            return kept.candidates["teacher"].astype(np.float32)
    except InputError:
        pass
    progress(f"asking the ensemble about {len(train):,} training images")
    predictor, parts = Predictor(artifact), []
    for start in range(0, len(train), _CHUNK):
        images_NCHW = np.asarray(train.images_NCHW[start : start + _CHUNK])
        parts.append(predictor.predict_probs(images_NCHW).astype(np.float16))
    candidates = {"teacher": np.concatenate(parts)}
    found = Probabilities(candidates, "train", train.digest, artifact.classes, 0, {})
    write_probabilities(path, found)
    return candidates["teacher"].astype(np.float32)
