"""An ensemble as a PyTorch program (`torch.export`): ``model.pt2``, and what ONNX is made from.

PyTorch reads such a file without the code that wrote it. But `torch.export.load` unpickles where
the file asks it to, so raysearch opens only one that it has written itself the moment before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def export_program(network: "nn.Module", shape: tuple[int, int, int]) -> "ExportedProgram":
    """``network`` (uint8 ``[N, *shape]`` to ``[N, K]``) as a graph for any N, also 0 and 1."""
    network.to(memory_format=torch.contiguous_format)  # channels_last would add nodes
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            network, (example,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False
        )


def save_program(program: "ExportedProgram", path: Path) -> None:
    """Write ``program`` without its example input, which would be the file's only pickle."""
    program.example_inputs = None
    torch.export.save(program, path)


def load_program(path: Path) -> Callable[[Tensor], Tensor]:
    """The program in ``path``, which must be trusted: one that was just written."""
    return torch.export.load(path).module()
