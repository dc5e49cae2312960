"""Timing networks where they will be deployed: ONNX Runtime on the CPU."""

import platform
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raysearch.ensemble.network import Backbone, untrained_backbone
from raysearch.ensemble.onnx import INPUT, OUTPUT, export_onnx
from raysearch.ensemble.program import export_program
from raysearch.machine import usable_cores
from raysearch.models.views import VIEWS
from raysearch.train.trial import TrialRecord

if TYPE_CHECKING:
    import onnxruntime

BATCHES = (*VIEWS, 64)
_OPSET = 18
_ROUNDS = 9
_SECONDS = 20.0
_SMALL = 8
"""Batches up to this are run once before they count; a larger one would take long for little."""
_LONG_MS = 100.0


def measure_latencies(
    records: Mapping[str, TrialRecord], seconds: float = _SECONDS
) -> dict[str, dict[int, float] | str]:
    """Milliseconds of a forward pass by batch (`BATCHES`), preprocessing included: the median over
    turns of the fastest of up to three runs. For a network that ONNX Runtime does
    not take, why.

    Networks take turns, up to nine times and for about ``seconds`` in all, so that what else the
    machine does meets all of them.
    """
    sessions: dict[str, onnxruntime.InferenceSession] = {}
    found: dict[str, dict[int, float] | str] = {}
    with TemporaryDirectory() as folder:
        for i, (key, record) in enumerate(records.items()):
            try:
                sessions[key] = session_of(record, Path(folder) / f"{i}.onnx")
            except Exception as error:  # exporters and ONNX Runtime raise anything
                found[key] = f"its network cannot be exported ({type(error).__name__}: {error})"
    times = take_turns(list(sessions.values()), [records[key].shape for key in sessions], seconds)
    return found | dict(zip(sessions, times, strict=True))


def take_turns(
    sessions: Sequence["onnxruntime.InferenceSession"],
    shapes: Sequence[tuple[int, int, int]],
    seconds: float = _SECONDS,
    batches: Sequence[int] = BATCHES,
) -> list[dict[int, float]]:
    """`measure_latencies` of graphs that are open already, for uint8 images of these shapes."""
    rng = np.random.default_rng(0)
    times: list[dict[int, list[float]]] = [{batch: [] for batch in batches} for _ in sessions]
    end = time.perf_counter() + seconds
    for turn in range(1 + _ROUNDS):  # the first one warms up
        for session, shape, found in zip(sessions, shapes, times, strict=True):
            for batch in batches:
                if turn > 1 and time.perf_counter() > end:
                    continue
                images_NCHW = rng.integers(0, 256, (batch, *shape), np.uint8)
                if turn or batch <= _SMALL:
                    found[batch].append(_fastest(session, images_NCHW))
    warm = {batch: 1 if batch <= _SMALL else 0 for batch in batches}
    return [{b: median(values[warm[b] :]) for b, values in found.items()} for found in times]


def _fastest(session: "onnxruntime.InferenceSession", images_NCHW: np.ndarray) -> float:
    """Of up to three runs, as far as they fit into a tenth of a second."""
    found = [_run(session, images_NCHW)]
    while len(found) < 3 and sum(found) < _LONG_MS:
        found.append(_run(session, images_NCHW))
    return min(found)


def _run(session: "onnxruntime.InferenceSession", images_NCHW: np.ndarray) -> float:
    begin = time.perf_counter()
    session.run([OUTPUT], {INPUT: images_NCHW})
    return 1e3 * (time.perf_counter() - begin)


def graph_latency(model: Path, shape: tuple[int, int, int]) -> dict[str, Any]:
    """``latency_ms``, ``latency_64_ms`` and ``machine`` of an exported ensemble, in 5 s or so."""
    found = take_turns([_open(model)], [shape], seconds=5.0, batches=(1, 64))[0]
    return {"latency_ms": found[1], "latency_64_ms": found[64], "machine": machine()}


def machine() -> str:
    """What a latency holds for."""
    cores = usable_cores()
    return f"{_cpu_name()}, {cores} cores, ONNX Runtime {version('onnxruntime')}"


def _cpu_name() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        return re.search(r"model name\s*: (.*)", about)[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


class _Probabilities(torch.nn.Module):
    """A backbone's one view without the axis of views."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.backbone(images_NCHW)[0]


def session_of(record: TrialRecord, path: Path) -> "onnxruntime.InferenceSession":
    """Of a trial's network, exported to ``path``; its weights are drawn at random."""
    _export_quickly(_Probabilities(untrained_backbone(record)).eval(), record.shape, path)
    return _open(path)


def _open(path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export_quickly(network: torch.nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """By torch's older exporter, which takes a tenth of the time for a graph of the same speed;
    by the one that artifacts are made with where that one cannot."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    torch.onnx.register_custom_op_symbolic("aten::_upsample_bilinear2d_aa", _antialiased, _OPSET)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "N"}},
            )
    except Exception:  # whatever it is that the older one does not know
        export_onnx(export_program(network, shape), path, {})


def _antialiased(graph: Any, x: Any, size: Any, align_corners: Any, *scales: Any) -> Any:
    """Resizing as `Preprocess` does it, which the older exporter lacks."""

    def constant(*values: int) -> Any:
        return graph.op("Constant", value_t=torch.tensor(values))

    none = graph.op("Constant", value_t=torch.tensor([]))
    batch_and_channels = graph.op("Slice", graph.op("Shape", x), constant(0), constant(2))
    sizes = graph.op("Concat", batch_and_channels, size, axis_i=0)
    return graph.op(
        "Resize", x, none, none, sizes, antialias_i=1, exclude_outside_i=1, mode_s="linear"
    )
