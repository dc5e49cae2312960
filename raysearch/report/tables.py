"""The leaderboard of a run and how far it is, from the trials' folders."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.errors import ConfigError
from raysearch.files import write_text
from raysearch.report.runfiles import (
    read_curve,
    read_description,
    read_object,
    require_run,
    started,
)
from raysearch.train.trial import FAILURES, TrialFolder, trial_folders

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("validation_log_loss", "validation_accuracy", "validation_macro_f1")
COLUMNS = ("trial", "model", "status", "epochs", "best_epoch", *SCORES, "parameters", "seconds")
_STATES = dict.fromkeys(FAILURES, "failed") | {"interrupted": "pending"}
"""Trial status to the state that `run_status` counts it under, where the two differ."""


def leaderboard(run: Path | str) -> "pd.DataFrame":
    """One row a trial, lowest validation log loss first, trials without one last.

    Columns: `COLUMNS`, then every configuration field whose value differs between trials, by
    dotted path. The scores are those of the epoch with the lowest validation log loss.
    ``seconds`` are summed over the epochs; ``parameters`` is NaN where unknown.
    Raises `ArtifactError` where ``run`` is not a run's folder.
    """
    import pandas as pd

    rows, settings = [], []
    for folder in trial_folders(require_run(run)):
        config = read_object(folder.config)
        fields = flatten(config.get("train") or {})
        fields["planned_epochs"] = fields.pop("epochs", None)
        execution = config.get("execution") or {}
        fields["accumulate"] = execution.get("accumulate", 1)
        settings.append({name: value for name, value in fields.items() if name != "model.name"})
        about = {"model": str(fields.get("model.name", ""))}
        about["parameters"] = config.get("parameters", math.nan)
        rows.append(_row(folder) | about)
    board = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"parameters": object})
    varying = _varying(settings)
    values = [[s.get(name) for name in varying] for s in settings]
    extra = pd.DataFrame(values, columns=varying, dtype=object)
    board = pd.concat([board, extra], axis=1)
    return board.sort_values(["validation_log_loss", "trial"], ignore_index=True)


def _row(folder: TrialFolder) -> dict[str, Any]:
    status, curve = folder.read_status(), read_curve(folder)
    scored = [row for row in curve if math.isfinite(row.get("validation_log_loss", math.nan))]
    best = min(scored, key=lambda row: row["validation_log_loss"], default={})
    return {
        "trial": int(folder.path.name),
        "status": status["status"],
        "epochs": len(curve),
        "best_epoch": int(best.get("epoch", 0)),
        **{name: best.get(name, math.nan) for name in SCORES},
        "seconds": sum(row.get("seconds", 0.0) for row in curve),
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted paths: ``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    """Names with more than one value among the trials that have a configuration."""
    known = [s for s in settings if s]
    names = dict.fromkeys(name for s in known for name in s)
    return [n for n in names if n != "seed" and len({repr(s.get(n)) for s in known}) > 1]


def write_leaderboard(run: Path | str) -> Path:
    """Write `leaderboard` to ``RUN/trials.csv`` atomically; numbers with 6 digits."""
    path = Path(run) / "trials.csv"
    board = leaderboard(run).map(lambda v: float(f"{v:.6g}") if isinstance(v, float) else v)
    write_text(path, board.to_csv(index=False))
    return path


def run_status(run: Path | str) -> dict[str, Any]:
    """``{"trials": {state: count}, "failures": {status: count}, "best": {...} or None,
    "elapsed_seconds"}``.

    States: running, completed, pruned, failed (``failures`` says how) and pending (interrupted,
    or not started yet). Time counts from the start to the last thing that a trial
    wrote. Raises `ArtifactError` where ``run`` is not a run's folder.
    """
    run = require_run(run)
    rows, description = [_row(folder) for folder in trial_folders(run)], read_description(run)
    counts = dict.fromkeys(("running", "completed", "pruned", "failed", "pending"), 0)
    for row in rows:
        counts[_STATES.get(row["status"], row["status"])] += 1
    counts["pending"] += max(_planned(run, description) - len(rows), 0)
    scored = [row for row in rows if not math.isnan(row["validation_log_loss"])]
    best = min(scored, key=lambda row: (row["validation_log_loss"], row["trial"]), default=None)
    if best:
        best = {name: best[name] for name in ("trial", "validation_accuracy", SCORES[0])}
    failures = Counter(row["status"] for row in rows if row["status"] in FAILURES)
    return {
        "trials": counts,
        "failures": dict(failures),
        "best": best,
        "elapsed_seconds": _elapsed(run, description),
    }


def _planned(run: Path, description: dict[str, Any]) -> int:
    """Trials in all: of the command line, else of the space; 0 where neither can be read."""
    from raysearch.space import load_space

    told = (description.get("limits") or {}).get("trials")
    try:
        return int(told or load_space(run / "space.yaml", look=False).search.trials)
    except (ConfigError, OSError):
        return 0


def _elapsed(run: Path, description: dict[str, Any]) -> float:
    begin = started(description)
    written = [f.status.stat().st_mtime for f in trial_folders(run) if f.status.exists()]
    if begin is None or not written:
        return 0.0
    return max(max(written) - begin.timestamp(), 0.0)
