"""Writing and checking an artifact: it reproduces the selection or is not written."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_ensembles import sharpen_reference
from torch import nn

from raysearch import metrics
from raysearch.ensemble import verify
from raysearch.ensemble.artifact import copy_artifact, load_artifact
from raysearch.ensemble.network import Backbone, EnsembleNetwork, Vote
from raysearch.ensemble.onnx import export_onnx, open_session, run_session
from raysearch.ensemble.predictor import Predictor
from raysearch.ensemble.program import export_program
from raysearch.errors import ArtifactError, DataError, RunError
from raysearch.models.preprocess import Preprocess


def test_network_equals_the_formula_computed_member_by_member(artifact_folder, selection):
    network = load_artifact(artifact_folder).network()
    _, rounded = verify.predict_network(network, selection.validation.images_NCHW)
    assert np.abs(rounded - selection.probs_VK).max() < 1e-5
    assert selection.probs_VK.std(axis=0).min() > 0.02, "the test's own images must differ"


def test_onnx_and_torch_predictors_agree(artifact_folder, selection):
    images = selection.validation.images_NCHW
    by_onnx = Predictor(artifact_folder).predict_probs(images)
    by_torch = Predictor(artifact_folder, backend="torch").predict_probs(images)
    assert by_onnx.dtype == by_torch.dtype == np.float32
    assert np.abs(by_onnx - by_torch).max() < 1e-5
    np.testing.assert_allclose(by_onnx.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 256])
def test_predictions_do_not_depend_on_the_batch(artifact_folder, selection, batch_size):
    images = selection.validation.images_NCHW
    whole = Predictor(artifact_folder).predict_probs(images)
    parts = Predictor(artifact_folder, batch_size=batch_size).predict_probs(images)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert Predictor(artifact_folder).predict_probs(images[:0]).shape == (0, 3)


def test_images_of_another_shape_or_type_are_refused(artifact_folder):
    predictor = Predictor(artifact_folder)
    with pytest.raises(DataError, match=r"\[N, 1, 20, 20\].*\[2, 1, 20, 21\]"):
        predictor.predict_probs(np.zeros((2, 1, 20, 21), np.uint8))
    with pytest.raises(DataError, match="float32"):
        predictor.predict_probs(np.zeros((2, 1, 20, 20), np.float32))


def test_manifest_and_folder_say_what_is_inside(artifact_folder, selection):
    values = json.loads((artifact_folder / "ensemble.json").read_text())
    assert [m["folder"] for m in values["members"]] == [
        "members/0003-ema",
        "members/0003-ema",
        "members/0007-raw",
        "members/0012-ema",
    ], "equal weights are stored once, members without weight not at all"
    assert sum(m["weight"] for m in values["members"]) == pytest.approx(1)
    assert values["input"] == {"channels": 1, "height": 20, "width": 20}
    labels = selection.validation.labels_N
    assert values["class_shares"]["sad"] == pytest.approx((labels == 2).mean())
    assert values["scores"]["exported"]["log_loss"] == pytest.approx(
        metrics.log_loss(
            Predictor(artifact_folder).predict_probs(selection.validation.images_NCHW), labels
        )
    )
    sums = dict(
        reversed(line.split("  "))
        for line in (artifact_folder / "SHA256SUMS").read_text().splitlines()
    )
    files = {p.relative_to(artifact_folder).as_posix() for p in artifact_folder.rglob("*.*")}
    assert set(sums) == files
    for name, digest in sums.items():
        assert hashlib.sha256((artifact_folder / name).read_bytes()).hexdigest() == digest


def test_graph_carries_its_interface_and_metadata(artifact_folder):
    model = onnx.load(artifact_folder / "model.onnx")
    onnx.checker.check_model(model)
    properties = {item.key: item.value for item in model.metadata_props}
    assert json.loads(properties["classes"]) == ["angry", "happy", "sad"]
    assert properties["opset"] == str(model.opset_import[0].version)
    assert (
        json.loads(properties["preprocessing"])["members"]["members/0012-ema"]["image_size"] == 16
    )
    session = onnxruntime.InferenceSession(artifact_folder / "model.onnx")
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", [1, 20, 20])
    ]


def test_each_backbone_runs_once_per_batch(artifact_folder, selection):
    network = load_artifact(artifact_folder).network()
    calls = []
    for index, backbone in enumerate(network.backbones):
        backbone.network.register_forward_hook(lambda *_, index=index: calls.append(index))
    network(torch.from_numpy(np.array(selection.validation.images_NCHW)))
    assert calls == [0, 1, 2]


def test_network_stays_in_evaluation_mode(artifact_folder):
    network = load_artifact(artifact_folder).network().train()
    assert not any(module.training for module in network.modules())


def test_building_the_network_leaves_the_global_generator_alone(artifact_folder):
    before = torch.random.get_rng_state()
    load_artifact(artifact_folder).network()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_wrong_probabilities_are_named_and_the_old_ensemble_stays(tmp_path, selection):
    folder = selection.write(tmp_path / "ensemble")
    before = (folder / "SHA256SUMS").read_bytes()
    wrong = selection.probs_VK.copy()
    wrong[17] = np.roll(wrong[17], 1)
    with pytest.raises(RunError, match="against the selection.*validation image 17, class"):
        selection.write(folder, probs_VK=wrong)
    assert (folder / "SHA256SUMS").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["ensemble"]


@pytest.mark.parametrize("score", ["accuracy", "log_loss"])
def test_a_selected_score_that_the_files_do_not_reach_is_an_error(tmp_path, selection, score):
    claimed = selection.scores["validation"]
    claimed = claimed | {score: claimed[score] + 0.3}
    with pytest.raises(RunError, match=f"validation {score}.*selected {claimed[score]:.6f}"):
        selection.write(tmp_path / "ensemble", scores={"validation": claimed})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "writer, file", [("onnx.export_onnx", "model.onnx"), ("program.save_program", "model.pt2")]
)
def test_a_sabotaged_graph_is_an_error_and_nothing_is_written(
    tmp_path, selection, monkeypatch, writer, file
):
    """The file is written with weights that are not the members'."""
    from raysearch.ensemble import onnx, program

    module, name = {"onnx": onnx, "program": program}[writer.split(".")[0]], writer.split(".")[1]
    write = getattr(module, name)

    def sabotage(program, *arguments):
        weights = [tensor for tensor in program.state_dict.values() if tensor.ndim > 1]
        for tensor in weights:
            tensor.data *= 1.01
        write(program, *arguments)
        for tensor in weights:
            tensor.data /= 1.01

    monkeypatch.setattr(module, name, sabotage)
    with pytest.raises(RunError, match=f"check '{file} against PyTorch': .*differ by up to"):
        selection.write(tmp_path / "ensemble")
    assert not list(tmp_path.iterdir())


def test_a_tiny_probability_that_moves_the_log_loss_is_an_error(tmp_path):
    torch_VK = np.array([[1 - 1e-6, 1e-6]], np.float32)
    onnx_VK = np.array([[1 - 5e-5, 5e-5]], np.float32)
    failure = verify._Failure(("a", "b"), tmp_path)
    failure.unless_close("alone", onnx_VK, torch_VK, verify.EXPORT_TOLERANCE)
    with pytest.raises(RunError, match=r"log loss 9\.90\d+ against 13\.81\d+"):
        verify._check_same(failure, "model.onnx", onnx_VK, torch_VK, np.array([1]))


def test_labels_may_differ_only_where_the_top_two_tie(tmp_path):
    failure = verify._Failure(("a", "b"), tmp_path)
    torch_VK, onnx_VK = np.array([[0.50004, 0.49996]]), np.array([[0.49999, 0.50001]])
    failure.unless_same_label("labels", onnx_VK, torch_VK, 2e-4)
    with pytest.raises(RunError, match="1 images differ, the first is validation image 0"):
        failure.unless_same_label("labels", onnx_VK, torch_VK, 1e-5)


PROGRAM_ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("raysearch", "timm"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import numpy, torch
unpickled = []
sys.addaudithook(lambda event, about: event == "pickle.find_class" and unpickled.append(about))
program = torch.export.load("model.pt2").module()
images = torch.from_numpy(numpy.load(sys.argv[1]))
found = torch.cat([program(images[:1]), program(images[1:])])
numpy.save(sys.argv[2], found.detach().numpy())
assert not unpickled, unpickled
"""


def test_pytorch_alone_runs_the_program_without_unpickling(tmp_path, artifact_folder, selection):
    images, found = tmp_path / "images.npy", tmp_path / "found.npy"
    np.save(images, selection.validation.images_NCHW)
    subprocess.run(
        [sys.executable, "-c", PROGRAM_ALONE, images, found], cwd=artifact_folder, check=True
    )
    expected = Predictor(artifact_folder).predict_probs(selection.validation.images_NCHW)
    assert np.abs(np.load(found) - expected).max() < 1e-5


def test_rounding_of_tiny_probabilities_under_a_high_temperature_is_not_a_failure():
    logits = torch.tensor([[0.0, -17.5, -16.0]])
    network = EnsembleNetwork(
        [Backbone(nn.Flatten(), nn.Linear(1, 3))], [Vote(0, 1, 1.0, 4.0)], 1.0
    )
    with torch.no_grad():
        network.backbones[0].network.weight.zero_()
        network.backbones[0].network.bias.copy_(logits[0])
        network.backbones[0].preprocess.forward = lambda images: images.float().flatten(1)
    exact, rounded = verify.predict_network(network, np.zeros((1, 1, 1, 1), np.uint8))
    library = sharpen_reference(torch.softmax(logits, 1).half().numpy(), 4.0)
    assert np.abs(exact - library).max() > verify.SELECTED_TOLERANCE
    assert np.abs(rounded - library).max() < 1e-6


def test_missing_weights_of_a_member_are_named(tmp_path, selection):
    gone = replace(selection.members[0], weights_file=tmp_path / "gone.safetensors")
    members = replace(selection, members=[gone, *selection.members[1:]])
    with pytest.raises(RunError, match="trial 3 cannot be read from .*gone.safetensors"):
        members.write(tmp_path / "ensemble")


def test_an_ensemble_replaces_an_older_one(tmp_path, selection):
    folder = selection.write(tmp_path / "ensemble")
    (folder / "stale.txt").write_text("from before")
    selection.write(folder, data=selection.data | {"name": "second"})
    assert load_artifact(folder).manifest.data["name"] == "second"
    assert not (folder / "stale.txt").exists()


def test_copy_is_verified_and_takes_no_foreign_files(tmp_path, artifact_folder):
    copy = copy_artifact(artifact_folder, tmp_path / "out" / "copy")
    assert load_artifact(copy.path).manifest == load_artifact(artifact_folder).manifest
    with pytest.raises(ArtifactError, match="exists already"):
        copy_artifact(artifact_folder, tmp_path / "out" / "copy")


@pytest.mark.parametrize(
    "shape, side, normalize",
    [
        ((1, 48, 48), 32, "per_image"),
        ((3, 30, 50), 24, "dataset"),
        ((1, 20, 20), 33, "dataset"),
        ((3, 40, 20), 31, "per_image"),
        ((1, 16, 16), 16, "per_image"),
    ],
)
def test_exported_preprocessing_and_views_equal_torch(tmp_path, rng, shape, side, normalize):
    statistics = [[0.4] * shape[0], [0.3] * shape[0]]
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * shape[0], 5))
    nn.init.normal_(pooled[2].weight, 0, 2, generator=torch.Generator().manual_seed(0))
    backbone = Backbone(Preprocess(normalize, side, *statistics), pooled, views=10)
    network = EnsembleNetwork([backbone], [Vote(0, 10, 0.6, 1.5), Vote(0, 2, 0.4, 1.0)], 0.9)
    path = tmp_path / "model.onnx"
    export_onnx(export_program(network, shape), path, {})
    images = rng.integers(0, 256, (9, *shape), dtype=np.uint8)
    found = run_session(open_session(path, shape, 5), images, 4)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(found - expected).max() < 1e-5
    assert expected.std(axis=0).min() > 1e-3
