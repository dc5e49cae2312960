"""DCNN on pixels and on oriented gradients."""

import pytest
import torch
from torch import nn

from raysearch.models.dcnn import dcnn, hog_dcnn
from raysearch.models.hog import Hog


def test_dcnn_has_the_published_parameters():
    with torch.device("meta"):
        network = dcnn(1, 7, 48)
    running = [b for name, b in network.named_buffers() if "running" in name]
    assert sum(values.numel() for values in [*network.parameters(), *running]) == 2_395_591


def test_dropout_has_the_published_places_and_rates():
    rates = [layer.p for layer in dcnn(1, 7, 48) if isinstance(layer, nn.Dropout)]
    assert rates == [0.4, 0.4, 0.5, 0.6]


def test_weights_start_with_hes_variance():
    torch.manual_seed(0)
    for layer in dcnn(1, 7, 48):
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side, cell, map_side", [(48, 4, 11), (48, 2, 23), (100, 8, 11)])
def test_hog_dcnn_sees_the_map_of_normalized_blocks(channels, side, cell, map_side):
    network = hog_dcnn(channels, 6, side, cell=cell).eval()
    x = torch.rand(2, channels, side, side)
    features = network[0](x)
    assert features.shape == (2, 36, map_side, map_side)
    torch.testing.assert_close(features, Hog(side, cell=cell).cells(x))
    assert network(x).shape == (2, 6)


def test_hog_dcnn_ignores_brightness_and_contrast():
    network = hog_dcnn(1, 7, 48).eval()
    x = torch.rand(3, 1, 48, 48)
    torch.testing.assert_close(network(3 * x + 1), network(x), atol=1e-3, rtol=1e-3)
