"""One ONNX graph for a whole ensemble, and running it without torch."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysearch.errors import ArtifactError, RunError

if TYPE_CHECKING:
    import onnxruntime
    from torch import nn

INPUT = "images"
OUTPUT = "probabilities"
_PROTOBUF_BYTES = 2**31


def export_onnx(
    network: "nn.Module", shape: tuple[int, int, int], path: Path, metadata: Mapping[str, str]
) -> int:
    """Write ``network`` (uint8 ``[N, *shape]`` to ``[N, K]``) to ``path``; return the opset.

    The batch size stays free. Raises `RunError` where the weights do not fit in one file.
    """
    import torch

    tensors = [*network.parameters(), *network.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size >= _PROTOBUF_BYTES:
        raise RunError(
            f"An ONNX file holds less than 2 GiB, but the selected members have {size:,} bytes of "
            "weights. Select fewer or smaller members."
        )
    network.to(memory_format=torch.contiguous_format)  # channels_last would add nodes
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    opset = program.model.opset_imports[""]
    program.model.metadata_props.update({**metadata, "opset": str(opset)})
    program.save(str(path), external_data=False)
    return opset


def open_session(path: Path, shape: tuple[int, int, int], classes: int):
    """An ONNX Runtime session on the CPU for a graph of the expected interface.

    Raises `ArtifactError` for another interface, and for weights kept outside of the file.
    """
    import onnxruntime

    _refuse_external_data(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no public base class of its own
        raise ArtifactError(f"{path} cannot be loaded by ONNX Runtime: {error}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = [(value.name, value.type, value.shape[1:]) for value in (*inputs, *outputs)]
    expected = [(INPUT, "tensor(uint8)", list(shape)), (OUTPUT, "tensor(float)", [classes])]
    if found != expected:
        raise ArtifactError(f"{path} has the interface {found}, but ensemble.json says {expected}.")
    return session


def _refuse_external_data(path: Path) -> None:
    """A graph may name files anywhere on the disk as its weights; ours never does."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not an ONNX model: {error}") from None
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise ArtifactError(f"{path} keeps weights in other files, which no export does.")


def run_session(
    session: "onnxruntime.InferenceSession", images_NCHW: np.ndarray, batch_size: int
) -> np.ndarray:
    """``probs_NK`` float32 of uint8 images, ``batch_size`` at a time."""
    probs = []
    for start in range(0, len(images_NCHW), batch_size):
        batch = np.ascontiguousarray(images_NCHW[start : start + batch_size])
        probs += session.run([OUTPUT], {INPUT: batch})
    return np.concatenate(probs)
