"""An artifact's ``README.md``: a model card in the form of the Hugging Face Hub."""

from typing import Any

import yaml

from raysearch.ensemble.manifest import Manifest

_SCORES = {"accuracy": "Accuracy", "log_loss": "Log loss", "macro_f1": "Macro F1", "ece": "ECE"}


def model_card(manifest: Manifest, name: str) -> str:
    """Markdown with YAML front matter for the artifact called ``name``."""
    front = yaml.safe_dump(_front_matter(manifest, name), sort_keys=False, allow_unicode=True)
    channels, height, width = manifest.input.shape
    kind = "gray" if channels == 1 else "colour"
    trained = len(manifest.folders)
    return f"""---
{front}---

# {name}

A weighted ensemble of {len(manifest.members)} predictions by {trained} trained
network{"s" if trained > 1 else ""} for {height}x{width} {kind} images of
{len(manifest.classes)} classes: {", ".join(manifest.classes)}.
Found and exported by raysearch {manifest.versions["raysearch"]}.

## Use

    raysearch predict . photo.png photos/ --csv predictions.csv

or, with ONNX Runtime alone (images of another size are resized first; all else is inside):

    import numpy, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    images = numpy.zeros((1, {channels}, {height}, {width}), numpy.uint8)  # [N, C, H, W], 0 to 255
    probabilities, = session.run(None, {{"images": images}})  # [N, {len(manifest.classes)}]

## Scores

{_score_table(manifest.scores)}

The ensemble was selected on the validation split, so its own score there is optimistic; the
nested estimate, where there is one, is not. `raysearch evaluate . --data DIR` scores a split that
neither training nor selection has seen.

## Members

{_member_table(manifest)}

Ensemble temperature {manifest.temperature:.4g}.
{_cost_lines(manifest.cost)}
## Data

{_data_lines(manifest)}

The weights' license is their owner's to choose: replace `license` above, with regard to the
terms of the data.
"""


def _front_matter(manifest: Manifest, name: str) -> dict[str, Any]:
    validation = manifest.scores["validation"]
    metrics = [key for key in _SCORES if key in validation]
    dataset = str(manifest.data.get("name") or "unnamed")
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"name": dataset, "type": dataset, "split": "validation"},
        "metrics": [
            {"type": key, "value": round(float(validation[key]), 5), "name": _SCORES[key]}
            for key in metrics
        ],
    }
    return {
        "license": "other",
        "license_name": "unstated",
        "library_name": "raysearch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "ensemble", "onnx", "safetensors"],
        "metrics": metrics,
        "model-index": [{"name": name, "results": [result]}],
    }


def _score_table(scores: dict[str, Any]) -> str:
    names = {
        "validation": "selected, validation",
        "nested": "nested estimate, validation",
        "exported": "`model.onnx` recomputed, validation",
        "best_single": "best single candidate, validation",
    }
    rows = ["| | " + " | ".join(_SCORES.values()) + " |", "|---" * (len(_SCORES) + 1) + "|"]
    for key, title in names.items():
        if isinstance(values := scores.get(key), dict):
            cells = [_number(values.get(score)) for score in _SCORES]
            rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _member_table(manifest: Manifest) -> str:
    rows = [
        "| Trial | Candidate | Weight | Temperature | Parameters |",
        "|---:|---|---:|---:|---:|",
    ]
    for member in sorted(manifest.members, key=lambda member: -member.weight):
        rows.append(
            f"| {member.trial} | {member.candidate} | {member.weight:.4f} "
            f"| {member.temperature:.4g} | {member.params:,} |"
        )
    return "\n".join(rows)


def _cost_lines(cost: dict[str, Any]) -> str:
    """What the whole costs, with the machine that its latency holds for; nothing if unknown."""
    if "params" not in cost:
        return ""
    where = f"{cost['machine']['cpu']}, {cost['machine']['cores']} cores"
    return f"""
## Cost

| Parameters | Weights | FLOPs, 1 image | Time, 1 image | Time, 64 images |
|---:|---:|---:|---:|---:|
| {cost["params"]:,} | {cost["bytes"] / 1e6:.1f} MB | {cost["flops"] / 1e6:,.0f} M \
| {cost["latency_ms"]:.2f} ms | {cost["latency_64_ms"]:.1f} ms |

Times of `model.onnx` in ONNX Runtime {cost["machine"]["onnxruntime"]} ({where}). FLOPs are of
matrix products and convolutions, a multiplication and an addition being two.
"""


def _data_lines(manifest: Manifest) -> str:
    lines = [f"- {key}: {value}" for key, value in manifest.data.items()]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in manifest.class_shares.items())
    return "\n".join([*lines, f"- classes in the validation split: {shares}"])
