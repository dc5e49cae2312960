"""mini_XCEPTION as published: its size as Keras counts it, its shapes, its residual sum."""

import pytest
import torch
from torch import nn

from raysearch.models.xception import SeparableResidual, mini_xception, tiny_xception


def keras_count(network: nn.Module) -> int:
    """Parameters and the running means and variances, which Keras counts too."""
    running = [b for name, b in network.named_buffers() if "running" in name]
    return sum(values.numel() for values in [*network.parameters(), *running])


def test_mini_xception_has_the_published_parameters():
    assert keras_count(mini_xception(1, 7, 64)) == 58_423
    assert keras_count(mini_xception(1, 7, 48)) == 58_423


def test_tiny_xception_has_the_parameters_counted_by_hand():
    def module(a: int, b: int) -> int:
        return a * b + 9 * a + a * b + 9 * b + b * b + 3 * 4 * b

    modules = module(5, 8) + module(8, 16) + module(16, 32) + module(32, 64)
    stem = 9 * 5 + 9 * 5 * 5 + 2 * 4 * 5
    assert keras_count(tiny_xception(1, 7, 64)) == stem + modules + 9 * 64 * 7 + 7


@pytest.mark.parametrize("side", [8, 9, 48, 63, 64])
def test_any_side_and_channels(side):
    for channels in (1, 3):
        logits = mini_xception(channels, 5, side)(torch.zeros(2, channels, side, side))
        assert logits.shape == (2, 5)


def test_width_scales_every_layer():
    wide = mini_xception(1, 7, 48, width=16)
    channels = [layer.out_channels for layer in wide.modules() if isinstance(layer, nn.Conv2d)]
    narrow = mini_xception(1, 7, 48)
    expected = [layer.out_channels for layer in narrow.modules() if isinstance(layer, nn.Conv2d)]
    doubled = [2 * c for c in expected[:-1]] + [7]
    assert channels == doubled


def test_module_is_the_sum_of_its_paths_at_half_the_side():
    module = SeparableResidual(4, 6).eval()
    x = torch.randn(2, 4, 11, 11)
    result = module(x)
    assert result.shape == (2, 6, 6, 6)
    torch.testing.assert_close(result, module.body(x) + module.shortcut(x))
