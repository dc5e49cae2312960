"""Training beside the script that is usually written, on the same images with the same network.

    python benchmarks/training.py --data DIR --archive fer2013.zip [--out results/training.csv]

``--data`` holds the shards that were imported from ``--archive``. Theirs: torchvision's
`ImageFolder` over the extracted archive, its transforms on PIL images, a `DataLoader` with two
worker processes, fp32, channels first, torch's SGD and `OneCycleLR`. Ours: `Training` as
`raysearch train` runs it, and once more in fp32. Network, batch size, learning rate, schedule,
strengths of augmentation and images are the same, and so is weight decay, as far as torch's, which
passes through the momentum and takes biases and norms along, can be that of ours.

Speed: all take turns, a block of steps each, the first one uncounted; medians over the blocks and
the ratio of the medians. Evaluation is left out, and so are the start of the loader's workers and
the up to four batches that they fetch ahead after each block: both in their favour. The machine
must be quiet: with a thread a core, a step waits for the thread whose core is taken, and bf16
kernels suffer most, up to sixteenfold.

Accuracy: of the whole validation split after ``--epochs`` on a stratified ``--fraction`` of the
training split, mean over ``--seeds``. Ours is of the averaged weights, theirs of the last ones,
as each is used. So few epochs show that speed does not cost learning, not what a network can do.
"""

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from conditions import conditions, write_table
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from raysearch.config import TrainConfig, parse_train_config
from raysearch.data.dataset import Dataset, TensorSplit, load_dataset
from raysearch.data.shards import open_shards
from raysearch.models.registry import build_model
from raysearch.train.device import autocast_dtype
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training, fit
from raysearch.train.optim import MOMENTUM

CPU = torch.device("cpu")


class Theirs:
    """The usual script: folders of images, transforms on the CPU, a plain loop."""

    def __init__(self, folder: Path, config: TrainConfig, dataset: Dataset):
        strengths = config.augment
        shown = [T.Grayscale(), T.ToTensor(), T.Normalize(dataset.mean, dataset.std)]
        changes = [
            T.RandomHorizontalFlip(strengths.mirror),
            T.RandomAffine(
                strengths.rotate,
                translate=(strengths.shift, strengths.shift),
                scale=(1 - strengths.zoom, 1 + strengths.zoom),
            ),
        ]
        training = ImageFolder(folder / "train", T.Compose([shown[0], *changes, *shown[1:]]))
        validation = ImageFolder(folder / "validation", T.Compose(shown))
        batches = {"batch_size": config.batch_size, "num_workers": 2}
        self.loader = DataLoader(training, shuffle=True, drop_last=True, **batches)
        self.validation = DataLoader(validation, **batches)
        self.config, self.classes = config, len(dataset.classes)

    def begin(self, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        config = self.config
        self.network = build_model(config.model, 1, self.classes, config.image_size)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.lr,
            momentum=MOMENTUM,
            nesterov=True,
            # torch's decay goes through the momentum, which multiplies it by 1 / (1 - momentum).
            weight_decay=config.weight_decay * (1 - MOMENTUM),
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=config.lr, total_steps=steps, pct_start=config.warmup
        )

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()
        self.schedule.step()

    def accuracy_after(self, epochs: int, seed: int) -> float:
        self.begin(seed, epochs * len(self.loader))
        for _ in range(epochs):
            self.network.train()
            for images, labels in self.loader:
                self.step(images, labels)
        self.network.eval()
        correct = total = 0
        with torch.no_grad():
            for images, labels in self.validation:
                correct += int((self.network(images).argmax(1) == labels).sum())
                total += len(labels)
        return correct / total

    def blocks(self, count: int, steps: int) -> Callable[[], float]:
        """A call trains for one block and returns its images per second."""
        self.begin(0, count * steps)
        self.network.train()
        batches = self._endless()

        def block() -> float:
            begin = time.perf_counter()
            for _ in range(steps):
                self.step(*next(batches))
            seconds = time.perf_counter() - begin
            time.sleep(
                1
            )  # the loader's workers fetch ahead now, not during the next program's turn
            return steps * self.config.batch_size / seconds

        return block

    def _endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self.loader


def our_accuracy(config: TrainConfig, dataset: Dataset, seed: int) -> float:
    ends = []
    fit(config.model_copy(update={"seed": seed}), dataset, ends.append, device=CPU)
    return ends[-1].metrics["validation_accuracy"]


def our_blocks(config: TrainConfig, dataset: Dataset, steps: int) -> Callable[[], float]:
    """A block is an epoch over ``steps`` batches; the run itself reports its images per second."""
    block = rows_of(dataset, slice(0, steps * config.batch_size), validation=config.batch_size)
    training = Training(config, block, CPU, Workers())
    return lambda: training.run_epoch().metrics["images_per_second"]


def rows_of(dataset: Dataset, rows, validation: int | None = None) -> Dataset:
    """Some rows of training; mean and deviation stay those of all of it."""

    def part(split: TensorSplit, chosen) -> TensorSplit:
        return replace(
            split, images_NCHW=split.images_NCHW[chosen], labels_N=split.labels_N[chosen]
        )

    kept = part(dataset.validation, slice(0, validation))
    return replace(dataset, train=part(dataset.train, rows), validation=kept)


def stratified(labels_N: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Rows of ``fraction`` of each class, in random order."""
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(rows)[: max(round(fraction * len(rows)), 1)]
        for rows in (np.flatnonzero(labels_N == label) for label in np.unique(labels_N))
    ]
    return rng.permutation(np.concatenate(chosen))


def extract(archive: Path, data: Path, rows: np.ndarray, out: Path) -> None:
    """``out/train/<class>`` and ``out/validation/<class>``: the files behind the shards' rows."""
    shards = open_shards(data)
    with zipfile.ZipFile(archive) as files:
        held = set(files.namelist())
        for name, chosen in (("train", rows), ("validation", slice(None))):
            split = shards.split(name)
            labels, sources = split.labels_N[chosen], np.array(split.sources)[chosen]
            for label, source in zip(labels, sources, strict=True):
                if source not in held:
                    raise SystemExit(f"{data} was not imported from {archive}: no {source} in it")
                path = out / name / shards.classes[label] / Path(source).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files.read(source))


def measure(options: argparse.Namespace, folder: Path) -> list[dict]:
    dataset = load_dataset(options.data)
    rows = stratified(dataset.train.labels_N.numpy(), options.fraction)
    dataset = rows_of(dataset, torch.from_numpy(rows))
    extract(options.archive, options.data, rows, folder)
    config = make_config(options, dataset)
    theirs = Theirs(folder, config, dataset)
    turns = options.blocks + 1
    timed = config.model_copy(update={"epochs": turns})
    plain = timed.model_copy(update={"precision": "fp32"})
    blocks = {
        "raysearch": our_blocks(timed, dataset, options.block_steps),
        "raysearch, fp32": our_blocks(plain, dataset, options.block_steps),
        "ImageFolder, DataLoader": theirs.blocks(turns, options.block_steps),
    }
    speeds: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(turns):
        for name, block in blocks.items():
            speed = block()
            speeds[name] += [speed] if turn else []
    accuracies: dict[str, list[float]] = {name: [] for name in blocks}
    for seed in range(options.seeds):
        accuracies["raysearch"].append(our_accuracy(config, dataset, seed))
        accuracies["ImageFolder, DataLoader"].append(theirs.accuracy_after(options.epochs, seed))
    return [summarize(name, speeds, accuracies[name]) for name in blocks]


def make_config(options: argparse.Namespace, dataset: Dataset) -> TrainConfig:
    return parse_train_config(
        {
            "model": {"name": "vgg", "width": options.width, "depth": options.depth},
            "image_size": dataset.shape[1],
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "lr": options.lr,
            "augment": {"mirror": 0.5, "shift": 0.08, "rotate": 10, "zoom": 0.1},
        }
    )


def summarize(name: str, speeds: dict[str, list[float]], accuracies: list[float]) -> dict:
    theirs = median(speeds["ImageFolder, DataLoader"])
    fast = name == "raysearch" and autocast_dtype("auto", CPU) is not None
    return {
        "program": name,
        "precision": "bf16" if fast else "fp32",
        "images_per_second": round(median(speeds[name]), 1),
        "slowest_block": round(min(speeds[name]), 1),
        "fastest_block": round(max(speeds[name]), 1),
        "times_theirs": round(median(speeds[name]) / theirs, 2),
        "validation_accuracy": round(mean(accuracies), 4) if accuracies else "",
        "each_seed": " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
    }


def show(rows: list[dict]) -> None:
    for name, *cells in zip(*([key, *(row[key] for row in rows)] for key in rows[0]), strict=True):
        print(f"{name:26}", *(f"{cell!s:>12}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/training.csv"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--block-steps", type=int, default=15)
    parser.add_argument("--fraction", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    under = conditions("torch", "torchvision")
    settings = ("threads", "width", "depth", "batch_size", "lr", "blocks", "block_steps")
    settings += ("fraction", "epochs", "seeds")
    under |= {name: getattr(options, name) for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    write_table(options.out, [row | under for row in rows])
    show(rows)
    print(options.out)


if __name__ == "__main__":
    main()
