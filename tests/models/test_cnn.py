"""Plain CNNs: six documented layouts by their parameter counts, and what each option changes."""

import pytest
import torch
from torch import nn

from raysearch.models.cnn import cnn
from raysearch.models.registry import count_parameters


def layers_of(network: nn.Sequential) -> list[nn.Module]:
    return [*network.blocks, network.flatten, *network.dense]


def maps(network: nn.Sequential, side: int = 48) -> list[tuple[int, int]]:
    """Channels and side after each convolution and each pooling that reduces."""
    x, found = torch.zeros(2, 1, side, side), []
    for layer in layers_of(network):
        before, x = x, layer(x)
        if isinstance(layer, nn.Conv2d) or (x.ndim == 4 and x.shape != before.shape):
            found.append((x.shape[1], x.shape[2]))
    return found


@pytest.mark.parametrize(
    "options, parameters",
    [
        (
            {
                "blocks": [96, 256, 384],
                "kernels": [11, 5, 3],
                "stride": 4,
                "pools": [2, 2, 1],
                "hidden": [4096, 1000],
                "norm": "all",
            },
            19_787_045,
        ),
        (
            {
                "blocks": [96, 48],
                "kernels": [11, 3],
                "stride": 4,
                "pools": [2, 1],
                "hidden": [1048, 128],
            },
            2_000_399,
        ),
        (
            {
                "blocks": [48, 16],
                "kernels": [5, 3],
                "stride": 2,
                "pools": [2, 1],
                "hidden": [256, 64],
            },
            615_159,
        ),
        ({"blocks": [32, 64], "kernels": [5, 3], "hidden": 64}, 609_671),
        (
            {"blocks": [[32, 32], [64, 64], [96, 96], [128, 128]], "pools": [2, 2, 2, 3]},
            528_295,
        ),
        ({}, 647_111),
    ],
    ids=["96-256-384", "96-48", "48-16", "tuned", "vgg19-like", "improved"],
)
def test_documented_layouts_have_the_documented_parameters(options, parameters):
    with torch.device("meta"):
        assert count_parameters(cnn(1, 7, 48, **options)) == parameters


def test_maps_are_padded_and_reduced_by_stride_and_pools_alone():
    network = cnn(1, 7, 50, blocks=[8, [16, 16], 4], kernels=[7, 3, 5], stride=4, pools=[2, 3, 1])
    assert maps(network, 50) == [(8, 13), (8, 6), (16, 6), (16, 6), (16, 2), (4, 2)]


def test_activations_norms_and_dropout_stand_where_asked():
    network = cnn(
        1,
        7,
        16,
        blocks=[4, 8],
        hidden=[6, 5],
        activation="elu",
        hidden_activation="sigmoid",
        norm="all",
        block_dropout=[0.1, 0.2],
        dropout=[0.3, 0.4],
    )
    layers = layers_of(network)
    names = [type(layer).__name__ for layer in layers]
    block = ["Conv2d", "BatchNorm2d", "ELU", "MaxPool2d", "Dropout"]
    dense = ["Linear", "BatchNorm1d", "Sigmoid", "Dropout"]
    assert names == [*block, *block, "Flatten", *dense, *dense, "Linear", "BatchNorm1d"]
    rates = [layer.p for layer in layers if isinstance(layer, nn.Dropout)]
    assert rates == [0.1, 0.2, 0.3, 0.4]


def test_weights_start_within_glorots_bound_and_biases_at_zero():
    network = cnn(3, 7, 32, blocks=[8], kernels=5, hidden=[16])
    for layer in layers_of(network):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            taps = layer.weight[0, 0].numel()
            bound = (6 / (taps * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert not layer.bias.any()
