"""Files of weights: read without unpickling anything but tensors, and held against a network."""

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raysearch.errors import ConfigError
from raysearch.files import sha256_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
"""Keys that training scripts save a network's tensors under; averaged weights come first."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and where they are from.

    ``source`` is an absolute path, or ``hub:<name>``. ``sha256`` is the file's, or for a hub that
    of the tensors written as safetensors. ``classes``: what the head tells apart, where known.
    """

    tensors: Mapping[str, Tensor]
    source: str
    sha256: str
    classes: tuple[str, ...] | None = None


def find_file(path: Path) -> Path:
    """The file of weights that ``path`` is or holds. Raises `ConfigError`."""
    if path.is_dir():
        known = [path / name for name in _IN_FOLDERS]
        found = [file for file in known if file.is_file()][:1]
        found = found or [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        if len(found) != 1:
            raise ConfigError(
                f"{path} must hold model.safetensors or one file of weights "
                f"({', '.join(SUFFIXES)}), but holds {len(found) or 'none'}. Name the file itself."
            )
        return found[0]
    if not path.exists():
        raise ConfigError(f"There is no file or folder {path}.")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a file of weights ends in one of {', '.join(SUFFIXES)}.")
    return path


def read_weights(path: Path) -> Weights:
    """The tensors in the file ``path``, on the CPU. Raises `ConfigError` for one that holds none,
    is damaged, or would have to be unpickled as more than tensors."""
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            # timm's training script saves its arguments beside the weights: a plain namespace.
            with torch.serialization.safe_globals([argparse.Namespace]):
                tensors = _unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(f"{path} is no whole file of weights: {_first_line(error)}") from None
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds more than tensors, and loading it could run anything: "
            f"{_first_line(error)} Save the state_dict alone, best as .safetensors."
        ) from None
    if not tensors:
        raise ConfigError(f"{path} holds no tensors by name, as a state_dict does.")
    return Weights(tensors, str(path), sha256_of(path))


def _unwrap(values: object) -> dict[str, Tensor]:
    from timm.models import clean_state_dict

    while isinstance(values, dict):
        wrapper = next((key for key in _WRAPPERS if isinstance(values.get(key), dict)), None)
        if wrapper is None:
            tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
            return clean_state_dict(tensors)
        values = values[wrapper]
    return {}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


@dataclass(frozen=True)
class Misfit:
    """How tensors differ from those of a network: names, and shapes (found, needed) by name."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def without(self, names: set[str]) -> "Misfit":
        """What is wrong with the other tensors."""
        return Misfit(
            tuple(name for name in self.missing if name not in names),
            tuple(name for name in self.unexpected if name not in names),
            {name: pair for name, pair in self.shapes.items() if name not in names},
        )

    def __str__(self) -> str:
        shapes = [
            f"{name} is {list(found)}, needed {list(needed)}"
            for name, (found, needed) in self.shapes.items()
        ]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": shapes}
        return "; ".join(f"{len(v)} {kind} ({few(v)})" for kind, v in kinds.items() if v)


def compare(tensors: Mapping[str, Tensor], network: nn.Module) -> Misfit:
    """``tensors`` beside the parameters and buffers of ``network``."""
    needed = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Misfit(
        missing=tuple(name for name in needed if name not in found),
        unexpected=tuple(name for name in found if name not in needed),
        shapes={n: (found[n], needed[n]) for n in needed if n in found and found[n] != needed[n]},
    )


def few(names: tuple[str, ...] | list[str], shown: int = 3) -> str:
    """The first ``shown`` of ``names``, and how many more there are."""
    more = [f"and {len(names) - shown} more"] if len(names) > shown else []
    return ", ".join([*names[:shown], *more])
