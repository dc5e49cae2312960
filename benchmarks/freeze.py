"""What freezing the first layer groups saves: images per second of training at several depths.

    python benchmarks/freeze.py [--model timm/resnet18] [--depths 0 1 5 9] [--out FILE]

`Training` as `raysearch train` runs it, on random images (speed does not depend on them). All
depths take turns, a block of steps each, the first one uncounted; medians over the blocks, and
their ratio to nothing frozen. Evaluation is left out. ``saved_tensors_mb`` is what autograd keeps
between the forward and the backward pass of one batch: a frozen prefix keeps nothing.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from conditions import conditions, write_table
from torch.nn import functional as F

from raysearch.config import TrainConfig, parse_train_config
from raysearch.data.dataset import Dataset, TensorSplit
from raysearch.models.freeze import train_mode
from raysearch.train.device import autocast_dtype, default_device
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training

CLASSES = tuple("abcdefg")


def random_images(side: int, train: int, validation: int, device: torch.device) -> Dataset:
    draws = torch.Generator().manual_seed(0)

    def split(rows: int, name: str) -> TensorSplit:
        images = torch.randint(256, (rows, 1, side, side), generator=draws, dtype=torch.uint8)
        labels = torch.randint(len(CLASSES), (rows,), generator=draws)
        return TensorSplit(images.to(device), labels.to(device), name)

    return Dataset(
        train=split(train, "train"),
        validation=split(validation, "validation"),
        classes=CLASSES,
        shape=(1, side, side),
        fingerprint="random",
        mean=(0.5,),
        std=(0.29,),
    )


def saved_megabytes(training: Training, batch_size: int) -> float:
    """Of the activations that one batch leaves for its backward pass, weights not counted."""
    kept: dict[int, int] = {}
    weights = {p.data_ptr() for p in training.network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = training.dataset.train.images_NCHW[:batch_size]
    labels = training.dataset.train.labels_N[:batch_size]
    train_mode(training.network)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(training.network(training.preprocess(images)), labels)
    del loss
    return round(sum(kept.values()) / 2**20, 1)


def blocks_of(config: TrainConfig, dataset: Dataset, device: torch.device) -> Callable[[], float]:
    """A block is an epoch; the run itself reports its images per second."""
    training = Training(config, dataset, device, Workers())
    return lambda: training.run_epoch().metrics["images_per_second"]


def measure(options: argparse.Namespace) -> list[dict]:
    device = default_device()
    turns = options.blocks + 1
    rows = options.block_steps * options.batch_size
    dataset = random_images(options.image_size, rows, options.batch_size, device)
    fields = {"model": options.model, "image_size": options.image_size, "epochs": turns}
    fields |= {"batch_size": options.batch_size, "lr": 0.01}
    configs = {d: parse_train_config(fields | {"freeze_depth": d}) for d in options.depths}
    kept = {
        depth: saved_megabytes(Training(config, dataset, device, Workers()), options.batch_size)
        for depth, config in configs.items()
    }
    blocks = {depth: blocks_of(config, dataset, device) for depth, config in configs.items()}
    speeds: dict[int, list[float]] = {depth: [] for depth in configs}
    for turn in range(turns):
        for depth, block in blocks.items():
            speed = block()
            speeds[depth] += [speed] if turn else []
    whole = median(speeds[options.depths[0]])
    fast = autocast_dtype("auto", device) is not None
    return [
        {
            "model": options.model,
            "freeze_depth": depth,
            "precision": "bf16" if fast else "fp32",
            "images_per_second": round(median(speeds[depth]), 1),
            "slowest_block": round(min(speeds[depth]), 1),
            "fastest_block": round(max(speeds[depth]), 1),
            "times_first": round(median(speeds[depth]) / whole, 2),
            "saved_tensors_mb": kept[depth],
        }
        for depth in options.depths
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="timm/resnet18")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 5, 9])
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--block-steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/freeze.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    under = conditions("torch", "timm")
    names = ("image_size", "batch_size", "blocks", "block_steps", "threads")
    under |= {name: getattr(options, name) for name in names}
    rows = measure(options)
    write_table(options.out, [row | under for row in rows])
    for row in rows:
        print(*(f"{name} {value}" for name, value in row.items()), sep="  ")
    print(options.out)


if __name__ == "__main__":
    main()
