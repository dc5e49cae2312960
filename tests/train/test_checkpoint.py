"""States and weights that go to disk and come back, and files that do not."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_runs import SIDE, assert_bitwise_equal, make_config, make_dataset, run_fit, weights

from raysearch.models.registry import build_model
from raysearch.train.checkpoint import load_state, save_state, save_weights
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training

CPU = torch.device("cpu")


def test_state_comes_back_bitwise(tmp_path):
    config, dataset = make_config("vgg", epochs=1), make_dataset()
    training = run_fit(config, dataset)[-1].training
    save_state(tmp_path / "checkpoint", training.state_dict())
    other = Training(config, dataset, CPU, Workers())
    other.load_state_dict(load_state(tmp_path / "checkpoint"))
    assert_bitwise_equal(weights(other), weights(training))
    assert (other.epoch, other.average.updates) == (1, training.average.updates)
    layout = [p.is_contiguous(memory_format=torch.channels_last) for p in network_4d(other)]
    assert all(layout)


def network_4d(training: Training) -> list[torch.Tensor]:
    return [p for p in training.network.parameters() if p.ndim == 4]


def test_newer_state_replaces_the_older_and_leaves_nothing_beside_it(tmp_path):
    for epoch in (1, 2):
        save_state(tmp_path, {"epoch": epoch})
    assert load_state(tmp_path) == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_absent_state_is_none(tmp_path):
    assert load_state(tmp_path / "nothing") is None


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("state")
    save_state(folder, {"epoch": 1, "weights": torch.arange(100.0)})
    return (folder / "state.pt").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=40)
@given(data=st.data())
def test_truncated_state_is_none(saved_bytes, scratch, data):
    length = data.draw(st.integers(0, len(saved_bytes) - 1))
    (scratch / "state.pt").write_bytes(saved_bytes[:length])
    assert load_state(scratch) is None


@settings(max_examples=40)
@given(junk=st.binary(max_size=300))
def test_bytes_that_are_no_state_are_none(scratch, junk):
    (scratch / "state.pt").write_bytes(junk)
    assert load_state(scratch) is None


def test_state_of_zeros_is_none(saved_bytes, tmp_path):
    """What a file system may leave of a file after a power cut."""
    (tmp_path / "state.pt").write_bytes(bytes(len(saved_bytes)))
    assert load_state(tmp_path) is None


class Planted:
    def __reduce__(self):
        return (open, ("planted", "w"))


def test_state_that_would_run_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 1, "network": Planted()}, tmp_path / "state.pt")
    assert load_state(tmp_path) is None
    (tmp_path / "state.pt").write_bytes(pickle.dumps(Planted(), protocol=2))
    assert load_state(tmp_path) is None
    assert not (tmp_path / "planted").exists()


def test_weights_are_plain_safetensors_with_their_buffers(tmp_path):
    network = build_model(make_config("vgg").model, 1, 3, SIDE)
    network = network.to(memory_format=torch.channels_last)
    save_weights(tmp_path / "best" / "model.safetensors", network)
    loaded = load_file(tmp_path / "best" / "model.safetensors")
    assert_bitwise_equal(loaded, dict(network.state_dict()))
    assert all(tensor.is_contiguous() for tensor in loaded.values())
    assert any("running_mean" in name for name in loaded)
