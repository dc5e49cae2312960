"""What a run's folder says, read without the data, without Ray, and while it still changes."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from raysearch.errors import ArtifactError
from raysearch.files import write_json
from raysearch.train.trial import TrialFolder

ENSEMBLE_REPORT = "ensemble_report.json"
SEARCHES = "searches.json"
MANIFEST = "ensemble/ensemble.json"


def require_run(run: Path | str) -> Path:
    """``run`` as a path. Raises `ArtifactError` where it is not a run's folder."""
    run = Path(run)
    if not (run / "run.yaml").is_file() and not (run / "trials").is_dir():
        raise ArtifactError(
            f"{run} is not a run's folder: it holds neither run.yaml nor trials/. "
            "Give the folder that `raysearch tune` named when it started."
        )
    return run


def read_description(run: Path) -> dict[str, Any]:
    """run.yaml, or ``{}`` where it is missing or not a mapping."""
    try:
        values = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, or ``{}`` where there is no whole one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def add_search(run: Path, search: dict[str, Any]) -> None:
    """Note what one search in ``run`` took: its ``seconds``, its ``slots`` for trials, and the
    part of their time that these were training, its ``utilization``."""
    write_json(run / SEARCHES, {"searches": [*read_searches(run), search]})


def read_searches(run: Path) -> list[dict[str, Any]]:
    """In order; a run that was resumed has several."""
    found = read_object(run / SEARCHES).get("searches")
    return found if isinstance(found, list) else []


def read_curve(folder: TrialFolder) -> list[dict[str, float]]:
    """Rows of metrics.csv; a line that is cut short is left out."""
    try:
        text = folder.metrics.read_text(encoding="utf-8")
    except OSError:
        return []
    rows = []
    for row in csv.DictReader(text.splitlines()):
        try:
            rows.append({name: float(value) for name, value in row.items()})
        except (TypeError, ValueError):
            continue
    return rows


def started(description: dict[str, Any]) -> datetime | None:
    """When the run began, by run.yaml, in UTC."""
    try:
        return datetime.fromisoformat(str(description["started"])).astimezone(UTC)
    except (KeyError, ValueError):
        return None
