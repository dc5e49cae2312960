"""`write_report`: one HTML page of a run that needs no network and no other file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader

from raysearch import __version__
from raysearch.files import write_text
from raysearch.report import figures
from raysearch.report.predictions import (
    class_scores,
    confusion_matrix,
    reliability,
    validation_predictions,
)
from raysearch.report.runfiles import (
    ENSEMBLE_REPORT,
    read_curve,
    read_description,
    read_object,
    read_searches,
    require_run,
    started,
)
from raysearch.report.tables import COLUMNS, leaderboard, run_status
from raysearch.train.trial import trial_folders

ROWS_SHOWN = 25
CURVES_SHOWN = 200
_FRONTS = {
    "front": ("params", 1, "parameters of all members", ""),
    "front_latency": ("latency_ms", 1e-3, "time for one image, the networks' summed", "s"),
}
"""Figure to the key of a cost, what makes SI units of it, its name and symbol."""
CORRELATION_TRIALS = 8
"""Completed trials below which a rank correlation would be noise alone."""


def write_report(run: Path | str) -> Path:
    """Write ``RUN/report.html`` atomically and return its path.

    Sections whose input is not there yet are left out. Raises `ArtifactError` where ``run`` is
    not a run's folder.
    """
    run = require_run(run)
    environment = Environment(
        loader=PackageLoader("raysearch.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "score": score,
        "count": count,
        "setting": setting,
        "duration": duration,
        "megabytes": megabytes,
        "megaflops": megaflops,
        "milliseconds": milliseconds,
    }
    page = environment.get_template("page.html.j2").render(page_values(run))
    path = run / "report.html"
    write_text(path, page)
    return path


def page_values(run: Path) -> dict[str, Any]:
    """What the template shows of ``run``."""
    board, description = leaderboard(run), read_description(run)
    scored = board.dropna(subset=["validation_log_loss"])
    best_trial = int(scored.iloc[0]["trial"]) if len(scored) else None
    ensemble = read_object(run / ENSEMBLE_REPORT)
    begin = started(description)
    return {
        "name": run.resolve().name,
        "raysearch": __version__,
        "description": description,
        "started": f"{begin:%Y-%m-%d %H:%M} UTC" if begin else "",
        "provenance": provenance(description) | utilization(read_searches(run)),
        "status": run_status(run),
        "board": board.to_dict("records"),
        "settings": [name for name in board.columns if name not in COLUMNS],
        "rows_shown": ROWS_SHOWN,
        "errors": trial_errors(run),
        "ensemble": ensemble,
        "compared": compared(ensemble),
        "figures": trial_figures(run, scored) | ensemble_figures(ensemble),
        **prediction_values(run, best_trial),
    }


def provenance(description: dict[str, Any]) -> dict[str, str]:
    """Fields of run.yaml in words, nested ones on one line, empty ones left out."""
    flat = {}
    for name, value in description.items():
        if isinstance(value, dict):
            parts = {k: v for k, v in value.items() if v not in (None, "", [])}
            value = ", ".join(f"{k} {_listed(v)}" for k, v in parts.items())
        if value not in (None, ""):
            flat[str(name).replace("_", " ")] = _listed(value)
    return flat


def utilization(searches: list[dict[str, Any]]) -> dict[str, str]:
    """How well the searches of a run used what they had."""
    lines = [
        f"{percent(s['utilization'], 0)} of {s['slots']} × {duration(s['seconds'])}"
        for s in searches
    ]
    return {"time spent training": ", then ".join(lines)} if lines else {}


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def trial_errors(run: Path) -> list[dict[str, Any]]:
    """Trial, status and first line of the message of every trial that ended with one."""
    found = []
    for folder in trial_folders(run):
        status = folder.read_status()
        if message := str(status.get("error") or "").strip():
            row = {"trial": int(folder.path.name), "status": status["status"]}
            found.append(row | {"error": message.splitlines()[0][:300]})
    return found


def compared(ensemble: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores of the ensemble, of its honest estimate and of every baseline, one row each."""
    named = {
        "Ensemble, nested estimate": ensemble.get("nested"),
        "Ensemble, on the images it was selected on": ensemble.get("validation"),
        "Best single candidate": ensemble.get("best_single"),
    }
    for name, scores in (ensemble.get("baselines") or {}).items():
        named[name.replace("_", " ").capitalize()] = scores
    return [{"name": name, **scores} for name, scores in named.items() if isinstance(scores, dict)]


def trial_figures(run: Path, scored: pd.DataFrame) -> dict[str, str]:
    """Learning curves, history and rank correlations, from the trials that have a score."""
    if scored.empty:
        return {}
    shown = set(scored["trial"].head(CURVES_SHOWN))
    curves = {}
    for folder in trial_folders(run):
        if int(folder.path.name) in shown:
            points = [(row["epoch"], row["validation_log_loss"]) for row in read_curve(folder)]
            curves[int(folder.path.name)] = [p for p in points if math.isfinite(p[1])]
    in_order = scored.sort_values("trial")
    found = {
        "curves": figures.learning_curves(list(curves.values()), curves[scored.iloc[0]["trial"]]),
        "history": figures.history(list(in_order["trial"]), list(in_order["validation_log_loss"])),
    }
    correlations = rank_correlations(scored)
    if correlations:
        found["correlations"] = figures.rank_correlations(*zip(*correlations, strict=True))
    return found


def rank_correlations(scored: pd.DataFrame) -> list[tuple[str, float]]:
    """Spearman's rho of each numeric setting with log loss, over completed trials, largest first.

    A setting takes part in the trials that have it; those need three different values of it.
    """
    completed = scored[scored["status"] == "completed"]
    found = []
    for name in completed.columns.difference(COLUMNS):
        values = pd.to_numeric(completed[name], errors="coerce")
        held = values.notna() & ~completed[name].map(lambda value: isinstance(value, bool))
        if held.sum() >= CORRELATION_TRIALS and values[held].nunique() >= 3:
            ranks = values[held].rank(), completed["validation_log_loss"][held].rank()
            found.append((name, float(np.corrcoef(*ranks)[0, 1])))
    return sorted(found, key=lambda pair: -abs(pair[1]))


def ensemble_figures(ensemble: dict[str, Any]) -> dict[str, str]:
    """Of what the ensemble's report holds: the front of its budgets, the greedy trajectory."""
    found = {}
    for name, (key, factor, unit, si) in _FRONTS.items():
        points = [
            (factor * point[key], point["log_loss"])
            for point in ensemble.get("front") or []
            if point.get(key)
        ]
        cost = (ensemble.get("cost") or {}).get(key)
        if len(points) > 1 and cost:
            exported = (factor * cost, ensemble["validation"]["log_loss"])
            found[name] = figures.front(points, exported, unit, si)
    if len(ensemble.get("trajectory") or []) > 1:
        found["trajectory"] = figures.trajectory(ensemble["trajectory"])
    return found


def prediction_values(run: Path, best_trial: int | None) -> dict[str, Any]:
    """Confusion matrix, reliability and scores of each class on the validation images."""
    predictions = validation_predictions(run, best_trial)
    if predictions is None or not len(predictions.labels_V):
        return {"predictions_of": None}
    counts_KK, bins = confusion_matrix(predictions), reliability(predictions)
    rows = zip(predictions.classes, class_scores(counts_KK), strict=True)
    return {
        "predictions_of": predictions.of,
        "images": len(predictions.labels_V),
        "confusion": figures.confusion(counts_KK, predictions.classes),
        "reliability": figures.reliability_diagram(bins),
        "calibration_error": bins.error,
        "per_class": [{"class": name, **scores} for name, scores in rows],
    }


def percent(value: Any, digits: int = 2) -> str:
    return "–" if not _is_number(value) else f"{100 * value:.{digits}f} %"


def score(value: Any) -> str:
    return "–" if not _is_number(value) else f"{value:.4f}"


def count(value: Any) -> str:
    return "–" if not _is_number(value) else f"{value:,.0f}"


def setting(value: Any) -> str:
    """A configuration's value: numbers with up to four digits, nothing where it does not apply."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def megabytes(value: Any) -> str:
    return "–" if not _is_number(value) else f"{value / 1e6:.3g} MB"


def megaflops(value: Any) -> str:
    return "–" if not _is_number(value) else f"{value / 1e6:,.3g} M"


def milliseconds(value: Any) -> str:
    return "–" if not _is_number(value) else f"{value:.3g} ms"


def duration(value: Any) -> str:
    if not _is_number(value):
        return "–"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
