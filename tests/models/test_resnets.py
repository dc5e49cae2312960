"""Residual networks: depth, width, maps, and the start as the identity."""

import pytest
import torch
from torch import nn

from raysearch.models.preact import PreActBlock, se_resnet, wide_resnet
from raysearch.models.registry import count_parameters
from raysearch.models.resnet import BasicBlock, resnet


def block_shapes(network: nn.Sequential, side: int = 48) -> list[tuple[int, int]]:
    x, shapes = torch.zeros(2, 1, side, side), []
    for layer in network:
        x = layer(x)
        if isinstance(layer, (BasicBlock, PreActBlock)):
            shapes.append((x.shape[1], x.shape[2]))
    return shapes


@pytest.mark.parametrize(
    "network, layers",
    [
        (lambda: resnet(1, 7, 48, width=8), 18),
        (lambda: resnet(1, 7, 48, width=8, blocks=1), 10),
        (lambda: se_resnet(1, 7, 48, width=8), 18),
        (lambda: se_resnet(1, 7, 48, width=8, depth=34), 34),
    ],
)
def test_depth_is_the_3x3_convolutions_and_the_classifier(network, layers):
    convolutions = [m for m in network().modules() if isinstance(m, nn.Conv2d)]
    assert sum(conv.kernel_size == (3, 3) for conv in convolutions) + 1 == layers


def test_stages_of_the_narrow_resnet():
    shapes = block_shapes(resnet(1, 7, 48, width=8, blocks=1))
    assert shapes == [(8, 48), (16, 24), (32, 12), (32, 6)]


def test_stages_of_the_excited_resnet():
    shapes = block_shapes(se_resnet(1, 7, 47, width=8), 47)
    assert shapes[::2] == [(8, 47), (16, 24), (32, 12), (64, 6)]


def test_stages_of_the_wide_resnet():
    shapes = block_shapes(wide_resnet(1, 7, 48, depth=16, width=2))
    assert shapes[::2] == [(32, 48), (64, 24), (128, 12)]


@pytest.mark.parametrize(
    "depth, width, millions", [(16, 8, 11.0), (28, 10, 36.5), (22, 8, 17.2), (40, 4, 8.9)]
)
def test_wide_resnets_have_the_sizes_of_the_papers_table(depth, width, millions):
    with torch.device("meta"):
        network = wide_resnet(3, 10, 32, depth=depth, width=width)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_blocks_are_skipped_more_often_the_deeper_they_are(drop_path):
    for network in (
        resnet(1, 7, 48, width=8, drop_path=drop_path),
        se_resnet(1, 7, 48, width=8, drop_path=drop_path),
        wide_resnet(1, 7, 48, width=1, depth=28, drop_path=drop_path),
    ):
        blocks = [b for b in network if isinstance(b, (BasicBlock, PreActBlock))]
        rates = [block.drop_path.drop_prob for block in blocks]
        expected = torch.linspace(0, drop_path, len(blocks)).tolist()
        assert rates == pytest.approx(expected)


def test_narrow_resnet_starts_as_its_shortcuts():
    block = BasicBlock(4, 4, 1, dropout=0.0, drop_path=0.0)
    network = resnet(1, 7, 16, width=4, blocks=2)
    blocks = [layer for layer in network if isinstance(layer, BasicBlock)]
    x = torch.randn(3, 4, 9, 9)
    torch.testing.assert_close(blocks[1](x), x.relu())
    assert not torch.allclose(block(x), x.relu())


def test_preactivated_block_is_the_formula_of_the_paper():
    block = PreActBlock(4, 6, 2, nn.Identity(), drop_path=0.0, excite=False).eval()
    x = torch.randn(2, 4, 9, 9)
    active = nn.functional.relu(block.norm1(x))
    branch = block.conv2(nn.functional.relu(block.norm2(block.conv1(active))))
    torch.testing.assert_close(block(x), block.shortcut(active) + branch)
    assert block(x).shape == (2, 6, 5, 5)


def test_excitation_scales_whole_channels_between_0_and_1():
    block = PreActBlock(32, 32, 1, nn.Identity(), drop_path=0.0, excite=True).eval()
    plain = PreActBlock(32, 32, 1, nn.Identity(), drop_path=0.0, excite=False).eval()
    plain.load_state_dict(block.state_dict(), strict=False)
    x = torch.randn(2, 32, 8, 8)
    excited, branch = block(x) - x, plain(x) - x
    scale = (excited * branch).sum((2, 3), keepdim=True) / branch.square().sum((2, 3), keepdim=True)
    torch.testing.assert_close(excited, scale * branch)
    assert (scale > 0).all() and (scale < 1).all()


@pytest.mark.parametrize("builder", [resnet, se_resnet, wide_resnet])
def test_channels_last_bf16_gives_finite_logits_and_gradients(builder):
    network = builder(1, 7, 24, width=2).to(memory_format=torch.channels_last)
    x = torch.randn(4, 1, 24, 24).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(x).float().square().sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
