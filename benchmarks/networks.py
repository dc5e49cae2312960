"""Training speed of networks: images a second, and where the time of a step goes.

    python benchmarks/networks.py --data DIR [--networks vgg resnet ...] [--out FILE]

Each network is trained by `Training`, as `raysearch train` runs it, in fp32 and bf16, plain and
through `torch.compile`. The variants of a network take turns, an epoch of ``--block-steps`` batches
each, the first one (which compiles) uncounted; medians over the blocks.

`outside` is the share of the time that is neither the network's forward nor its backward pass:
gathering, augmentation, loss, metrics, moving average, and the optimizer's step, whose own share
is `optimizer`. On a GPU the clocks wait for the device, which takes time itself: there each block
is run twice, and its speed is that of the run without clocks. `peak` is the share of the GPU's
peak that three times the forward pass's FLOPs, as counted by torch, come to.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from conditions import conditions, write_table
from torch.utils.flop_counter import FlopCounterMode
from training import rows_of

from raysearch.config import TrainConfig, parse_train_config
from raysearch.data.dataset import Dataset, load_dataset
from raysearch.models.registry import count_parameters
from raysearch.train.device import default_device
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training

NETWORKS = {
    "vgg": {"name": "vgg", "width": 32, "depth": 8},
    "resnet": {"name": "resnet"},
    "se_resnet": {"name": "se_resnet"},
    "wide_resnet": {"name": "wide_resnet", "width": 4},
    "mini_xception": {"name": "mini_xception"},
    "dexpression": {"name": "dexpression"},
    "dcnn": {"name": "dcnn"},
    "hog_dcnn": {"name": "hog_dcnn"},
    "timm/resnet18": {"name": "timm/resnet18"},
    "timm/mobilenetv2_100": {"name": "timm/mobilenetv2_100"},
    "timm/convnext_atto": {"name": "timm/convnext_atto"},
}
VARIANTS = [("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True)]
PEAKS = {"H200": (67e12, 989e12), "H100": (67e12, 989e12), "A100": (19.5e12, 312e12)}
"""FLOPs a second of dense matrices in fp32 (without TF32) and bf16, as NVIDIA states them."""


class Clocks:
    """Seconds spent in the forward pass, the backward pass and the optimizer of one run."""

    def __init__(self, training: Training):
        self.training = training
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable) -> Callable:
        def run(*arguments: Any, **named: Any) -> Any:
            begin = self.now()
            result = function(*arguments, **named)
            self.seconds[name] += self.now() - begin
            return result

        return run

    def now(self) -> float:
        if self.training.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        training, self.seconds = self.training, defaultdict(float)
        forward = self.timed("forward", training.synchronized)
        backward = self.timed("backward", torch.Tensor.backward)
        step = self.timed("optimizer", training.optimizer.step)
        with (
            mock.patch.object(training, "synchronized", forward),
            mock.patch.object(torch.Tensor, "backward", lambda loss: backward(loss)),
            mock.patch.object(training.optimizer, "step", step),
        ):
            yield


class Variant:
    """One network in one precision, plain or compiled, and what its blocks took."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device):
        self.config = config
        self.training = Training(config, dataset, device, Workers())
        self.clocks = Clocks(self.training)
        self.blocks: list[dict[str, float]] = []

    def block(self) -> None:
        with self.clocks.running():
            clocked = self.training.run_epoch().metrics
        speed = clocked["images_per_second"]
        images = self.training.steps_per_epoch * self.config.batch_size
        shares = {name: s * speed / images for name, s in self.clocks.seconds.items()}
        if self.training.device.type == "cuda":
            speed = self.training.run_epoch().metrics["images_per_second"]
        outside = 1 - shares["forward"] - shares["backward"]
        found = {"speed": speed, "outside": outside, "optimizer": shares["optimizer"]}
        self.blocks.append(found)

    def row(self) -> dict:
        middle = {name: median(b[name] for b in self.blocks[1:]) for name in self.blocks[0]}
        speeds = [block["speed"] for block in self.blocks[1:]]
        flops = forward_flops(self.training)
        return {
            "parameters": count_parameters(self.training.network),
            "forward_mflops": round(flops / 1e6, 1),
            "precision": self.config.precision,
            "compiled": self.config.compile,
            "images_per_second": round(middle["speed"], 1),
            "slowest_block": round(min(speeds), 1),
            "fastest_block": round(max(speeds), 1),
            "outside": round(middle["outside"], 3),
            "optimizer": round(middle["optimizer"], 3),
            "peak": share_of_peak(3 * flops * middle["speed"], self.config.precision),
        }


def forward_flops(training: Training) -> int:
    """FLOPs of one image on its way forward; a multiplication and an addition are two."""
    side, channels = training.config.image_size, training.dataset.shape[0]
    image = torch.zeros(1, channels, side, side, device=training.device)
    training.network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        training.network(image)
    return counter.get_total_flops()


def share_of_peak(flops_per_second: float, precision: str) -> float | str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peaks = next((peaks for known, peaks in PEAKS.items() if known in name), None)
    return "" if peaks is None else round(flops_per_second / peaks[precision == "bf16"], 4)


def measure(options: argparse.Namespace, dataset: Dataset, device: torch.device) -> Iterator[dict]:
    for name in options.networks:
        variants = [
            Variant(make_config(options, name, precision, compiled), dataset, device)
            for precision, compiled in VARIANTS
            if not (compiled and options.plain)
        ]
        for _ in range(options.blocks + 1):
            for variant in variants:
                variant.block()
        for variant in variants:
            yield {"network": name} | variant.row()


def make_config(
    options: argparse.Namespace, name: str, precision: str, compiled: bool
) -> TrainConfig:
    return parse_train_config(
        {
            "model": NETWORKS[name],
            "epochs": 4 * (options.blocks + 1),
            "batch_size": options.batch_size,
            "lr": 0.01,
            "augment": {"mirror": 0.5, "shift": 0.08, "rotate": 10, "zoom": 0.1, "contrast": 0.2},
            "precision": precision,
            "compile": compiled,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/networks.csv"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--block-steps", type=int, default=8)
    parser.add_argument("--plain", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = default_device()
    images = options.block_steps * options.batch_size
    dataset = load_dataset(options.data, device)
    dataset = rows_of(dataset, slice(0, images), validation=options.batch_size)
    under = conditions("torch", "timm") | {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": options.threads,
        "batch_size": options.batch_size,
        "blocks": options.blocks,
        "block_steps": options.block_steps,
    }
    rows = []
    for row in measure(options, dataset, device):
        rows.append(row | under)
        write_table(options.out, rows)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
