"""`predict_probs` against the same computed by hand."""

import pytest
import torch
from small_runs import SIDE, make_config, make_dataset
from torch import nn

from raysearch.models.preprocess import Preprocess
from raysearch.models.registry import build_model
from raysearch.models.views import MIRRORED, SHIFTED, VIEWS, views_of
from raysearch.train.evaluate import predict_probs

IMAGES = make_dataset().train.images_NCHW[:37]


@pytest.fixture
def network() -> nn.Module:
    """With dropout and batch statistics that differ from the running ones."""
    torch.manual_seed(0)
    network = build_model(make_config("vgg").model, 1, 3, SIDE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture
def preprocess() -> Preprocess:
    return Preprocess("dataset", SIDE, [0.5], [0.25])


def by_hand(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(((images / 255) - 0.5) / 0.25).softmax(1)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("views", VIEWS)
def test_rows_are_probabilities_in_float32_on_the_cpu(network, preprocess, views, dtype):
    probs = predict_probs(network, preprocess, IMAGES, views=views, dtype=dtype)
    assert (probs.shape, probs.dtype, probs.device.type) == ((37, 3), torch.float32, "cpu")
    assert (probs >= 0).all()
    torch.testing.assert_close(probs.sum(1), torch.ones(37), atol=1e-6, rtol=0)


def test_probabilities_are_those_by_hand(network, preprocess):
    probs = predict_probs(network, preprocess, IMAGES)
    torch.testing.assert_close(probs, by_hand(network, IMAGES), atol=1e-6, rtol=1e-5)


def test_mirrored_probabilities_are_the_mean_of_both_views(network, preprocess):
    mean = (by_hand(network, IMAGES) + by_hand(network, IMAGES.flip(3))) / 2
    probs = predict_probs(network, preprocess, IMAGES, views=MIRRORED)
    torch.testing.assert_close(probs, mean, atol=1e-6, rtol=1e-5)
    mirrored = predict_probs(network, preprocess, IMAGES.flip(3), views=MIRRORED)
    torch.testing.assert_close(probs, mirrored, atol=1e-6, rtol=1e-5)


def test_shifted_probabilities_are_the_mean_of_ten_views(network, preprocess):
    seen = views_of(IMAGES.float(), SHIFTED)
    mean = torch.stack([by_hand(network, view) for view in seen]).mean(0)
    probs = predict_probs(network, preprocess, IMAGES, views=SHIFTED)
    torch.testing.assert_close(probs, mean, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 36, 37, 1000])
def test_batch_size_does_not_matter(network, preprocess, batch_size):
    probs = predict_probs(network, preprocess, IMAGES, batch_size=batch_size)
    torch.testing.assert_close(
        probs, predict_probs(network, preprocess, IMAGES), atol=1e-6, rtol=1e-5
    )


def test_bf16_is_near_fp32_and_not_the_same(network, preprocess):
    exact = predict_probs(network, preprocess, IMAGES)
    fast = predict_probs(network, preprocess, IMAGES, dtype=torch.bfloat16)
    torch.testing.assert_close(fast, exact, atol=0.03, rtol=0)
    assert not torch.equal(fast, exact)


def test_network_is_evaluated_not_trained(network, preprocess):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = predict_probs(network, preprocess, IMAGES)
    assert not network.training
    assert torch.equal(first, predict_probs(network, preprocess, IMAGES))  # no dropout
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_images_give_no_rows(network, preprocess):
    assert predict_probs(network, preprocess, IMAGES[:0], views=MIRRORED).shape == (0, 3)
