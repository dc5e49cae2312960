"""From an artifact's files to the PyTorch ensemble, sizes checked before anything is allocated."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from raysearch.ensemble.manifest import CONFIG, WEIGHTS, Manifest, read_json
from raysearch.ensemble.network import Backbone, EnsembleNetwork, Vote
from raysearch.errors import ArtifactError, ConfigError
from raysearch.models.registry import build_model
from raysearch.train.trial import TrialRecord

HEADER_BYTES = 16 * 2**20


def build_network(folder: Path, manifest: Manifest) -> EnsembleNetwork:
    """The ensemble that ``manifest`` describes, with the weights in ``folder``, on the CPU.

    Weights are channels_last, in which convolutions on a CPU take half the time.
    """
    backbones = []
    for name in manifest.folders:
        views = max(member.views for member in manifest.members if member.folder == name)
        backbones.append(_read_backbone(folder / name, manifest, views))
    votes = [
        Vote(manifest.folders.index(member.folder), member.views, member.weight, member.temperature)
        for member in manifest.members
    ]
    network = EnsembleNetwork(backbones, votes, manifest.temperature)
    return network.to(memory_format=torch.channels_last)


def _read_backbone(folder: Path, manifest: Manifest, views: int) -> Backbone:
    where = folder / CONFIG
    record = TrialRecord.from_json(read_json(where), str(where))
    if (record.classes, record.shape) != (manifest.classes, manifest.input.shape):
        raise ArtifactError(
            f"{where} is of {len(record.classes)} classes and shape {record.shape}, but the "
            f"ensemble of {len(manifest.classes)} classes and shape {manifest.input.shape}, "
            "or their classes differ in name or order."
        )
    weights = read_weights(folder / WEIGHTS, shapes_of(record, str(where)))
    with torch.random.fork_rng(devices=[]):
        preprocess, network = record.build()
    network.load_state_dict(weights)
    return Backbone(preprocess, network, views)


def shapes_of(record: TrialRecord, where: str) -> dict[str, list[int]]:
    """Name to shape of each tensor of the network, from one that occupies no memory.

    Raises `ArtifactError` naming ``where`` for a network that cannot be built.
    """
    train = record.train
    try:
        with torch.device("meta"):
            network = build_model(
                train.model, record.shape[0], len(record.classes), train.image_size
            )
    except ConfigError as error:
        raise ArtifactError(f"{where}: {error}") from None
    except (RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise ArtifactError(f"{where} describes no network that can be built: {error}") from None
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def read_weights(path: Path, expected: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, which must be exactly those of the ``expected`` shapes.

    Raises `ArtifactError` naming the first other one, before any is allocated.
    """
    check_weights(path, expected)
    return load_file(path)


def check_weights(path: Path, expected: dict[str, list[int]]) -> None:
    """`read_weights` without reading them: the file's header and length alone."""
    found = read_shapes(path)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(
                f"{path}: the tensor {name!r} should have the shape {expected.get(name, 'none')}, "
                f"but has {found.get(name, 'none')}: these weights are of another network."
            )


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Name to shape of each tensor of a safetensors file, from its header alone."""
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > HEADER_BYTES:
            raise ArtifactError(
                f"{path} claims a header of {header:,} bytes; at most {HEADER_BYTES:,} are read."
            )
        with safe_open(path, "pt") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}.") from None
