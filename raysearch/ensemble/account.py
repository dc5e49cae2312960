"""An honest account of a selected ensemble: what ``raysearch ensemble --json`` prints."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raysearch import metrics
from raysearch.ensemble import baselines
from raysearch.ensemble.calibration import calibrate
from raysearch.ensemble.cost import CostTable
from raysearch.ensemble.estimate import Ensemble, NestedEstimate
from raysearch.ensemble.library import Library


@dataclass(frozen=True)
class EnsembleReport:
    """The content of ``raysearch ensemble --json``, and where the artifact is (``path``).

    ``validation`` is the score that selection ended with, optimistic; ``nested`` the
    cross-validated one. ``best_single`` and ``baselines`` are calibrated as the ensemble is.
    ``cost`` and those of members and points are by the units of `CostTable`; the ensemble's
    latency, for one image and for 64, is that of the exported graph. ``trajectory`` is the
    objective after each greedy step. ``refit``: None, or ``images``, ``epochs`` by trial and
    ``seconds`` of the members' training on train and validation, which no score here is of.
    """

    objective: str
    members: list[dict[str, Any]]
    validation: dict[str, float]
    nested: dict[str, float]
    best_single: dict[str, Any]
    baselines: dict[str, dict[str, float]]
    cost: dict[str, Any]
    front: list[dict[str, Any]]
    trajectory: list[float]
    seconds: float
    skipped: dict[str, str]
    path: Path
    refit: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "path"}


def describe(
    library: Library,
    ensemble: Ensemble,
    nested: NestedEstimate,
    costs: CostTable,
    front: list[dict[str, Any]],
    path: Path,
) -> EnsembleReport:
    """Everything but the seconds that it took."""
    selection, labels_V = ensemble.selection, library.labels_V
    calibrated_NVK = calibrate(library.probs_NVK, ensemble.temperature_N)
    best = baselines.best_single(calibrated_NVK, labels_V, selection.objective)
    summary = metrics.summary(ensemble.predict(library.probs_NVK), labels_V)
    return EnsembleReport(
        objective=selection.objective,
        members=[
            {
                "trial": library.candidates[n].trial,
                "candidate": library.candidates[n].name,
                "weight": float(selection.weights_N[n]),
                "stability": float(nested.stability_N[n]),
                **costs.of([n]),
            }
            for n in selection.members
        ],
        validation={key: summary[key] for key in ("accuracy", "log_loss", "macro_f1", "ece")},
        nested={
            key: getattr(nested, key)
            for key in ("accuracy", "accuracy_se", "log_loss", "log_loss_se")
        },
        best_single={
            "trial": library.candidates[best].trial,
            "candidate": library.candidates[best].name,
            **baselines.calibrated_scores(calibrated_NVK[best], labels_V),
        },
        baselines=baselines.baselines(calibrated_NVK, labels_V, selection.objective),
        cost=costs.of(selection.members),
        front=front,
        trajectory=[float(value) for value in selection.trajectory],
        seconds=0.0,
        skipped=library.skipped,
        path=path,
    )
