"""Checkpoints: the newest state for resume, the best weights for the ensemble."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from raysearch.files import atomic_path


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the newest state in ``folder``, atomically."""
    with atomic_path(folder / "state.pt") as temporary:
        torch.save(state, temporary)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state in ``folder``, on the CPU, or None where there is none that can be read: a
    damaged checkpoint costs the epochs it held, not the trial."""
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception:  # unpickling damaged bytes may raise anything
        return None


def save_weights(path: Path, network: nn.Module) -> None:
    """Parameters and buffers as safetensors, contiguous in the default memory format."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    with atomic_path(path) as temporary:
        # save_file would write under another name first, which a kill leaves there for ever
        temporary.write_bytes(save(tensors))
