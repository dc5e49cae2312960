"""`compile: true` changes the speed of a run and nothing else."""

import pickle

import numpy as np
import pytest
import torch
from small_runs import assert_bitwise_equal, make_config, make_dataset, run_fit, timeless, weights

from raysearch.errors import FieldError
from raysearch.train.compiling import compiled


@pytest.mark.slow
def test_compiled_run_is_the_uncompiled_one_to_rounding_and_repeats_itself():
    """Dropout included, and under the same names of weights."""
    config = make_config("vgg", epochs=2, mixup=0.2, compile=True)
    dataset = make_dataset()
    plain = run_fit(config.model_copy(update={"compile": False}), dataset)
    first, second = run_fit(config, dataset), run_fit(config, dataset)
    for one, two, expected in zip(first, second, plain, strict=True):
        assert timeless(one.metrics) == timeless(two.metrics)
        assert timeless(one.metrics) == pytest.approx(timeless(expected.metrics), abs=1e-4)
        np.testing.assert_allclose(one.probs_VK, expected.probs_VK, atol=1e-4)
    assert_bitwise_equal(weights(first[-1].training), weights(second[-1].training))
    assert weights(first[-1].training).keys() == weights(plain[-1].training).keys()


@pytest.mark.parametrize(
    ("device", "said"),
    [("cpu", r"needs a C\+\+ compiler, but g\+\+ is not"), ("cuda", "a C compiler, but gcc or cl")],
)
def test_machine_without_a_compiler_is_told_so(monkeypatch, device, said):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.platform", "linux")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(FieldError, match=said) as caught:
        compiled(torch.nn.Linear(1, 1), torch.device(device))
    assert "set compile: false" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).field == ("compile",)


def test_compiler_that_the_environment_names_is_the_one_looked_for(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "here" if name == "ccache" else None)
    monkeypatch.setenv("CXX", "ccache g++")
    compiled(torch.nn.Linear(1, 1), torch.device("cpu"))
    monkeypatch.setenv("CXX", "nowhere")
    with pytest.raises(FieldError, match="nowhere is not on this machine"):
        compiled(torch.nn.Linear(1, 1), torch.device("cpu"))
