"""Small ensembles with random weights: members of several kinds, views and temperatures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from raysearch.config import TrainConfig
from raysearch.data.shards import Split
from raysearch.ensemble.artifact import write_artifact
from raysearch.ensemble.member import CANDIDATES, Member
from raysearch.train.checkpoint import save_weights
from raysearch.train.evaluate import predict_probs
from raysearch.train.trial import TrialRecord

CLASSES = ("angry", "happy", "sad")
SIDE = 20
TEMPERATURE = 0.8

TRIALS = {
    3: {"model": {"name": "vgg", "width": 4, "depth": 4}, "image_size": SIDE},
    7: {"model": {"name": "mlp", "hidden": [8]}, "image_size": 24, "normalize": "per_image"},
    12: {"model": {"name": "vgg", "width": 4, "depth": 5, "residual": True}, "image_size": 16},
}
VOTES = [
    (3, "ema", 0.4, 1.3),
    (3, "ema_mirror", 0.2, 1.0),
    (7, "raw_mirror", 0.3, 0.7),
    (12, "ema_shifts", 0.1, 2.0),
    (12, "raw", 0.0, 1.0),
]


@dataclass
class Selection:
    """What `write_artifact` is given, and the probabilities that it must reproduce."""

    members: list[Member]
    records: dict[int, TrialRecord]
    validation: Split
    probs_VK: np.ndarray
    scores: dict
    data: dict

    def write(self, folder: Path, **changes) -> Path:
        arguments = {
            "temperature": TEMPERATURE,
            "validation": self.validation,
            "scores": self.scores,
            "data": self.data,
            "probs_VK": self.probs_VK,
        }
        write_artifact(folder, self.members, self.records, **(arguments | changes))
        return folder


def random_images(rng: np.random.Generator, count: int, side: int = SIDE) -> np.ndarray:
    """uint8 [N, 1, S, S] with more contrast between images than noise alone has."""
    level = rng.integers(0, 200, (count, 1, 1, 1))
    slope = rng.uniform(-60, 60, (count, 1, 1, 1)) * np.linspace(-1, 1, side)
    noise = rng.normal(0, 20, (count, 1, side, side))
    return (level + slope + noise).clip(0, 255).astype(np.uint8)


def make_record(trial: int, shards) -> TrialRecord:
    train = TrainConfig.model_validate(TRIALS[trial])
    statistics = {"mean": (0.4,), "std": (0.25,), "data_fingerprint": shards.fingerprint}
    return TrialRecord(trial, train, CLASSES, shards.shape, parameters=99, **statistics)


def make_member(
    folder: Path, record: TrialRecord, trial: int, candidate: str, weight: float, temperature: float
) -> Member:
    name, views = CANDIDATES[candidate]
    path = folder / f"{trial:04d}" / name
    if not path.exists():
        _, network = record.build()
        randomize(network, seed=trial + len(name))
        save_weights(path, network)
    return Member(trial, candidate, weight, temperature, path, views, record.train, 99)


def randomize(network: nn.Module, seed: int) -> None:
    """Weights and BatchNorm statistics such that outputs differ from image to image."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.2, 0.8, generator=generator)
            elif tensor.is_floating_point():
                scale = 1 / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.5
                tensor.normal_(0, 2.5 * scale, generator=generator)


def combine_reference(members, records, images_NCHW) -> np.ndarray:
    """The ensemble's formula in float64 NumPy, from member probabilities kept as float16."""
    from safetensors.torch import load_file

    mixture = np.zeros((len(images_NCHW), len(CLASSES)))
    for member in members:
        preprocess, network = records[member.trial].build()
        network.load_state_dict(load_file(member.weights_file))
        images = torch.from_numpy(np.array(images_NCHW))
        probs = predict_probs(network, preprocess, images, views=member.views)
        mixture += member.weight * sharpen_reference(probs.half().numpy(), member.temperature)
    return sharpen_reference(mixture, TEMPERATURE)


def sharpen_reference(probs: np.ndarray, temperature: float) -> np.ndarray:
    powered = probs.astype(np.float64) ** (1 / temperature)
    return powered / powered.sum(axis=1, keepdims=True)
