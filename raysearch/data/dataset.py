"""Shards to tensors that live on the training device, or are fed to it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raysearch.data.classes import check_filled
from raysearch.data.feeding import HostImages, fed, in_slices
from raysearch.data.placement import Place, place_images
from raysearch.data.reading import ImageStack, Split
from raysearch.data.shards import Shards, open_shards
from raysearch.errors import DataError, RunError

CHUNK_BYTES = 16 * 2**20
"""Read at a time where a whole set goes by."""


@dataclass(frozen=True)
class TensorSplit:
    """``images_NCHW`` uint8 [0, 255], on the device or fed to it; ``labels_N`` int64 on the
    device; and their digest."""

    images_NCHW: Tensor | HostImages
    labels_N: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.labels_N)

    @contextmanager
    def batches(self, row_batches: Iterable[Tensor]) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
        """Images and labels of each of ``row_batches`` (int64, best on the CPU) in turn.

        What follows is read while a batch is used; that ends with the block.
        """
        row_batches = list(row_batches)
        with fed(self.images_NCHW, row_batches) as images:
            yield (
                (batch, self.labels_N[rows.to(self.labels_N.device, non_blocking=True)])
                for batch, rows in zip(images, row_batches, strict=True)
            )


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

    @property
    def images_on(self) -> Place:
        return "host" if isinstance(self.train.images_NCHW, HostImages) else "device"

    @property
    def image_bytes(self) -> int:
        return (len(self.train) + len(self.validation)) * int(np.prod(self.shape))


def load_dataset(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    classes: Sequence[str] | None = None,
    images_on: Literal["auto", "device", "host"] = "auto",
    memory_share: float = 1.0,
) -> Dataset:
    """Read the train and validation splits of ``folder`` onto ``device``, or open them to be fed.

    Args:
        classes: to tell apart, labels in this order; all where left out.
        images_on: see `raysearch.data.placement`, ``memory_share`` too.

    Raises `DataError` where the folder is not a whole set of shards of this format, or one of
    the two splits is empty; `ClassError` for a class that is unknown, or empty in one of them.
    """
    device = torch.device(device)
    shards = open_shards(folder)
    check_splits(shards)
    if classes is not None:
        shards = shards.subset(classes)
        check_filled(shards)
    train, validation = shards.split("train"), shards.split("validation")
    size = (len(train) + len(validation)) * int(np.prod(shards.shape))
    place = place_images(images_on, size, device, memory_share)
    mean, std = channel_statistics(HostImages(train.images_NCHW))
    return Dataset(
        train=load_split(train, device, place),
        validation=load_split(validation, device, place),
        classes=shards.classes,
        shape=shards.shape,
        fingerprint=shards.fingerprint,
        mean=mean,
        std=std,
    )


def load_merged(
    folder: Path | str, device: torch.device | str, *, classes: Sequence[str]
) -> Dataset:
    """`load_dataset` with the validation images among the training images, after the others; they
    are still the validation split too, on which nothing honest can be measured any more."""
    device = torch.device(device)
    shards = open_shards(folder).subset(classes)
    check_splits(shards)
    parts = [shards.split(name) for name in ("train", "validation")]
    images = HostImages(ImageStack([part.images_NCHW for part in parts]), device)
    size = (len(images) + len(parts[1])) * int(np.prod(shards.shape))
    place = place_images("auto", size, device, 1.0)
    labels_N = torch.from_numpy(np.concatenate([part.labels_N for part in parts])).to(device)
    mean, std = channel_statistics(images)
    return Dataset(
        train=TensorSplit(
            images if place == "host" else _copied(images),
            labels_N,
            "+".join(part.digest for part in parts),
        ),
        validation=load_split(parts[1], device, place),
        classes=shards.classes,
        shape=shards.shape,
        fingerprint=shards.fingerprint,
        mean=mean,
        std=std,
    )


def check_splits(shards: Shards) -> None:
    """Raises `DataError` unless there are images to learn from and images to validate on."""
    for name in ("train", "validation"):
        if not len(shards.split(name)):
            raise DataError(
                f"Training needs images to learn from and images to validate on, but the split "
                f"{name!r} of {shards.path} is empty. Import the data with both, or let "
                "`raysearch data import` cut the missing one."
            )


def load_split(split: Split, device: torch.device, place: Place) -> TensorSplit:
    """Raises `RunError` where the images are to be on the device and do not fit."""
    fed_images = HostImages(split.images_NCHW, device)
    images = fed_images if place == "host" else _copied(fed_images)
    labels_N = torch.from_numpy(np.array(split.labels_N, dtype=np.int64))
    return TensorSplit(images, labels_N.to(device), split.digest)


def _copied(images: HostImages) -> Tensor:
    try:
        tensor = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    except RuntimeError:  # a GPU's OutOfMemoryError is one; on a CPU it has no name of its own
        raise RunError(
            f"{len(images):,} images ({int(np.prod(images.shape)) / 1e9:,.1f} GB) do not fit on "
            f"{images.device}. Leave images_on at auto, or set it to host."
        ) from None
    chunks = in_slices(len(images), _chunk_rows(images))
    with fed(images, chunks) as parts:
        for rows, part in zip(chunks, parts, strict=True):
            tensor[rows] = part
    return tensor


def channel_statistics(
    images_NCHW: Tensor | HostImages,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel in units of [0, 1], exact: from a count of each value."""
    counts_C256 = torch.zeros(images_NCHW.shape[1], 256, dtype=torch.int64)
    with fed(images_NCHW, in_slices(len(images_NCHW), _chunk_rows(images_NCHW))) as parts:
        for part in parts:
            for counts, channel in zip(counts_C256, part.transpose(0, 1), strict=True):
                counts += torch.bincount(channel.reshape(-1), minlength=256).cpu()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for counts in counts_C256.double():
        share = counts / counts.sum()
        center = float((share * levels).sum())
        mean.append(center)
        std.append(max(float((share * (levels - center) ** 2).sum()) ** 0.5, 1 / 255))
    return tuple(mean), tuple(std)


def _chunk_rows(images_NCHW: Tensor | HostImages) -> int:
    return max(1, CHUNK_BYTES // int(np.prod(images_NCHW.shape[1:])))
