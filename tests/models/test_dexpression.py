"""The feature maps and parameter counts of DeXpression at 48 pixels."""

import pytest
import torch

from raysearch.models.dexpression import FeatEx, dexpression
from raysearch.models.registry import count_parameters


def test_feature_maps_have_the_sizes_of_the_48_pixel_version():
    network = dexpression(1, 7, 48).eval()
    x = torch.zeros(1, 1, 48, 48)
    sizes = [tuple((x := layer(x)).shape[1:]) for layer in (*network.stem, *network[1:])]
    assert sizes == [
        (64, 21, 21),
        (64, 21, 21),
        (64, 10, 10),
        (64, 10, 10),
        (272, 8, 8),
        (272, 6, 6),
        (9792,),
        (9792,),
        (7,),
    ]


@pytest.mark.parametrize("side", [27, 47, 48, 64, 224])
@pytest.mark.parametrize("blocks", [1, 2])
def test_any_side_fits_the_classifier(side, blocks):
    assert dexpression(3, 5, side, blocks=blocks)(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_one_block_has_the_parameters_counted_by_hand():
    stem, block = 49 * 64 + 64, 6240 + 179_920 + 4160
    assert count_parameters(dexpression(1, 7, 48, blocks=1)) == (
        stem + 2 * 64 + block + 272 * 8 * 8 * 7 + 7
    )


def test_featex_joins_the_convolved_and_the_pooled_path():
    block = FeatEx(64)
    x = torch.randn(2, 64, 9, 9)
    result = block(x)
    assert result.shape == (2, 272, 7, 7)
    pooled = torch.nn.functional.max_pool2d(x, 3, stride=1)
    expected = torch.nn.functional.conv2d(pooled, *block.pooled[1].parameters()).relu()
    torch.testing.assert_close(result[:, 208:], expected)
