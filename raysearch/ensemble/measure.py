"""Measuring what a trial's network costs where it will be deployed: ONNX Runtime on the CPU.

Networks of equal architecture cost the same whatever their weights, so one is measured for all of
them. What was measured is kept in ``cost.json`` of each trial's folder, with the machine that it
holds for.
"""

import hashlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from raysearch.ensemble.cost import NetworkCost
from raysearch.ensemble.network import Backbone
from raysearch.ensemble.onnx import INPUT, OUTPUT, export_onnx
from raysearch.ensemble.program import export_program
from raysearch.files import write_json
from raysearch.train.trial import TrialFolder, TrialRecord, trial_folders

if TYPE_CHECKING:
    import onnxruntime

BATCHES = (1, 2, 64)
_OPSET = 18
_ROUNDS = 9
_SECONDS = 20.0

Progress = Callable[[str], None]


def network_costs(run: Path | str, records: Mapping[int, TrialRecord]) -> dict[int, NetworkCost]:
    """Of each trial's network, by trial; with its latency where that was measured on this machine
    before. A network is built once per architecture to count what it does."""
    folders = _folders(run)
    costs: dict[int, NetworkCost] = {}
    by_key: dict[str, NetworkCost] = {}
    for trial, record in records.items():
        key = architecture(record)
        cost = _read(folders[trial], key) or by_key.get(key)
        if cost is None:
            cost = count(record)
            _write(folders[trial], key, cost)
        known = by_key.setdefault(key, cost)
        costs[trial] = by_key[key] = cost if cost.latency_ms else known
    return costs


def with_latency(
    run: Path | str,
    records: Mapping[int, TrialRecord],
    costs: Mapping[int, NetworkCost],
    trials: Sequence[int],
    on_progress: Progress = lambda line: None,
) -> dict[int, NetworkCost]:
    """``costs`` with the latencies of ``trials``: measured where they were not, in 20 s or so."""
    folders = _folders(run)
    wanted: dict[str, TrialRecord] = {}
    for trial in trials:
        if costs[trial].latency_ms is None:
            wanted.setdefault(architecture(records[trial]), records[trial])
    if not wanted:
        return dict(costs)
    on_progress(f"measuring the latency of {len(wanted)} networks")
    measured = dict(zip(wanted, measure_latencies(list(wanted.values())), strict=True))
    found = dict(costs)
    for trial, record in records.items():
        key = architecture(record)
        if key in measured:
            found[trial] = replace(costs[trial], latency_ms=measured[key])
            _write(folders[trial], key, found[trial])
    return found


def count(record: TrialRecord) -> NetworkCost:
    """Parameters, bytes and floating-point operations (of matrix products and convolutions) of a
    trial's network."""
    backbone = _backbone(record)
    network = backbone.network
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        backbone(torch.zeros((1, *record.shape), dtype=torch.uint8))
    tensors = network.state_dict().values()
    return NetworkCost(
        params=sum(p.numel() for p in network.parameters()),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        flops=counter.get_total_flops(),
    )


def measure_latencies(
    records: Sequence[TrialRecord], seconds: float = _SECONDS
) -> list[dict[int, float]]:
    """Milliseconds of a forward pass by batch (`BATCHES`), preprocessing included: the median over
    turns of the fastest of three runs (of batch 64: of one).

    Networks take turns, up to nine times and for about ``seconds`` in all, so that what else the
    machine does meets all of them.
    """
    with TemporaryDirectory() as folder:
        sessions = [
            _session(record, Path(folder) / f"{i}.onnx") for i, record in enumerate(records)
        ]
    return take_turns(sessions, [record.shape for record in records], seconds)


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
                runs = [_run(session, images_NCHW) for _ in range(3 if batch < 64 else 1)]
                found[batch].append(min(runs))
    return [{b: median(values[1:]) for b, values in found.items()} for found in times]


def _run(session: "onnxruntime.InferenceSession", images_NCHW: np.ndarray) -> float:
    begin = time.perf_counter()
    session.run([OUTPUT], {INPUT: images_NCHW})
    return 1e3 * (time.perf_counter() - begin)


def graph_latency(model: Path, shape: tuple[int, int, int]) -> dict[str, Any]:
    """``latency_ms``, ``latency_64_ms`` and ``machine`` of an exported ensemble, in 5 s or so."""
    found = take_turns([_open(model)], [shape], seconds=5.0, batches=(1, 64))[0]
    return {"latency_ms": found[1], "latency_64_ms": found[64], "machine": machine()}


def architecture(record: TrialRecord) -> str:
    """Equal for networks that cost the same: 16 hex digits."""
    train = record.train.model_dump(mode="json")
    parts = [train["model"], train["image_size"], train["normalize"]]
    parts += [record.shape, len(record.classes)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def machine() -> str:
    """What a latency holds for."""
    cores = len(os.sched_getaffinity(0))
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


def _backbone(record: TrialRecord) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        preprocess, network = record.build()
    return Backbone(preprocess, network, mirror=False).eval()


def _session(record: TrialRecord, path: Path) -> "onnxruntime.InferenceSession":
    _export_quickly(_Probabilities(_backbone(record)).eval(), record.shape, path)
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


def _folders(run: Path | str) -> dict[int, TrialFolder]:
    return {int(folder.path.name): folder for folder in trial_folders(run)}


def _read(folder: TrialFolder, key: str) -> NetworkCost | None:
    """What ``cost.json`` says of this architecture; its latency only if measured here."""
    try:
        values = json.loads(folder.cost.read_text(encoding="utf-8"))
        if values.pop("architecture") != key:
            return None
        here = values.pop("machine") == machine()
        latency = values.pop("latency_ms")
        latency = {int(b): float(ms) for b, ms in latency.items()} if here and latency else None
        return NetworkCost(**values, latency_ms=latency)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(folder: TrialFolder, key: str, cost: NetworkCost) -> None:
    about = {"architecture": key, "machine": machine() if cost.latency_ms else None}
    write_json(folder.cost, about | asdict(cost))
