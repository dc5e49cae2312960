"""Images per second of `raysearch.train.augment` beside kornia and torchvision, on this machine.

All three mirror, shift, rotate, zoom, change contrast, add noise and erase, drawn per image, on the
same batch of 128 one-channel images of 48 pixels. kornia draws per image in a batch; torchvision v2
draws once per call and is called per image. The contenders take turns in one process; the figure
is the median over the turns, the ratio that of the medians. Beside them a training step of the
default vgg and of a small one, so that the share of a step can be read off.

    python benchmarks/augment.py [--threads 1] [--device cpu] [--turns 15] [--out FILE]
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import kornia
import kornia.augmentation as K
import torch
import torchvision
from torch.nn import functional as F
from torchvision.transforms import v2

from raysearch.config import AugmentConfig, ModelConfig
from raysearch.models.registry import build_model
from raysearch.train.augment import augment

BATCH, SIDE = 128, 48
CONFIG = AugmentConfig(
    mirror=0.5, shift=0.1, rotate=12, zoom=0.1, contrast=0.2, noise=0.05, erase=0.25
)


def ours(x: torch.Tensor) -> Callable:
    generator = torch.Generator(x.device).manual_seed(0)
    return lambda: augment(x, CONFIG, generator)


def with_kornia(x: torch.Tensor) -> Callable:
    c = CONFIG
    pipeline = torch.nn.Sequential(
        K.RandomHorizontalFlip(p=c.mirror),
        K.RandomAffine(c.rotate, (c.shift, c.shift), (1 - c.zoom, 1 + c.zoom), p=1),
        K.RandomContrast((1 - c.contrast, 1 + c.contrast), p=1),
        K.RandomGaussianNoise(std=c.noise / 2, p=1),
        K.RandomErasing((c.erase**2, c.erase**2), (1.0, 1.0), p=1),
    )
    return lambda: pipeline(x)


def with_torchvision(x: torch.Tensor) -> Callable:
    c = CONFIG
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(c.mirror),
            v2.RandomAffine(
                c.rotate,
                (c.shift, c.shift),
                (1 - c.zoom, 1 + c.zoom),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(contrast=c.contrast),
            v2.GaussianNoise(sigma=c.noise / 2),
            v2.RandomErasing(1, (c.erase**2, c.erase**2), (1.0, 1.0)),
        ]
    )
    return lambda: torch.stack([transform(image) for image in x])


def training_step(x: torch.Tensor, **options) -> Callable:
    network = build_model(ModelConfig(name="vgg", **options), 1, 7, SIDE).to(x.device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    labels = torch.randint(7, (len(x),), device=x.device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()

    return step


def interleaved(contenders: dict[str, Callable], turns: int) -> dict[str, list[float]]:
    """Seconds of each call, the contenders taking turns; a first turn is not counted."""
    seconds = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("results/augment.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x = torch.rand(BATCH, 1, SIDE, SIDE, device=arguments.device)
    contenders = {
        "raysearch": ours(x),
        f"kornia {kornia.__version__}": with_kornia(x),
        f"torchvision {torchvision.__version__} per image": with_torchvision(x),
        "training step of vgg": training_step(x),
        "training step of vgg width 8 depth 4": training_step(x, width=8, depth=4),
    }
    rows = table(interleaved(contenders, arguments.turns), arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print({key: row[key] for key in list(row)[:5]})


def table(seconds: dict[str, list[float]], arguments: argparse.Namespace) -> list[dict]:
    ours = statistics.median(seconds["raysearch"])
    on_gpu = arguments.device.startswith("cuda")
    conditions = {
        "batch": BATCH,
        "side": SIDE,
        "turns": arguments.turns,
        "threads": arguments.threads,
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    rows = []
    for name, values in seconds.items():
        median = statistics.median(values)
        row = {
            "what": name,
            "median_ms": round(1000 * median, 3),
            "fastest_ms": round(1000 * min(values), 3),
            "images_per_second": round(BATCH / median),
            "times_raysearch": round(median / ours, 2),
        }
        rows.append({**row, **conditions})
    return rows


if __name__ == "__main__":
    main()
