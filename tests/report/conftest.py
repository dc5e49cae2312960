"""A run's folder as `raysearch tune` leaves it, made without training anything."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from raysearch.config import parse_train_config
from raysearch.data.shards import open_shards, write_shards
from raysearch.files import write_json, write_text
from raysearch.probabilities import Probabilities, write_probabilities
from raysearch.train.trial import TrialFolder, TrialRecord

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
METRICS = (
    "epoch,train_loss,train_accuracy,validation_log_loss,validation_accuracy,"
    "validation_macro_f1,lr,images_per_second,seconds"
)


def make_shards(folder: Path, rng: np.random.Generator, images: int = 210) -> None:
    folder.mkdir()
    write_shards(
        folder,
        images_NCHW=rng.integers(0, 256, (2 * images, 1, 8, 8), dtype=np.uint8),
        labels_N=np.arange(2 * images) % len(CLASSES),
        sources=[f"{row}.png" for row in range(2 * images)],
        rows_of={"train": np.arange(images), "validation": np.arange(images, 2 * images)},
        classes=CLASSES,
        source={"layout": "synthetic"},
    )


def make_probs(labels_V: np.ndarray, skill: float, rng: np.random.Generator) -> np.ndarray:
    """``probs_VK`` float16: the larger ``skill``, the more of it on the label."""
    logits_VK = rng.normal(size=(len(labels_V), len(CLASSES)))
    logits_VK[np.arange(len(labels_V)), labels_V] += skill
    odds_VK = np.exp(logits_VK)
    return (odds_VK / odds_VK.sum(axis=1, keepdims=True)).astype(np.float16)


def make_curve(epochs: int, loss: float, rng: np.random.Generator) -> str:
    rows = [METRICS]
    for epoch in range(1, epochs + 1):
        now = loss + (1.95 - loss) * np.exp(-epoch / 3) + rng.normal(scale=0.01)
        values = (epoch, now - 0.1, 0.5, now, 1 - now / 2.2, 0.95 - now / 2.2, 0.01, 5000.0, 2.5)
        rows.append(",".join(f"{value:.6g}" for value in values))
    return "\n".join(rows) + "\n"


def write_trial(
    folder: Path, number: int, loss: float, status: str, rng: np.random.Generator
) -> TrialFolder:
    """A trial that ended (or is) ``status`` with about ``loss``."""
    files = TrialFolder(folder / f"{number:04d}")
    config = parse_train_config(
        {
            "model": {"name": "vgg", "width": int(rng.choice([16, 32, 64]))}
            if number % 4
            else {"name": "mlp", "dropout": 0.3},
            "lr": float(10 ** rng.uniform(-3, -0.5)),
            "augment": {"rotate": float(rng.uniform(0, 20))},
            "optimizer": ["sgd", "adamw"][number % 2],
            "epochs": 12,
            "seed": number,
        }
    )
    record = TrialRecord(
        number, config, CLASSES, (1, 8, 8), (0.5,), (0.2,), "fingerprint", 10_000 * (number + 1)
    )
    files.write_record(record)
    epochs = {"completed": 12, "failed": 0, "pruned": 3}.get(status, 5)
    if epochs:
        write_text(files.metrics, make_curve(epochs, loss, rng))
    error = "batch_size 128 does not fit" if status in ("out_of_memory", "failed") else ""
    files.write_status(status, epochs, error)
    return files


def write_ensemble(run: Path) -> None:
    """ensemble.json and the report that `tune` keeps beside it."""
    members = [
        {"trial": 0, "candidate": "ema", "weight": 0.6, "temperature": 1.0, "params": 10_000},
        {"trial": 1, "candidate": "ema", "weight": 0.4, "temperature": 1.2, "params": 20_000},
    ]
    write_json(run / "ensemble" / "ensemble.json", {"members": members, "temperature": 1.0})

    def scores(accuracy: float, log_loss: float) -> dict[str, float]:
        return {"accuracy": accuracy, "log_loss": log_loss, "macro_f1": accuracy, "ece": 0.02}

    report = {
        "objective": "log_loss",
        "members": members,
        "validation": scores(0.71, 0.81),
        "nested": {"accuracy": 0.70, "accuracy_se": 0.007, "log_loss": 0.83},
        "best_single": scores(0.68, 0.9),
        "baselines": {
            name: scores(0.69, 0.86) for name in ("hard_vote", "mean", "weighted_mean", "top_k")
        },
        "front": [
            {"params": 10_000, "latency_ms": 1.0, "accuracy": 0.68, "log_loss": 0.9, "members": 1},
            {"params": 30_000, "latency_ms": 2.0, "accuracy": 0.71, "log_loss": 0.81, "members": 2},
        ],
        "cost": {
            "params": 30_000,
            "bytes": 121_000,
            "flops": 2_500_000,
            "latency_ms": 1.75,
            "latency_64_ms": 40.5,
            "machine": "A CPU, 4 cores",
        },
        "trajectory": [0.9, 0.84, 0.82, 0.81],
        "seconds": 0.5,
        "skipped": {"trial 9 ema": "belongs to other data"},
    }
    write_json(run / "ensemble_report.json", report)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(statuses)``: a run of one trial a status over 210 synthetic images."""

    def make(statuses: list[str], ensemble: bool = False, name: str = "run") -> Path:
        rng = np.random.default_rng(0)
        run, data = tmp_path / name, tmp_path / "data"
        if not data.exists():
            make_shards(data, rng)
        validation = open_shards(data).split("validation")
        (run / "trials").mkdir(parents=True)
        for number, status in enumerate(statuses):
            loss = 0.9 + 0.05 * number
            files = write_trial(run / "trials", number, loss, status, rng)
            if status in ("completed", "pruned"):
                probs_VK = make_probs(validation.labels_N, 3 - 0.1 * number, rng)
                write_probabilities(
                    files.validation,
                    Probabilities(
                        candidates={"ema": probs_VK, "ema_mirror": probs_VK},
                        split="validation",
                        digest=validation.digest,
                        classes=CLASSES,
                        epoch=12,
                        precision={"ema": "fp32", "ema_mirror": "fp32"},
                    ),
                )
        description = {
            "command": "raysearch tune demo --trials 9",
            "started": "2026-01-01T00:00:00+00:00",
            "space": "demo.yaml",
            "data": str(data),
            "data_source": "synthetic",
            "data_fingerprint": "fingerprint",
            "seed": 0,
            "limits": {"trials": len(statuses) + 1},
            "versions": {"python": "3.11.7", "torch": "2.15.0"},
            "git_commit": "",
            "hardware": {"cpus": 2, "machine": "x86_64", "gpus": []},
        }
        (run / "run.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
        if ensemble:
            write_ensemble(run)
        return run

    return make
