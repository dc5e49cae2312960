"""How much of a student's loss should be against its teacher?

    python benchmarks/distillation.py --data DIR --work DIR [--shares 0 0.5 0.9] [--seeds 3]

On a part of the training images, equal for each class: some VGGs are trained, whose mean is the
teacher, and then students of half the width at each share of the loss and seed. Scores are of all
validation images after the last epoch, so nothing is chosen by them; log loss as it is, and with a
temperature that was fitted on the other half of the images. What is trained is kept in ``--work``,
and a call that was broken off goes on there.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from conditions import conditions, write_table

from raysearch import metrics
from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset, TensorSplit, load_dataset
from raysearch.ensemble.calibration import fit_temperature, sharpen
from raysearch.train.epoch import EpochEnd
from raysearch.train.evaluate import predict_probs
from raysearch.train.loop import fit
from raysearch.train.teaching import Teacher


def configuration(width: int, epochs: int, seed: int) -> TrainConfig:
    values = {
        "model": {"name": "vgg", "width": width, "depth": 6, "dropout": 0.1},
        "image_size": 24,
        "epochs": epochs,
        "batch_size": 64,
        "lr": 0.1,
        "weight_decay": 5e-3,
        "augment": {"mirror": 0.5, "shift": 0.06, "rotate": 8, "zoom": 0.1},
        "seed": seed,
    }
    return TrainConfig.model_validate(values)


def part_of(dataset: Dataset, share: float) -> Dataset:
    """``share`` of each class's training images."""
    rng, train = np.random.default_rng(0), dataset.train
    rows = []
    for label in range(len(dataset.classes)):
        found = np.flatnonzero(train.labels_N.numpy() == label)
        rows.append(rng.permutation(found)[: round(share * len(found))])
    kept = torch.from_numpy(np.sort(np.concatenate(rows)))
    part = TensorSplit(train.images_NCHW[kept], train.labels_N[kept], train.digest)
    return Dataset(**{**vars(dataset), "train": part})


def train(
    config: TrainConfig, dataset: Dataset, teacher: Teacher | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the averaged weights after the last epoch: of the validation images and of
    the training images as they are stored."""
    ends: list[EpochEnd] = []
    fit(config, dataset, ends.append, teacher=teacher)
    end = ends[-1]
    training = end.training
    network, images = training.average.network, dataset.train.images_NCHW
    taught = predict_probs(network, training.preprocess, images, dtype=training.dtype)
    return end.probs_VK, taught.numpy()


def kept(path: Path, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    """What ``make`` returns, in a file from then on."""
    if not path.exists():
        validation_VK, train_NK = make()
        np.savez(path, validation=validation_VK, train=train_NK)
        print(f"{path.stem} trained", flush=True)
    with np.load(path) as file:
        return file["validation"], file["train"]


def scores(probs_VK: np.ndarray, labels_V: np.ndarray) -> dict[str, float]:
    half_V = np.random.default_rng(0).permutation(len(labels_V)) % 2 == 0
    calibrated_VK = np.empty_like(probs_VK)
    for here_V in (half_V, ~half_V):
        temperature = fit_temperature(probs_VK[~here_V], labels_V[~here_V])
        calibrated_VK[here_V] = sharpen(probs_VK[here_V], temperature)
    return {
        "accuracy": round(float(metrics.accuracy(probs_VK, labels_V)), 4),
        "log_loss": round(float(metrics.log_loss(probs_VK, labels_V)), 4),
        "calibrated_log_loss": round(float(metrics.log_loss(calibrated_VK, labels_V)), 4),
    }


def measure(options: argparse.Namespace) -> list[dict]:
    dataset = part_of(load_dataset(options.data, images_on="device"), options.part)
    labels_V = dataset.validation.labels_N.numpy()
    options.work.mkdir(parents=True, exist_ok=True)
    members = []
    for seed in range(options.members):
        config = configuration(options.width, options.teacher_epochs, 100 + seed)
        path = options.work / f"member-{seed}.npz"
        members.append(kept(path, partial(train, config, dataset)))
    taught_VK, taught_NK = (np.mean(probs, axis=0) for probs in zip(*members, strict=True))
    rows = [{"network": "teacher", "share": "", "seed": ""} | scores(taught_VK, labels_V)]
    for seed in range(options.seeds):
        config = configuration(options.width // 2, options.epochs, seed)
        for share in options.shares:
            teacher = Teacher(torch.from_numpy(taught_NK), options.temperature, share)
            path = options.work / f"student-{share:g}-{seed}.npz"
            probs_VK, _ = kept(path, partial(train, config, dataset, teacher))
            row = {"network": "student", "share": share, "seed": seed}
            rows.append(row | scores(probs_VK, labels_V))
    about = {
        "training_images": len(dataset.train),
        "validation_images": len(labels_V),
        "members": options.members,
        "width": options.width,
        "teacher_epochs": options.teacher_epochs,
        "epochs": options.epochs,
        "temperature": options.temperature,
    }
    return [row | about for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of imported data")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is trained")
    parser.add_argument("--part", type=float, default=0.25, help="of the training images")
    parser.add_argument("--members", type=int, default=3, help="of the teacher")
    parser.add_argument("--width", type=int, default=16, help="of the teacher's members")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.5, 0.9])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/distillation.csv"))
    options = parser.parse_args()
    about = conditions("numpy", "torch")
    rows = measure(options)
    write_table(options.out, [row | about for row in rows])
    for row in rows:
        print(row)
    for share in options.shares:
        for name in ("accuracy", "log_loss", "calibrated_log_loss"):
            first, here = (
                np.array([row[name] for row in rows if row["share"] == s])
                for s in (options.shares[0], share)
            )
            gain = here - first if name == "accuracy" else first - here
            error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
            print(f"share {share:g} {name} {here.mean():.4f} gain {gain.mean():.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
