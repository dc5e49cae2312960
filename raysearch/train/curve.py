"""metrics.csv of a trial: one row an epoch."""

import csv
from pathlib import Path

from raysearch.files import write_text

METRICS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_log_loss",
    "validation_accuracy",
    "validation_macro_f1",
    "lr",
    "images_per_second",
    "seconds",
)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv, ``epoch`` an int: those before the first that is damaged; none where
    the file is absent."""
    if not path.exists():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            try:
                values = {key: float(value) for key, value in row.items()}
                rows.append(values | {"epoch": int(values["epoch"])})
            except (TypeError, ValueError, KeyError):
                break
    return rows


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    lines = [",".join(METRICS)]
    # All digits: whether an epoch is the best so far must not depend on a restart in between.
    lines += [",".join(repr(row[name]) for name in METRICS) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
