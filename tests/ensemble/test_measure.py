"""What is counted and timed of a trial's network, and when it is done again."""

import json

import pytest
import torch
from small_ensembles import CLASSES

from raysearch.config import TrainConfig
from raysearch.ensemble import latency, measure
from raysearch.ensemble.network import untrained_backbone
from raysearch.train.trial import TrialFolder, TrialRecord


def make_record(trial, model, image_size=20, side=20, classes=CLASSES):
    train = TrainConfig.model_validate({"model": model, "image_size": image_size, "seed": trial})
    return TrialRecord(trial, train, classes, (1, side, side), (0.4,), (0.25,), "data", 99)


MLP = {"name": "mlp", "hidden": [8]}


@pytest.fixture
def run(tmp_path):
    for trial in range(3):
        (tmp_path / "trials" / f"{trial:04d}").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def records():
    return {0: make_record(0, MLP), 1: make_record(1, MLP), 2: make_record(2, MLP, image_size=16)}


def cost_file(run, trial):
    return TrialFolder(run / "trials" / f"{trial:04d}").cost


def test_parameters_bytes_and_operations_of_a_perceptron_by_hand():
    cost = measure.count(make_record(0, MLP))
    _, network = make_record(0, MLP).build()
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert cost.flops == 2 * sum(m.in_features * m.out_features for m in linear)
    assert cost.params == sum(p.numel() for p in network.parameters())
    assert cost.bytes >= 4 * cost.params


def test_equal_architectures_are_measured_once_and_remembered(run, records, monkeypatch):
    measured = []

    def fake(records, seconds=0.0):
        measured.extend(records.values())
        return {key: {1: 1.5, 2: 2.5, 10: 9.0, 64: 30.0} for key in records}

    monkeypatch.setattr(measure, "measure_latencies", fake)
    costs, faults = measure.network_costs(run, records)
    assert not faults
    assert costs[0] == costs[1] != costs[2]
    assert costs[0].latency_ms is None
    costs, _ = measure.with_latency(run, records, costs, [0, 2])
    assert [record.trial for record in measured] == [0, 2]
    assert costs[1].latency_ms == {1: 1.5, 2: 2.5, 10: 9.0, 64: 30.0}
    known, _ = measure.network_costs(run, records)
    again, _ = measure.with_latency(run, records, known, [0, 1, 2])
    assert again == costs
    assert len(measured) == 2


def cost_of(run, record):
    costs, faults = measure.network_costs(run, {record.trial: record})
    assert not faults
    return costs[record.trial]


def test_what_was_measured_on_another_machine_or_network_is_not_believed(run, records, monkeypatch):
    cost = cost_of(run, records[0])
    latency = {1: 1.5, 2: 2.5, 10: 9.0, 64: 30.0}
    monkeypatch.setattr(
        measure, "measure_latencies", lambda records: dict.fromkeys(records, latency)
    )
    measure.with_latency(run, records, {0: cost}, [0])
    assert cost_of(run, records[0]).latency_ms == latency
    values = json.loads(cost_file(run, 0).read_text())
    cost_file(run, 0).write_text(json.dumps(values | {"machine": "another"}))
    assert cost_of(run, records[0]).latency_ms is None
    cost_file(run, 0).write_text(json.dumps(values | {"latency_ms": {"1": 1.5, "2": 2.5}}))
    assert cost_of(run, records[0]).latency_ms is None, "of fewer batches than are asked for now"
    cost_file(run, 0).write_text(json.dumps(values | {"architecture": "another", "flops": 1}))
    assert cost_of(run, records[0]) == cost


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"architecture": 5}'])
def test_a_torn_cost_file_is_made_again(run, records, text):
    expected = cost_of(run, records[0])
    cost_file(run, 0).write_text(text)
    assert cost_of(run, records[0]) == expected


def test_a_network_is_counted_the_same_without_values(records):
    for model in (MLP, {"name": "hog_dcnn"}, {"name": "vgg", "width": 4, "depth": 4}):
        record = make_record(0, model, image_size=48, side=20)
        assert measure.count_or_fault(record) == measure.count(record)


def test_networks_that_differ_in_dropout_alone_are_one(run):
    rates = [0.0, 0.1, 0.3]
    records = {i: make_record(i, MLP | {"dropout": rate}) for i, rate in enumerate(rates)}
    assert len({measure.architecture(record) for record in records.values()}) == 1
    assert measure.architecture(make_record(0, MLP)) != measure.architecture(
        make_record(0, {"name": "mlp", "hidden": [9]})
    )


def test_a_network_that_cannot_be_built_is_a_fault_of_its_trials_alone(run, records):
    records[1] = make_record(1, {"name": "gone", "width": 3})
    costs, faults = measure.network_costs(run, records)
    assert sorted(costs) == [0, 2]
    assert list(faults) == [1] and "no network 'gone'" in faults[1]


def test_a_network_that_cannot_be_exported_is_a_fault_of_its_trials_alone(
    run, records, monkeypatch
):
    export = latency.session_of

    def refuse(record, path):
        if record.train.image_size == 16:
            raise RuntimeError("no such operator")
        return export(record, path)

    monkeypatch.setattr(latency, "session_of", refuse)
    monkeypatch.setattr(latency, "_ROUNDS", 1)
    costs, _ = measure.network_costs(run, records)
    found, faults = measure.with_latency(run, records, costs, [0, 1, 2])
    assert found[0].latency_ms and found[0].latency_ms == found[1].latency_ms
    assert found[2] == costs[2]
    assert list(faults) == [2] and "no such operator" in faults[2]


@pytest.mark.parametrize(
    "record",
    [
        make_record(0, MLP),
        make_record(0, {"name": "vgg", "width": 4, "depth": 4}, image_size=16),
        make_record(0, {"name": "vgg", "width": 4, "depth": 4}, image_size=24),
    ],
    ids=["perceptron", "shrinking", "enlarging"],
)
def test_latencies_are_of_graphs_that_say_what_the_network_says(record, tmp_path):
    session = latency.session_of(record, tmp_path / "network.onnx")
    (found,) = latency.take_turns([session], [record.shape], seconds=0.05)
    assert list(found) == [1, 2, 10, 64]
    assert all(ms > 0 for ms in found.values())
    backbone = untrained_backbone(record)
    images = torch.randint(0, 256, (3, *record.shape), dtype=torch.uint8)
    (probs,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.tensor(probs), backbone(images)[0], atol=1e-5, rtol=0)


def test_a_network_that_the_older_exporter_does_not_know_is_measured_all_the_same(
    tmp_path, monkeypatch, capsys
):
    def refuse(*arguments, dynamo=True, export=torch.onnx.export, **options):
        if not dynamo:
            print("a graph of a thousand lines")
            raise torch.onnx.errors.UnsupportedOperatorError("aten::new", 18, None)
        return export(*arguments, dynamo=True, **options)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    found = latency.measure_latencies({"": make_record(0, MLP)}, seconds=0.05)
    assert found[""][1] > 0
    assert "thousand lines" not in capsys.readouterr().out
