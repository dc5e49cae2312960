"""An artifact's ``README.md``: a model card in the form of the Hugging Face Hub
(Mitchell et al., "Model cards for model reporting", 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from raysearch.ensemble.cardtables import (
    SCORES,
    class_table,
    confusion_table,
    cost_lines,
    data_lines,
    member_table,
    score_table,
)
from raysearch.ensemble.manifest import Manifest

if TYPE_CHECKING:
    from raysearch.train.trial import TrialRecord

EXPRESSIONS = frozenset(
    "anger angry contempt disgust disgusted fear fearful afraid happy happiness joy neutral calm "
    "sad sadness surprise surprised".split()
)

_EXPRESSION_LIMITS = """
- The classes name expressions as annotators saw them in a single picture. They do not say what
  the person felt: the same face goes with different emotions, and the same emotion with different
  faces, by person, culture and situation (Barrett et al., "Emotional expressions reconsidered",
  2019). Do not decide anything about a person by them.
- Annotators disagree: on FER2013, people reach 65 % ± 5 (Goodfellow et al., "Challenges in
  representation learning", 2013). A score counts agreement with noisy labels, not with truth.
- Faces must be cropped as in the training images (`raysearch predict --faces`); accuracy may
  differ by age, sex, skin and light, which these data do not tell.
- In the European Union, inferring the emotions of people at work or in education is prohibited
  but for medical and safety reasons (Regulation 2024/1689, Article 5)."""


def model_card(manifest: Manifest, name: str, records: Mapping[str, "TrialRecord"]) -> str:
    """Markdown with YAML front matter for the artifact called ``name``.

    ``records`` are by a member's folder, as in the manifest.
    """
    front = yaml.safe_dump(_front_matter(manifest, name), sort_keys=False, allow_unicode=True)
    channels, height, width = manifest.input.shape
    shown = manifest.scores["selected" if manifest.refitted else "exported"]
    return f"""---
{front}---

# {name}

A weighted ensemble of {_counted(len(manifest.members), "prediction")} by
{_counted(len(manifest.folders), "trained network")}, which tells {len(manifest.classes)} classes of
{height} x {width} {"gray" if channels == 1 else "colour"} images apart:
{", ".join(manifest.classes)}.{_about_teacher(manifest)}
Found, verified and exported by raysearch {manifest.versions["raysearch"]}.

## Use

    raysearch predict . photo.png photos/ --csv predictions.csv

or with ONNX Runtime alone, as everything but decoding is inside the graph:

```python
{_five_lines(manifest)}
```

`model.pt2` is the same for PyTorch: `torch.export.load("model.pt2").module()`. PyTorch may unpickle
such a file, which can run code: check SHA256SUMS against a source that you trust first.

## Scores

{score_table(manifest)}

{_about_scores(manifest)}

{class_table(shown["per_class"])}

Rows are true classes, columns predicted ones:

{confusion_table(manifest.classes, shown["confusion"])}

Calibration: the predicted class has a mean probability of {shown["mean_probability"]:.1%}
and is right for {shown["accuracy"]:.1%}; expected calibration error {shown["ece"]:.4f}.

## Cost

{cost_lines(manifest)}

## Members

{member_table(manifest, records)}

Ensemble temperature {manifest.temperature:.4g}. Complete configurations are in
`members/*/config.json`.

## Data

{data_lines(manifest)}

## Limits

- It knows its classes alone: an image of anything else is given one of them, often with a high
  probability.
- The scores hold for images like those of the data above. For other cameras, crops or people,
  score it on labelled examples first.{_EXPRESSION_LIMITS if _are_expressions(manifest) else ""}

The weights' license is their owner's to choose: replace `license` above, with regard to the
terms of the data.
"""


_SELECTED = """\
± is one standard error over images. The ensemble was selected on the validation split, so its own
scores there, below too, are optimistic; the nested estimate, for which the whole selection was
repeated within folds, is not. `raysearch evaluate . --data DIR` scores a split that neither
training nor selection has seen."""

_REFITTED = """\
± is one standard error over images. The members were selected on the validation split and then
**trained again on train and validation**, as long as before. These very weights have no honest
score on either split. The nested estimate is of the selection before that, and the tables below
are of that selection too. More images rarely make a network worse, but nothing here shows that
they made these better. `raysearch evaluate . --data DIR` scores a split that neither training nor
selection has seen."""


def _about_scores(manifest: Manifest) -> str:
    return _REFITTED if manifest.refitted else _SELECTED


def _about_teacher(manifest: Manifest) -> str:
    teacher = manifest.teacher
    if not teacher:
        return ""
    size = f"{_counted(teacher['networks'], 'network')} with {teacher['params']:,} parameters"
    how = (
        f"at temperature {teacher['temperature']:g}, were {teacher['share']:.0%} of what it learned"
    )
    text = f"\nDistilled from an ensemble of {size}, whose\nprobabilities, {how} from."
    if scores := teacher.get("nested"):
        accuracy, loss = scores["accuracy"], scores["log_loss"]
        text += f"\nThat ensemble's nested estimate: accuracy {accuracy:.4f}, log loss {loss:.4f}."
    return text


def _front_matter(manifest: Manifest, name: str) -> dict[str, Any]:
    validation = manifest.scores["validation"]
    metrics = [key for key in SCORES if key in validation]
    dataset = str(manifest.data.get("name") or "unnamed")
    before = ", before the refit" if manifest.refitted else ""
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"name": dataset, "type": dataset, "split": "validation"},
        "metrics": [
            {
                "type": key,
                "value": round(float(validation[key]), 5),
                "name": f"{SCORES[key]}, as selected (optimistic){before}",
            }
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


def _five_lines(manifest: Manifest) -> str:
    channels, height, width = manifest.input.shape
    mode, pixels = ("L", "image[None, None]")
    if channels == 3:
        mode, pixels = ("RGB", "image.transpose(2, 0, 1)[None]")
    return f"""import numpy, onnxruntime
from PIL import Image
image = numpy.array(Image.open("photo.png").convert("{mode}").resize(({width}, {height})))
session = onnxruntime.InferenceSession("model.onnx")
probabilities, = session.run(None, {{"images": {pixels}}})  # [1, {len(manifest.classes)}]"""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _are_expressions(manifest: Manifest) -> bool:
    return {name.lower() for name in manifest.classes} <= EXPRESSIONS
