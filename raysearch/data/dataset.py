"""Shards to tensors that live on the training device."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raysearch.data.shards import Shards, open_shards
from raysearch.errors import DataError


@dataclass(frozen=True)
class TensorSplit:
    """``images_NCHW`` uint8 [0, 255] and ``labels_N`` int64 on one device, and their digest."""

    images_NCHW: Tensor
    labels_N: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class Dataset:
    """What training and selection may see: the train and validation splits, never test.

    ``mean`` and ``std`` are per channel, over the training split, in units of [0, 1].
    """

    train: TensorSplit
    validation: TensorSplit
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_dataset(folder: Path | str, device: torch.device | str = "cpu") -> Dataset:
    """Read the train and validation splits of ``folder`` onto ``device``.

    Raises `DataError` where the folder is not a whole set of shards of this format, or one of
    the two splits is empty.
    """
    shards = open_shards(folder)
    for name in ("train", "validation"):
        if not len(shards.split(name)):
            raise DataError(
                f"Training needs images to learn from and images to validate on, but the split "
                f"{name!r} of {folder} is empty. Import the data with both, or let "
                "`raysearch data import` cut the missing one."
            )
    train = load_split(shards, "train", device)
    mean, std = channel_statistics(train.images_NCHW)
    return Dataset(
        train=train,
        validation=load_split(shards, "validation", device),
        classes=shards.classes,
        shape=shards.shape,
        fingerprint=shards.fingerprint,
        mean=mean,
        std=std,
    )


def load_split(shards: Shards, name: str, device: torch.device | str) -> TensorSplit:
    split = shards.split(name)
    images = torch.from_numpy(np.array(split.images_NCHW))
    labels = torch.from_numpy(np.array(split.labels_N, dtype=np.int64))
    return TensorSplit(images.to(device), labels.to(device), split.digest)


def channel_statistics(images_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel in units of [0, 1], exact: from a count of each value."""
    mean, std = [], []
    levels = torch.arange(256, dtype=torch.float64) / 255
    for channel in images_NCHW.transpose(0, 1):
        counts = torch.bincount(channel.reshape(-1).long(), minlength=256).double().cpu()
        share = counts / counts.sum()
        center = float((share * levels).sum())
        mean.append(center)
        std.append(max(float((share * (levels - center) ** 2).sum()) ** 0.5, 1 / 255))
    return tuple(mean), tuple(std)
