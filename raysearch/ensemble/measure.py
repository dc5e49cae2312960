"""What each trial's network costs: counted, and timed where it will be deployed.

Networks of equal architecture cost the same whatever their weights, so one is measured for all of
them. What was measured is kept in ``cost.json`` of each trial's folder, with the machine that it
holds for.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from raysearch.ensemble.cost import NetworkCost
from raysearch.ensemble.latency import BATCHES, machine, measure_latencies
from raysearch.ensemble.network import untrained_backbone
from raysearch.files import write_json
from raysearch.train.trial import TrialFolder, TrialRecord, trial_folders

Progress = Callable[[str], None]
Faults = dict[int, str]
"""Why a trial's network has no cost, by trial."""


def network_costs(
    run: Path | str, records: Mapping[int, TrialRecord]
) -> tuple[dict[int, NetworkCost], Faults]:
    """Of each trial's network, by trial; with its latency where that was measured on this machine
    before. A network is built once per architecture to count what it does, and one that cannot be
    is a fault of its trials."""
    folders = _folders(run)
    costs: dict[int, NetworkCost] = {}
    faults: Faults = {}
    by_key: dict[str, NetworkCost | str] = {}
    for trial, record in records.items():
        key = architecture(record)
        known = by_key.get(key)
        cost = _read(folders[trial], key) or known or count_or_fault(record)
        if isinstance(cost, str):
            by_key[key] = faults[trial] = cost
            continue
        if known is None:
            _write(folders[trial], key, cost)
        elif isinstance(known, NetworkCost) and known.latency_ms:
            cost = known
        costs[trial] = by_key[key] = cost
    return costs, faults


def with_latency(
    run: Path | str,
    records: Mapping[int, TrialRecord],
    costs: Mapping[int, NetworkCost],
    trials: Sequence[int],
    on_progress: Progress = lambda line: None,
) -> tuple[dict[int, NetworkCost], Faults]:
    """``costs`` with the latencies of ``trials``: measured where they were not, in 20 s or so.

    A network that ONNX Runtime does not take stays without, and is a fault of its trials.
    """
    folders = _folders(run)
    wanted: dict[str, TrialRecord] = {}
    for trial in trials:
        if costs[trial].latency_ms is None:
            wanted.setdefault(architecture(records[trial]), records[trial])
    if not wanted:
        return dict(costs), {}
    on_progress(f"measuring the latency of {len(wanted)} networks")
    measured = measure_latencies(wanted)
    found, faults = dict(costs), {}
    for trial in costs:
        latency = measured.get(key := architecture(records[trial]))
        if isinstance(latency, str):
            faults[trial] = latency
        elif latency is not None:
            found[trial] = replace(costs[trial], latency_ms=latency)
            _write(folders[trial], key, found[trial])
    return found, faults


def count_or_fault(record: TrialRecord) -> NetworkCost | str:
    """`count` on tensors without values, or on real ones where a network computes with values; or
    why neither can be done."""
    try:
        with torch.device("meta"):
            return count(record)
    except Exception:  # whatever it is that needs values
        pass
    try:
        return count(record)
    except Exception as error:  # of any network, of any version of its package
        return f"its network cannot be built any more ({type(error).__name__}: {error})"


def count(record: TrialRecord) -> NetworkCost:
    """Parameters, bytes and floating-point operations (of matrix products and convolutions) of a
    trial's network, on torch's default device."""
    backbone = untrained_backbone(record)
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


def architecture(record: TrialRecord) -> str:
    """Equal for networks that cost the same: 16 hex digits. Dropout, which a search draws anew for
    every trial, is none of it: once trained, a network has none."""
    train = record.train.model_dump(mode="json")
    model = {name: value for name, value in train["model"].items() if "drop" not in name}
    parts = [model, train["image_size"], train["normalize"]]
    parts += [record.shape, len(record.classes)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
        latency = {int(b): float(ms) for b, ms in latency.items()} if here and latency else {}
        latency = latency if set(latency) == set(BATCHES) else None
        return NetworkCost(**values, latency_ms=latency)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(folder: TrialFolder, key: str, cost: NetworkCost) -> None:
    about = {"architecture": key, "machine": machine() if cost.latency_ms else None}
    write_json(folder.cost, about | asdict(cost))
