"""One ONNX graph for a whole ensemble, and running it without torch."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysearch.ensemble.graphfile import GRAPH_BYTES, check_graph_file
from raysearch.errors import ArtifactError, RunError

if TYPE_CHECKING:
    import onnxruntime
    from torch.export import ExportedProgram

INPUT = "images"
OUTPUT = "probabilities"


def export_onnx(program: "ExportedProgram", path: Path, metadata: Mapping[str, str]) -> int:
    """Write ``program`` (of `raysearch.ensemble.program`) to ``path``; return the opset.

    The batch size stays free. Raises `RunError` where the weights do not fit in one file.
    """
    import torch

    tensors = [*program.state_dict.values(), *program.constants.values()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size >= GRAPH_BYTES:
        raise RunError(
            f"An ONNX file holds less than 2 GiB, but the selected members have {size:,} bytes of "
            "weights. Select fewer or smaller members."
        )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "N"},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    opset = graph.model.opset_imports[""]
    graph.model.metadata_props.update({**metadata, "opset": str(opset)})
    graph.save(str(path), external_data=False)
    return opset


def open_session(path: Path, shape: tuple[int, int, int], classes: int):
    """An ONNX Runtime session on the CPU for a graph of the expected interface.

    Raises `ArtifactError` for another interface and for what `check_graph_file` refuses.
    """
    import onnxruntime

    check_graph_file(path)
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


def run_session(
    session: "onnxruntime.InferenceSession", images_NCHW: np.ndarray, batch_size: int
) -> np.ndarray:
    """``probs_NK`` float32 of uint8 images, ``batch_size`` at a time."""
    probs = []
    for start in range(0, len(images_NCHW), batch_size):
        batch = np.ascontiguousarray(images_NCHW[start : start + batch_size])
        probs += session.run([OUTPUT], {INPUT: batch})
    return np.concatenate(probs)
