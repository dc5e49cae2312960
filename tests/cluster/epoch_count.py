"""Every epoch that was ever finished, counted from TensorBoard's files.

metrics.csv is rewritten from a checkpoint on, and could hide an epoch that ran twice. A TensorBoard
file is only ever appended to, each process that runs a trial begins another one, and its name
holds the host.
"""

import csv
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

TAG = "validation_log_loss"


@dataclass(frozen=True)
class Stretch:
    """What one process did of a trial: from ``begin`` on (seconds since 1970) it finished
    ``epochs``, (number, when) each."""

    host: str
    begin: float
    epochs: tuple[tuple[int, float], ...]


def stretches(trial: Path) -> list[Stretch]:
    """Of a trial's folder, in order of time."""
    found = []
    for path in (trial / "tensorboard").glob("events.out.tfevents.*"):
        events = list(read_events(path))
        if events:
            epochs = [
                (e.step, e.wall_time) for e in events if TAG in (v.tag for v in e.summary.value)
            ]
            host = path.name.split(".", 4)[4]
            found.append(Stretch(host, events[0].wall_time, tuple(epochs)))
    return sorted(found, key=lambda stretch: stretch.begin)


def read_events(path: Path) -> Iterator[Event]:
    """TFRecord: length, its checksum, the event, its checksum. A torn end is left out."""
    data, start = path.read_bytes(), 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + 12 + length + 4 > len(data):
            return
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += 12 + length + 4


def repeated(trial: Path) -> dict[int, int]:
    """Number of an epoch to how often it was finished, of those finished more than once."""
    counts = Counter(epoch for stretch in stretches(trial) for epoch, _ in stretch.epochs)
    return {epoch: count for epoch, count in counts.items() if count > 1}


def lost(trial: Path, epochs: int) -> list[int]:
    """Numbers of the epochs 1 to ``epochs`` that a finished trial has no result of, or has two."""
    if not (trial / "validation.arrow").exists():
        return list(range(1, epochs + 1))
    with open(trial / "metrics.csv", newline="", encoding="utf-8") as file:
        written = Counter(int(float(row["epoch"])) for row in csv.DictReader(file))
    return [epoch for epoch in range(1, epochs + 1) if written[epoch] != 1]
