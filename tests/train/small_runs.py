"""Small learnable sets and quick configurations, shared by the tests of training."""

from collections.abc import Callable

import numpy as np
import torch

from raysearch.config import TrainConfig, parse_train_config
from raysearch.data.dataset import Dataset, TensorSplit, channel_statistics
from raysearch.train.loop import EpochEnd, Training, fit

SIDE = 16
CLASSES = ("disc", "ring", "stripes")
TIMES = ("images_per_second", "seconds")


def patterns(rows: int, seed: int, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """uint8 ``[N, 1, 16, 16]`` and labels: one smooth pattern a class, moved about, under noise."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, len(CLASSES), rows)
    middle_N2 = rng.uniform(5, 11, (rows, 2))
    y_NS1 = np.arange(SIDE)[None, :, None] - middle_N2[:, :1, None]
    x_N1S = np.arange(SIDE)[None, None, :] - middle_N2[:, 1:, None]
    radius_NSS = np.hypot(y_NS1, x_N1S)
    disc, ring = radius_NSS < 3.5, np.abs(radius_NSS - 4) < 1.2
    stripes = np.broadcast_to(np.sin(1.6 * y_NS1) > 0.2, radius_NSS.shape)
    shapes_KNSS = np.stack([disc, ring, stripes])
    shown_NSS = shapes_KNSS[labels_N, np.arange(rows)]
    noise_NSS = rng.normal(0, 40, shown_NSS.shape)
    images_NSS = np.clip(110 + contrast * shown_NSS + noise_NSS, 0, 255)
    return images_NSS[:, None].astype(np.uint8), labels_N


def make_dataset(
    train: int = 96, validation: int = 45, *, seed: int = 0, contrast: float = 60.0
) -> Dataset:
    """An odd number of validation images, so that no number of workers or batches divides it."""
    images, labels = patterns(train + validation, seed, contrast)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    mean, std = channel_statistics(images[:train])
    return Dataset(
        train=TensorSplit(images[:train], labels[:train], f"train-{seed}"),
        validation=TensorSplit(images[train:], labels[train:], f"validation-{seed}"),
        classes=CLASSES,
        shape=(1, SIDE, SIDE),
        fingerprint=f"fingerprint-{seed}",
        mean=mean,
        std=std,
    )


MODELS = {
    "mlp": {"name": "mlp", "hidden": [16], "dropout": 0.2},
    "vgg": {"name": "vgg", "width": 4, "depth": 4, "dropout": 0.2},
}


def make_config(model: str | dict = "mlp", **changes) -> TrainConfig:
    """A run of well under a second, of one of `MODELS` or another."""
    values = {
        "model": MODELS[model] if isinstance(model, str) else model,
        "image_size": SIDE,
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.05,
        "precision": "fp32",
    }
    return parse_train_config(values | changes)


def run_fit(config: TrainConfig, dataset: Dataset, **options) -> list[EpochEnd]:
    ends: list[EpochEnd] = []
    fit(config, dataset, ends.append, **options)
    return ends


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


def weights(training: Training) -> dict[str, torch.Tensor]:
    """Copies of all that a run is made of: weights, averages, momenta."""
    network, average = training.network.state_dict(), training.average.network.state_dict()
    tensors = {f"network.{name}": value.clone() for name, value in network.items()}
    tensors |= {f"average.{name}": value.clone() for name, value in average.items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    return tensors


def assert_bitwise_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def stop_after(epoch: int, then: Callable[[EpochEnd], None]) -> Callable[[EpochEnd], None]:
    """A report that calls ``then`` at the end of ``epoch`` and stops the run."""

    def report(end: EpochEnd) -> None:
        if end.metrics["epoch"] == epoch:
            then(end)
            raise Stopped

    return report


class Stopped(Exception):
    pass
