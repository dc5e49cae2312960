"""From a trained run to a checked artifact: rescoring, losses of files, the report."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from made_run import blur, change_probabilities, make_data, make_run, trial_folder
from safetensors.torch import load_file
from typer.testing import CliRunner

from raysearch.data.shards import open_shards
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.build import build_ensemble
from raysearch.ensemble.cost import Budget
from raysearch.ensemble.library import load_library
from raysearch.ensemble.member import weights_of
from raysearch.ensemble.rescore import rescore, without_lost_weights
from raysearch.errors import ArtifactError, ConfigError, DataError
from raysearch.models.views import SHIFTED
from raysearch.probabilities import read_probabilities
from raysearch.train.evaluate import predict_probs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    data = make_data(folder / "data")
    return data, make_run(folder / "run", data)


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "data")
    shutil.copytree(made[1], tmp_path / "run")
    (tmp_path / "run" / "run.yaml").write_text(f"data: {tmp_path / 'data'}\n")
    return tmp_path / "run"


@pytest.fixture
def shards(run):
    return open_shards(run.parent / "data")


def test_rescoring_recovers_the_probabilities_of_the_weights(run, shards):
    exact = read_probabilities(trial_folder(run, 1).validation)
    blur(run, 1)
    library = load_library(run, shards)
    indices = [n for n, c in enumerate(library.candidates) if str(c) == "0001/ema_mirror"]
    updated = rescore(library, indices, shards.split("validation"), CPU)
    written = read_probabilities(trial_folder(run, 1).validation)
    assert written.precision["ema_mirror"] == "fp32"
    assert written.precision["ema"] == "bf16"
    assert updated.candidates[indices[0]].precision == "fp32"
    for probs_VK in (written.candidates["ema_mirror"], updated.probs_NVK[indices[0]]):
        np.testing.assert_allclose(probs_VK, exact.candidates["ema_mirror"], atol=1e-3)
    assert np.abs(library.probs_NVK - updated.probs_NVK).max() > 1e-3

    record = trial_folder(run, 1).read_record()
    preprocess, network = record.build()
    network.load_state_dict(load_file(updated.candidates[indices[0]].weights_file))
    images = torch.from_numpy(np.array(shards.split("validation").images_NCHW))
    expected_VK = predict_probs(network, preprocess, images, views=2).numpy()
    np.testing.assert_allclose(updated.probs_NVK[indices[0]], expected_VK, atol=1e-3)


def test_rescoring_drops_what_stayed_stale_from_the_file(run, shards):
    folder = trial_folder(run, 0)
    later = folder.validation.stat().st_mtime_ns + 10**9
    os.utime(folder.best / "model.safetensors", ns=(later, later))
    library = load_library(run, shards)
    rescore(library, [0], shards.split("validation"), CPU)
    assert sorted(read_probabilities(folder.validation).candidates) == ["ema", "raw", "raw_mirror"]


def test_damaged_weights_cost_their_candidates_alone(run, shards):
    weights = trial_folder(run, 1).best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    blur(run, 1)
    library = load_library(run, shards)
    updated = rescore(library, [4, 6], shards.split("validation"), CPU)
    assert len(updated) == len(library) - 1
    assert "cannot be used" in updated.skipped["0001/ema"]
    assert read_probabilities(trial_folder(run, 1).validation).precision["raw"] == "fp32"


def test_candidates_without_weights_are_left_out(run, shards):
    shutil.rmtree(trial_folder(run, 2).best)
    library = without_lost_weights(load_library(run, shards))
    assert {c.trial for c in library.candidates} == {0, 1}
    assert "were not kept" in library.skipped["0002/raw"]


@pytest.mark.parametrize("objective", ["log_loss", "accuracy", "macro_f1"])
def test_built_ensemble_is_exported_and_reported(run, objective):
    lines = []
    report = build_ensemble(run, objective=objective, on_progress=lines.append)
    values = report.to_json()
    assert list(values) == [
        "objective", "members", "validation", "nested", "best_single", "baselines", "cost",
        "front", "trajectory", "seconds", "skipped", "refit",
    ]  # fmt: skip
    assert sum(member["weight"] for member in values["members"]) == pytest.approx(1)
    assert sorted(values["baselines"]) == ["hard_vote", "mean", "top_k", "weighted_mean"]
    assert values["seconds"] > 0 and lines
    json.dumps(values, allow_nan=False)
    if objective == "log_loss":
        assert values["validation"]["log_loss"] <= values["best_single"]["log_loss"]
    artifact = load_artifact(run / "ensemble")
    exported = artifact.manifest.scores
    assert exported["exported"]["accuracy"] == pytest.approx(values["validation"]["accuracy"])
    assert [m.trial for m in artifact.manifest.members] == [m["trial"] for m in values["members"]]


def test_costs_are_reported_of_members_of_the_front_and_of_the_artifact(run):
    report = build_ensemble(run).to_json()
    networks = {(m["trial"], m["candidate"].split("_")[0]): m for m in report["members"]}
    assert report["cost"]["params"] == sum(m["params"] for m in networks.values())
    assert report["cost"]["latency_ms"] > 0 and report["cost"]["latency_64_ms"] > 0
    assert report["cost"] == load_artifact(run / "ensemble").manifest.cost
    card = (run / "ensemble" / "README.md").read_text()
    assert f"parameters: {report['cost']['params']:,}" in card and "time for 64 images" in card
    for point in report["front"]:
        assert {"params", "latency_ms", "flops", "accuracy", "log_loss", "members"} <= set(point)
        assert point["latency_ms"] > 0
    best = min(point["log_loss"] for point in report["front"])
    assert best == pytest.approx(report["validation"]["log_loss"], abs=1e-6)


def test_budgets_of_parameters_and_time_are_kept_and_what_is_over_them_named(run):
    small = trial_folder(run, 0).read_record().parameters
    report = build_ensemble(run, budget=Budget(max_params=small, max_latency_ms=1000))
    assert report.cost["params"] == small
    assert {member["trial"] for member in report.members} == {0}
    assert all(member["latency_ms"] > 0 for member in report.members)
    assert "over the budget" in report.skipped["0002/ema"]
    with pytest.raises(ArtifactError, match="cheapest is 0000/ema"):
        build_ensemble(run, budget=Budget(max_params=10))
    with pytest.raises(ArtifactError, match="the budget 1e-07 ms"):
        build_ensemble(run, budget=Budget(max_latency_ms=1e-7))


def test_selected_candidates_are_in_fp32_by_the_end(run, shards):
    for trial in range(3):
        blur(run, trial)
    report = build_ensemble(run)
    for member in report.members:
        file = read_probabilities(trial_folder(run, member["trial"]).validation)
        assert file.precision[member["candidate"]] == "fp32"
    again = build_ensemble(run)
    assert again.members == report.members
    assert again.validation == report.validation


def test_lost_and_damaged_files_leave_an_ensemble_of_the_rest(run):
    shutil.rmtree(trial_folder(run, 0).best)
    trial_folder(run, 1).validation.write_bytes(b"torn")
    report = build_ensemble(run)
    assert {member["trial"] for member in report.members} == {2}
    assert "0001" in report.skipped and "0000/ema" in report.skipped


def test_trials_that_can_neither_be_built_nor_read_are_left_out_under_a_budget_too(run):
    """One whose network is gone, one with torn weights, one with another network's."""
    record = trial_folder(run, 0).read_record().to_json()
    record["train"]["model"] = {"name": "gone"}
    trial_folder(run, 0).config.write_text(json.dumps(record))
    weights = trial_folder(run, 1).best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copy(trial_folder(run, 2).best / "raw.safetensors", trial_folder(run, 1).best)
    report = build_ensemble(run, budget=Budget(max_params=1e6))
    assert {member["trial"] for member in report.members} == {2}
    assert "no network 'gone'" in report.skipped["0000/ema"]
    assert "cannot be used" in report.skipped["0001/ema"]
    assert "another network" in report.skipped["0001/raw_mirror"]


def test_a_record_in_another_trials_folder_is_left_out(run):
    shutil.copy(trial_folder(run, 1).config, trial_folder(run, 0).config)
    report = build_ensemble(run)
    assert "is of trial 1" in report.skipped["0000"]


def test_shifts_are_ten_views_of_selected_weights_and_selected_from_only_when_asked(run, shards):
    plain = build_ensemble(run)
    report = build_ensemble(run, shifts=True, out=run.parent / "shifted")
    library = load_library(run, shards, views=SHIFTED)
    added = {n: c for n, c in enumerate(library.candidates) if c.views == SHIFTED}
    weights = {(m["trial"], weights_of(m["candidate"])) for m in plain.members}
    assert {(c.trial, weights_of(c.name)) for c in added.values()} == weights
    images = torch.from_numpy(np.array(shards.split("validation").images_NCHW))
    for n, candidate in added.items():
        preprocess, network = library.records[candidate.trial].build()
        network.load_state_dict(load_file(candidate.weights_file))
        expected_VK = predict_probs(network, preprocess, images, views=SHIFTED).numpy()
        np.testing.assert_allclose(library.probs_NVK[n], expected_VK, atol=1e-3)
    assert build_ensemble(run).members == plain.members
    assert build_ensemble(run, shifts=True).members == report.members
    for trial in range(3):  # nothing else is left to select from
        file = read_probabilities(trial_folder(run, trial).validation)
        kept = {name: probs for name, probs in file.candidates.items() if "shifts" in name}
        change_probabilities(run, trial, candidates=kept)
    shifted = build_ensemble(run, shifts=True)
    assert {(m["trial"], weights_of(m["candidate"])) for m in shifted.members} <= weights
    manifest = load_artifact(run / "ensemble").manifest
    assert all(member.shifts and member.views == SHIFTED for member in manifest.members)
    with pytest.raises(ArtifactError, match="no candidate for an ensemble"):
        build_ensemble(run)


def test_cap_on_members_and_target_folder_are_obeyed(run, tmp_path):
    report = build_ensemble(run, max_members=1, out=tmp_path / "elsewhere")
    assert len(report.members) == 1
    assert load_artifact(tmp_path / "elsewhere").manifest.members[0].weight == 1
    assert not (run / "ensemble").exists()


def test_failed_build_leaves_the_former_ensemble(run):
    build_ensemble(run)
    before = (run / "ensemble" / "SHA256SUMS").read_text()
    for trial in range(3):
        trial_folder(run, trial).validation.write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="no candidate for an ensemble"):
        build_ensemble(run)
    assert (run / "ensemble" / "SHA256SUMS").read_text() == before


def test_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="is not a run"):
        build_ensemble(tmp_path)


def test_run_whose_data_are_gone_is_refused(run):
    shutil.rmtree(run.parent / "data")
    with pytest.raises(DataError, match="There is no"):
        build_ensemble(run)


def test_command_prints_one_json_object_or_the_honest_headline(run):
    from typer import Typer

    from raysearch.cli import ensemble

    app = Typer()
    ensemble.register(app)
    result = CliRunner().invoke(app, [str(run), "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values == json.loads((run / "ensemble_report.json").read_text())
    arguments = ["--max-members", "2", "--max-params", "1M", "--max-latency-ms", "50"]
    result = CliRunner().invoke(app, [str(run), *arguments])
    assert "nested cross-validation" in result.stdout
    assert "optimistic" in result.stdout
    assert str(run / "ensemble") in result.stdout.replace("\n", "")


def test_unknown_objective_is_named_with_the_known_ones(run):
    from typer import Typer

    from raysearch.cli import ensemble

    app = Typer()
    ensemble.register(app)
    result = CliRunner().invoke(app, [str(run), "--objective", "auc"])
    assert isinstance(result.exception, ConfigError)
    assert "log_loss, accuracy, macro_f1" in str(result.exception)
