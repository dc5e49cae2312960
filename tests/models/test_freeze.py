"""Layer groups: what they hold, how deep they go, and what freezing them leaves to learn."""

import pytest
import torch
from torch import nn

from raysearch.config import ModelConfig
from raysearch.errors import ConfigError
from raysearch.models.freeze import (
    freeze,
    frozen_tensors,
    head_names,
    layer_groups,
    train_mode,
)
from raysearch.models.registry import build_model, check_model

SIDE = 32
DEPTHS = [
    ({"name": "mlp", "hidden": [8, 8, 8]}, 3),
    ({"name": "vgg", "width": 4, "depth": 7}, 7),
    ({"name": "vgg", "width": 4, "depth": 9, "residual": True}, 9),
    ({"name": "dexpression"}, 3),
    ({"name": "mini_xception"}, 6),
    ({"name": "cnn", "blocks": [4, [4, 4]], "hidden": [8], "norm": "all"}, 4),
    ({"name": "dcnn"}, 7),
    ({"name": "hog_dcnn", "cell": 2}, 7),
    ({"name": "resnet", "width": 4}, 9),
    ({"name": "se_resnet", "width": 4}, 9),
    ({"name": "wide_resnet", "width": 1}, 7),
    ({"name": "timm/test_resnet", "head_hidden": [8]}, 5),
    ({"name": "timm/resnet18"}, 9),
    ({"name": "timm/resnet50", "stem": "imagenet"}, 17),
    ({"name": "timm/mobilenetv2_100"}, 18),
    ({"name": "timm/convnext_atto"}, 13),
    ({"name": "timm/vit_tiny_patch16_224"}, 13),
    ({"name": "timm/vgg11_bn", "stem": "imagenet"}, 16),
    ({"name": "timm/test_resnet"}, 5),
    ({"name": "timm/test_vit"}, 7),
]
"""Networks, and how many groups theirs are by hand: convolutions and blocks without the head."""
each_network = pytest.mark.parametrize(
    "options, depth", DEPTHS, ids=lambda value: value["name"] if isinstance(value, dict) else ""
)


@each_network
def test_every_parameter_is_in_one_group_or_the_head(options, depth):
    network = check_model(ModelConfig(**options), SIDE)
    groups = layer_groups(network)
    names = [name for group in groups for name in group] + sorted(head_names(network))
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert len(groups) == depth


def test_groups_of_a_resnet_are_its_stem_and_its_blocks():
    groups = layer_groups(check_model(ModelConfig(name="timm/resnet18"), SIDE))
    heads = [{name.rpartition(".")[0].rpartition(".")[0] for name in group} for group in groups]
    assert groups[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for names, block in zip(heads[1:], blocks, strict=True):
        assert all(name.startswith(block) for name in names)


def test_norms_belong_to_the_convolution_before_them_wherever_it_is_nested():
    def layer(wide: int) -> list[nn.Module]:
        return [nn.Conv2d(wide, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]

    head = [nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2)]
    network = nn.Sequential(nn.Sequential(*layer(1), nn.Sequential(*layer(4))), *head)
    assert layer_groups(network) == [
        ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"],
        ["0.3.0.weight", "0.3.0.bias", "0.3.1.weight", "0.3.1.bias"],
    ]
    assert head_names(network) == {"2.weight", "2.bias", "3.weight", "3.bias"}


def test_head_of_a_timm_network_is_all_that_timm_groups_with_the_classifier():
    network = check_model(ModelConfig(name="timm/vgg11_bn", stem="imagenet"), SIDE)
    layers = {name.rpartition(".")[0] for name in head_names(network)}
    assert layers == {"pre_logits.fc1", "pre_logits.fc2", "head.fc"}


@pytest.mark.parametrize(
    "options, depth", [DEPTHS[1], DEPTHS[2], DEPTHS[8], *DEPTHS[-2:]], ids=lambda v: str(v)[:24]
)
def test_frozen_layers_get_no_gradient_keep_no_graph_and_stand_still(options, depth):
    torch.manual_seed(0)
    network = build_model(ModelConfig(**options), 1, 7, SIDE)
    depth = depth // 2
    freeze(network, depth)
    frozen = {name for group in layer_groups(network)[:depth] for name in group}
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == frozen
    with_graph = watch_graphs(network)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    train_mode(network)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network(torch.randn(2, 1, SIDE, SIDE)).square().sum().backward()
        optimizer.step()
    after, still = network.state_dict(), frozen_tensors(network)
    assert frozen <= still
    for name, tensor in network.named_parameters():
        assert (tensor.grad is None) == (name in frozen)
    assert {name for name in after if torch.equal(before[name], after[name])} >= still
    learns = [n for n, p in network.named_parameters() if p.requires_grad and p.grad.any()]
    assert not any(torch.equal(before[name], after[name]) for name in learns)
    assert with_graph and not with_graph & still


def watch_graphs(network: nn.Module) -> set[str]:
    """Gets the weights of the layers whose outputs autograd keeps, while the network runs."""
    seen: set[str] = set()
    for path, module in network.named_modules():
        names = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}

        def after(_, inputs, output, names=names):
            if output.requires_grad:
                seen.update(names)

        if names:
            module.register_forward_hook(after)
    return seen


def test_frozen_norms_and_dropout_stay_in_evaluation():
    network = build_model(
        ModelConfig(name="vgg", width=4, depth=7, residual=True, block_dropout=0.5), 1, 7, SIDE
    )
    freeze(network, 5)
    train_mode(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.training for norm in norms] == [False] * 5 + [True] * 2
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout2d)]
    assert {drop.training for drop in drops} == {True, False}
    network.eval()
    train_mode(network)
    assert [norm.training for norm in norms] == [False] * 5 + [True] * 2


CNN = {"name": "cnn", "blocks": [4, [4, 4], 4], "block_dropout": 0.5, "hidden": [8, 8]}
RATES = {"block_dropout": 0.5, "dropout": 0.5}


@pytest.mark.parametrize(
    "options, depth, dropping",
    [
        (CNN, 1, [True] * 5),
        (CNN, 2, [False, True, True, True, True]),
        (CNN, 5, [False, False, False, True, True]),  # the blocks, and the first of two layers
        (CNN, 6, [False, False, False, False, True]),
        ({"name": "dcnn", **RATES}, 2, [True] * 4),
        ({"name": "dcnn", **RATES}, 3, [False, True, True, True]),
        ({"name": "dcnn", **RATES}, 7, [False, False, False, True]),
        ({"name": "hog_dcnn", "cell": 2, **RATES}, 5, [False, False, True, True]),
    ],
    ids=str,
)
def test_nothing_is_dropped_between_frozen_layers(options, depth, dropping):
    torch.manual_seed(0)
    network = build_model(ModelConfig(**options), 1, 7, SIDE)
    freeze(network, depth)
    seen, modules = [], dict(network.named_modules())
    last = layer_groups(network)[depth - 1][-1].rpartition(".")[0]
    modules[last].register_forward_hook(lambda *given: seen.append(given[-1].clone()))
    x_NCHW = torch.rand(2, 1, SIDE, SIDE)
    for mode in (train_mode, nn.Module.eval):
        mode(network)
        network(x_NCHW)
    assert torch.equal(*seen)
    train_mode(network)
    assert [m.training for m in network.modules() if isinstance(m, nn.Dropout)] == dropping


@pytest.mark.parametrize("options, depth", [DEPTHS[1], DEPTHS[-2]], ids=["vgg", "resnet"])
def test_head_learns_even_where_all_groups_are_frozen(options, depth):
    network = build_model(ModelConfig(**options), 1, 7, SIDE)
    freeze(network, depth)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == head_names(network)
    with pytest.raises(ConfigError, match=f"is {depth + 1}, but .* has {depth} layer groups"):
        freeze(network, depth + 1)


def test_nothing_is_frozen_at_depth_0():
    network = build_model(ModelConfig(name="vgg", width=4), 1, 7, SIDE)
    freeze(network, 0)
    train_mode(network)
    assert not frozen_tensors(network)
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())
