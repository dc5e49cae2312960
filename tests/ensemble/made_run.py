"""A run made on the spot: small learnable images, trials that were really trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from raysearch.config import parse_train_config
from raysearch.data.dataset import load_dataset
from raysearch.data.shards import write_shards
from raysearch.probabilities import read_probabilities, write_probabilities
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder

CLASSES = ("circle", "cross", "stripes")
SIDE = 12


def make_data(folder: Path, *, train: int = 240, validation: int = 150, seed: int = 0) -> Path:
    """Shards of noisy class patterns; ten validation images appear twice."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(60, 196, (len(CLASSES), 1, SIDE, SIDE))
    total = train + validation
    labels_N = rng.integers(0, len(CLASSES), total)
    noise = rng.normal(0, 90, (total, 1, SIDE, SIDE))
    images_NCHW = np.clip(patterns[labels_N] + noise, 0, 255).astype(np.uint8)
    images_NCHW[-10:], labels_N[-10:] = images_NCHW[-20:-10], labels_N[-20:-10]
    folder.mkdir(parents=True)
    rows_of = {"train": np.arange(train), "validation": np.arange(train, total)}
    names = [f"{row}.png" for row in range(total)]
    write_shards(folder, images_NCHW, labels_N, names, rows_of, CLASSES, {"layout": "made"})
    return folder


def make_run(
    folder: Path, data: Path, trials: int = 3, epochs: int = 2, classes: list[str] | None = None
) -> Path:
    """``trials`` perceptrons of different width and seed, trained in fp32."""
    dataset = load_dataset(data, classes=classes)
    for trial in range(trials):
        config = parse_train_config(
            {
                "model": {"name": "mlp", "hidden": [16 * (trial + 1)]},
                "image_size": SIDE,
                "epochs": epochs,
                "batch_size": 32,
                "lr": 0.02,
                "precision": "fp32",
                "seed": trial,
                "classes": classes,
            }
        )
        run_trial(
            folder / "trials" / f"{trial:04d}", trial, config, dataset, device=torch.device("cpu")
        )
    description = {"data": str(data), "data_fingerprint": dataset.fingerprint, "seed": 0}
    if classes is not None:
        description["classes"] = classes
    (folder / "run.yaml").write_text(yaml.safe_dump(description))
    return folder


def trial_folder(run: Path, trial: int) -> TrialFolder:
    return TrialFolder(run / "trials" / f"{trial:04d}")


def change_probabilities(run: Path, trial: int, **changes) -> None:
    """Rewrite a trial's probability file with some of its fields changed."""
    path = trial_folder(run, trial).validation
    write_probabilities(path, replace(read_probabilities(path), **changes))


def blur(run: Path, trial: int, precision: str = "bf16", amount: float = 0.01) -> None:
    """Make all probabilities of a trial slightly wrong, as a fast computation does."""
    old = read_probabilities(trial_folder(run, trial).validation)
    rng = np.random.default_rng(trial)
    noisy = {}
    for name, probs_VK in old.candidates.items():
        probs_VK = probs_VK * np.exp(rng.normal(0, amount, probs_VK.shape))
        noisy[name] = probs_VK / probs_VK.sum(axis=1, keepdims=True)
    change_probabilities(run, trial, candidates=noisy, precision=dict.fromkeys(noisy, precision))
