"""Images per second of `raysearch.train.augment` beside kornia and torchvision, on this machine.

Two sets of strengths: every operation, and one that the space `fer2013_cpu` starts from. All three
change each image by its own draw from the same ranges, on the same batch of one-channel images:
kornia draws per image in a batch; torchvision v2 draws once per call and is called per image. What
they cannot draw they have fixed: kornia and torchvision the noise's deviation, torchvision the
sharpness. Both fill with black, where ours reflects: in their favour.

    python benchmarks/augment.py [--threads 1 2] [--device cpu] [--turns 15] [--out FILE]

The contenders take turns in one process; figures are medians over the turns, of wall time and of
the CPU time of all threads, which other programs disturb less; ratios are those of the medians. A
last part takes a training step of the space's network apart, to see the share of all that is not
the network.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import kornia.augmentation as K
import torch
from conditions import conditions, write_table
from torchvision.transforms import InterpolationMode, v2

from raysearch.config import AugmentConfig, TrainConfig
from raysearch.data.dataset import Dataset, TensorSplit
from raysearch.train.augment import augment
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training

BATCH, SIDE = 128, 48
STRENGTHS = {
    "every operation": AugmentConfig(
        mirror=0.5,
        shift=0.1,
        crop=0.1,
        rotate=12,
        zoom=0.1,
        shear=10,
        brightness=0.1,
        contrast=0.2,
        sharpen=1.0,
        noise=0.05,
        erase=0.25,
    ),
    "fer2013_cpu": AugmentConfig(
        mirror=0.5, shift=0.08, rotate=10, zoom=0.1, contrast=0.2, erase=0.2
    ),
}


def ours(x: torch.Tensor, c: AugmentConfig) -> Callable:
    generator = torch.Generator(x.device).manual_seed(0)
    return lambda: augment(x, c, generator)


def with_kornia(x: torch.Tensor, c: AugmentConfig) -> Callable:
    size, kept = (SIDE, SIDE), (1 - c.crop) ** 2
    steps = [
        K.RandomHorizontalFlip(p=c.mirror),
        K.RandomResizedCrop(size, (kept, 1.0), (1.0, 1.0), p=1) if c.crop else None,
        K.RandomAffine(
            c.rotate, (c.shift, c.shift), (1 - c.zoom, 1 + c.zoom), c.shear or None, p=1
        ),
        K.RandomSharpness((1.0, 1.0 + c.sharpen), p=1) if c.sharpen else None,
        K.RandomContrast((1 - c.contrast, 1 + c.contrast), p=1),
        K.RandomBrightness((1 - c.brightness, 1 + c.brightness), p=1) if c.brightness else None,
        K.RandomGaussianNoise(std=c.noise / 2, p=1) if c.noise else None,
        K.RandomErasing((c.erase**2, c.erase**2), (1.0, 1.0), p=1),
    ]
    pipeline = torch.nn.Sequential(*(step for step in steps if step is not None))
    return lambda: pipeline(x)


def with_torchvision(x: torch.Tensor, c: AugmentConfig) -> Callable:
    size, kept, bilinear = (SIDE, SIDE), (1 - c.crop) ** 2, InterpolationMode.BILINEAR
    steps = [
        v2.RandomHorizontalFlip(c.mirror),
        v2.RandomResizedCrop(size, (kept, 1.0), (1.0, 1.0)) if c.crop else None,
        v2.RandomAffine(
            c.rotate,
            (c.shift, c.shift),
            (1 - c.zoom, 1 + c.zoom),
            c.shear or None,
            interpolation=bilinear,
        ),
        v2.RandomAdjustSharpness(1 + c.sharpen / 2, p=1) if c.sharpen else None,
        v2.ColorJitter(brightness=c.brightness, contrast=c.contrast),
        v2.GaussianNoise(sigma=c.noise / 2) if c.noise else None,
        v2.RandomErasing(1, (c.erase**2, c.erase**2), (1.0, 1.0)),
    ]
    transform = v2.Compose([step for step in steps if step is not None])
    return lambda: torch.stack([transform(image) for image in x])


def step_in_parts(device: torch.device, width: int) -> dict[str, Callable]:
    """A whole training step with the strengths of ``fer2013_cpu``, and all in it but the network,
    the loss and the optimizer."""
    strengths = STRENGTHS["fer2013_cpu"]
    config = TrainConfig(model={"name": "vgg", "width": width, "depth": 8}, augment=strengths)
    training = Training(config, random_dataset(BATCH, device), device, Workers())
    train, preprocess = training.dataset.train, training.preprocess
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.randperm(BATCH, device=device)
    x, logits = preprocess.resize(train.images_NCHW), torch.rand(BATCH, 7, device=device)
    return {
        "training step": training.run_epoch,
        "gather, scale, standardize": lambda: preprocess.standardize(
            preprocess.resize(train.images_NCHW[rows])
        ),
        "augmentation": lambda: augment(x, strengths, generator),
        "moving average": lambda: training.average.update(training.network),
        "metrics": lambda: (logits.argmax(1) == train.labels_N).sum(),
    }


def random_dataset(images: int, device: torch.device) -> Dataset:
    """``images`` to train on and one to validate on."""

    def split(count: int) -> TensorSplit:
        pixels = torch.randint(256, (count, 1, SIDE, SIDE), dtype=torch.uint8, device=device)
        return TensorSplit(pixels, torch.arange(count, device=device) % 7, "")

    classes = tuple("abcdefg")
    return Dataset(split(images), split(1), classes, (1, SIDE, SIDE), "", (0.5,), (0.3,))


def medians(contenders: dict[str, Callable], turns: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of a call; contenders take turns, the first is not counted."""
    seconds = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, call in contenders.items():
            begin, cpu = time.perf_counter(), time.process_time()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                spent = (time.perf_counter() - begin, time.process_time() - cpu)
                seconds[name].append(spent)
    return {
        name: tuple(statistics.median(values) for values in zip(*spent, strict=True))
        for name, spent in seconds.items()
    }


def measure(x: torch.Tensor, turns: int, width: int) -> list[dict]:
    rows = []
    for name, strengths in STRENGTHS.items():
        contenders = {
            "raysearch": ours(x, strengths),
            "kornia": with_kornia(x, strengths),
            "torchvision, per image": with_torchvision(x, strengths),
        }
        rows += table(name, medians(contenders, turns), "raysearch")
    parts = medians(step_in_parts(x.device, width), turns)
    return rows + table(f"step of vgg, width {width}, depth 8", parts, "training step")


def table(part: str, seconds: dict[str, tuple[float, float]], base: str) -> list[dict]:
    return [
        {
            "part": part,
            "what": what,
            "us_per_image": round(1e6 * wall / BATCH, 2),
            "images_per_second": round(BATCH / wall),
            "cpu_us_per_image": round(1e6 * cpu / BATCH, 2),
            "relative_to": base,
            "ratio": round(wall / seconds[base][0], 4),
            "cpu_ratio": round(cpu / seconds[base][1], 4),
        }
        for what, (wall, cpu) in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--width", type=int, default=32, help="of the network whose step is timed")
    parser.add_argument("--out", type=Path, default=Path("results/augment.csv"))
    options = parser.parse_args()
    under = conditions("torch", "kornia", "torchvision")
    under |= {"device": options.device, "batch": BATCH, "side": SIDE, "turns": options.turns}
    x = torch.rand(BATCH, 1, SIDE, SIDE, device=options.device)
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        measured = measure(x, options.turns, options.width)
        rows += [row | {"threads": threads} | under for row in measured]
    write_table(options.out, rows)
    for row in rows:
        shown = (
            "threads",
            "part",
            "what",
            "us_per_image",
            "ratio",
            "cpu_us_per_image",
            "cpu_ratio",
        )
        print("{:>2} {:32} {:28} {:>9} {:>8} {:>9} {:>8}".format(*(row[key] for key in shown)))


if __name__ == "__main__":
    main()
