"""Tables and lists of a model card, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raysearch.ensemble.manifest import Manifest

if TYPE_CHECKING:
    from raysearch.train.trial import TrialRecord

SCORES = {"accuracy": "Accuracy", "log_loss": "Log loss", "macro_f1": "Macro F1", "ece": "ECE"}

_ROWS = {
    "nested": "nested estimate",
    "validation": "as selected (optimistic)",
    "without_train_twins": "as selected, without images that are in train too",
    "exported": "`model.onnx`, recomputed from the files",
    "best_single": "best single candidate",
}
_REFITTED_ROWS = {
    "nested": "nested estimate, of the selection before the refit",
    "validation": "as selected (optimistic), before the refit",
    "without_train_twins": "that without images that are in train too",
    "exported": "`model.onnx`, on these images, which it has learned: no score",
}


def score_table(manifest: Manifest) -> str:
    """Validation scores, with standard errors where they are known."""
    rows = []
    titles = _ROWS | (_REFITTED_ROWS if manifest.refitted else {})
    for key, title in titles.items():
        if isinstance(values := manifest.scores.get(key), dict):
            rows.append([title, *(_score(values, name) for name in SCORES)])
    return _table(["validation split", *SCORES.values()], rows)


def class_table(per_class: Sequence[Mapping[str, Any]]) -> str:
    numbers = ("precision", "recall", "f1")
    rows = [
        [row["class"], *(f"{row[name]:.3f}" for name in numbers), f"{row['support']:,}"]
        for row in per_class
    ]
    return _table(["class", "precision", "recall", "F1", "images"], rows)


def confusion_table(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    rows = [[name, *map(str, counts)] for name, counts in zip(classes, confusion, strict=True)]
    return _table(["", *classes], rows)


def cost_lines(manifest: Manifest) -> str:
    """Parameters, passes, and what else was measured when it was exported."""
    params = {member.folder: member.params for member in manifest.members}
    views: dict[str, int] = {}
    for member in manifest.members:
        views[member.folder] = max(member.views, views.get(member.folder, 0))
    lines = {
        "parameters": f"{sum(params.values()):,}, of all networks",
        "passes through a network for one image": f"{sum(views.values())}",
    }
    cost = manifest.cost
    if "bytes" in cost:
        lines["weights"] = f"{cost['bytes'] / 1e6:.1f} MB"
    if cost.get("flops"):
        lines["arithmetic for one image"] = f"{cost['flops'] / 1e9:.3g} GFLOP"
    if cost.get("latency_ms"):
        lines["time for one image"] = f"{cost['latency_ms']:.3g} ms"
    if cost.get("latency_64_ms"):
        lines["time for 64 images at once"] = f"{cost['latency_64_ms']:.3g} ms"
    if cost.get("machine"):
        lines["measured with ONNX Runtime on"] = str(cost["machine"])
    return _list(lines)


def member_table(manifest: Manifest, records: Mapping[str, "TrialRecord"]) -> str:
    """Heaviest first; ``records`` are by folder."""
    rows = []
    for member in sorted(manifest.members, key=lambda member: -member.weight):
        train = records[member.folder].train
        options = ", ".join(f"{name} {value}" for name, value in train.model.options.items())
        rows.append(
            [
                f"{member.weight:.4f}",
                str(member.trial),
                member.candidate,
                train.model.name + (f" ({options})" if options else ""),
                str(train.image_size),
                f"{member.params:,}",
                f"{member.temperature:.4g}",
            ]
        )
    head = ["weight", "trial", "candidate", "network", "image size", "parameters", "temperature"]
    return _table(head, rows)


def data_lines(manifest: Manifest) -> str:
    data = manifest.data
    lines = {"name": data.get("name", "unnamed"), "fingerprint": data.get("fingerprint", "none")}
    if splits := data.get("splits"):
        lines["images"] = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    if (twins := data.get("validation_images_also_in_train")) is not None:
        lines["validation images whose very pixels are in train too"] = f"{twins:,}"
    shares = (f"{name} {share:.1%}" for name, share in manifest.class_shares.items())
    lines["classes in the validation split"] = ", ".join(shares)
    return _list(lines)


def _score(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := values.get(name), float):
        return ""
    error = values.get(f"{name}_se")
    return f"{value:.4f}" + (f" ± {error:.4f}" if isinstance(error, float) else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    line = "|---" + "|---:" * (len(head) - 1) + "|"
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], line, *lines[1:]])


def _list(lines: Mapping[str, Any]) -> str:
    return "\n".join(f"- {key}: {_cell(str(value))}" for key, value in lines.items())


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
