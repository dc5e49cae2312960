"""The model card: readable by the Hub's own parser, true, and its lines of code run as they are."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from small_ensembles import CLASSES, combine_reference

from raysearch import metrics
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.card import model_card
from raysearch.ensemble.predictor import Predictor


def rewritten(folder, name="x", **changes) -> str:
    """The card if the manifest were another one."""
    from raysearch.ensemble.manifest import read_json
    from raysearch.train.trial import TrialRecord

    manifest = load_artifact(folder).manifest
    records = {
        inside: TrialRecord.from_json(read_json(folder / inside / "config.json"), inside)
        for inside in manifest.folders
    }
    return model_card(manifest.model_copy(update=changes), name, records)


def table_after(text: str, line: str) -> list[list[str]]:
    """Cells of the first table below ``line``, without its head."""
    rows = text.split(line, 1)[1].split("\n| ", 1)[1].split("\n\n")[0].split("\n")
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in rows[2:]]


def test_the_hub_reads_the_metadata(artifact_folder, selection):
    card = ModelCard((artifact_folder / "README.md").read_text())
    assert card.data.library_name == "raysearch"
    assert card.data.pipeline_tag == "image-classification"
    assert {"onnx", "safetensors"} <= set(card.data.tags)
    results = {result.metric_type: result for result in card.data.eval_results}
    assert set(results) == {"accuracy", "log_loss", "macro_f1", "ece"}
    assert results["accuracy"].dataset_split == "validation"
    selected = selection.scores["validation"]
    assert results["log_loss"].metric_value == pytest.approx(selected["log_loss"], abs=1e-5)


def test_the_lines_of_code_run_as_they_stand(artifact_folder, tmp_path, rng):
    folder = shutil.copytree(artifact_folder, tmp_path / "artifact")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) == 5
    image = rng.integers(0, 256, (20, 20), dtype=np.uint8)
    Image.fromarray(image).save(folder / "photo.png")
    script = f"{code}\nnumpy.save('found.npy', probabilities)"
    subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, check=True)
    expected = Predictor(artifact_folder).predict_probs(image[None, None])
    np.testing.assert_allclose(np.load(folder / "found.npy"), expected, atol=1e-6)


def test_the_lines_for_colour_images_give_three_channels(artifact_folder, tmp_path):
    shape = load_artifact(artifact_folder).manifest.input.model_copy(update={"channels": 3})
    text = rewritten(artifact_folder, input=shape)
    lines = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].splitlines()
    Image.new("L", (9, 7)).save(tmp_path / "photo.png")
    inputs = {}
    opened = lines[2].replace("photo.png", str(tmp_path / "photo.png"))
    exec(f"import numpy\nfrom PIL import Image\n{opened}", inputs)
    expression = re.search(r'"images": (.*?)\}', lines[4])[1]
    assert eval(expression, inputs).shape == (1, 3, 20, 20)


def test_scores_by_class_and_confusion_are_those_of_the_exported_graph(artifact_folder, selection):
    text = (artifact_folder / "README.md").read_text()
    labels = selection.validation.labels_N
    probs = Predictor(artifact_folder).predict_probs(selection.validation.images_NCHW)
    confusion = metrics.confusion_matrix(probs, labels)
    found = [row[1:] for row in table_after(text, "columns predicted ones:")]
    assert np.array(found, int).tolist() == confusion.tolist()
    recall = metrics.per_class(confusion)["recall"]
    by_class = table_after(text, "nor selection has seen.")
    assert [row[0] for row in by_class] == list(CLASSES)
    assert [row[2] for row in by_class] == [f"{value:.3f}" for value in recall]
    assert f"mean probability of {probs.max(axis=1).mean():.1%}" in text


def test_standard_errors_twins_and_costs_are_told_where_they_are_known(artifact_folder):
    manifest = load_artifact(artifact_folder).manifest
    nested = {"accuracy": 0.61234, "accuracy_se": 0.02, "log_loss": 0.9}
    text = rewritten(
        artifact_folder,
        scores=manifest.scores | {"nested": nested, "without_train_twins": None},
        data=manifest.data | {"validation_images_also_in_train": 5},
        cost={"params": 1, "bytes": 7_000_000, "flops": 123_000_000, "latency_ms": 2.5},
    )
    assert "| nested estimate | 0.6123 ± 0.0200 | 0.9000 |" in text
    assert "are in train too: 5" in text
    assert "7.0 MB" in text and "0.123 GFLOP" in text and "2.5 ms" in text
    assert "passes through a network for one image: 14" in text, "2, 2 and 10"


def test_members_are_told_with_their_networks(artifact_folder):
    rows = table_after((artifact_folder / "README.md").read_text(), "## Members")
    assert [row[0] for row in rows] == ["0.4000", "0.3000", "0.2000", "0.1000"]
    assert rows[0][3] == "vgg (width 4, depth 4)" and rows[1][3] == "mlp (hidden [8])"


@pytest.mark.parametrize(
    ("classes", "expressions"),
    [(("Angry", "happy", "sad"), True), (("cat", "dog", "sad"), False)],
)
def test_limits_of_expressions_are_told_for_expressions_alone(
    artifact_folder, classes, expressions
):
    manifest = load_artifact(artifact_folder).manifest
    shares = dict(zip(classes, manifest.class_shares.values(), strict=True))
    text = rewritten(artifact_folder, classes=classes, class_shares=shares)
    assert ("what\n  the person felt" in text) == expressions
    assert "It knows its classes alone" in text


def test_names_with_bars_and_newlines_do_not_break_the_tables(artifact_folder):
    manifest = load_artifact(artifact_folder).manifest
    scores = manifest.scores["exported"]
    odd = [row | {"class": "a|b\nc"} for row in scores["per_class"]]
    exported = scores | {"per_class": odd}
    text = rewritten(artifact_folder, scores=manifest.scores | {"exported": exported})
    assert "\n| a\\|b c | " in text


def test_card_of_a_selection_with_mirrored_members_alone(tmp_path, selection):
    mirrored = [replace(selection.members[2], weight=1.0)]
    validation = selection.validation
    folder = tmp_path / "one"
    probs = combine_reference(mirrored, selection.records, validation.images_NCHW)
    scores = {"validation": metrics.summary(probs, validation.labels_N)}
    replace(selection, members=mirrored).write(folder, probs_VK=probs, scores=scores)
    text = (folder / "README.md").read_text()
    assert "of 1 prediction by\n1 trained network, which" in text
