"""What every network must do, each in its smallest useful form, and the registry's refusals."""

import pytest
import torch
from torch.nn import functional as F

from raysearch.config import ModelConfig
from raysearch.errors import ConfigError
from raysearch.models.registry import BUILDERS, build_model, check_model, count_parameters

NETWORKS = [
    {"name": "vgg", "width": 8},
    {"name": "vgg", "width": 8, "depth": 13, "residual": True, "block_dropout": 0.1},
    {"name": "resnet", "width": 16, "blocks": 1, "block_dropout": 0.1, "drop_path": 0.2},
    {"name": "se_resnet", "width": 8, "drop_path": 0.2},
    {"name": "wide_resnet", "depth": 10, "width": 1},
    {"name": "cnn", "blocks": [8, [16, 16]], "kernels": [5, 3], "norm": "convolutions"},
    {"name": "cnn", "blocks": [8, 8], "pools": [2, 4], "hidden": [16, 8], "norm": "all"},
    {"name": "mlp", "hidden": [32, 16]},
    {"name": "mlp", "hidden": 16, "activation": "sigmoid"},
    {"name": "dcnn"},
    {"name": "hog_dcnn"},
    {"name": "dexpression"},
    {"name": "dexpression", "blocks": 1},
    {"name": "mini_xception"},
    {"name": "tiny_xception", "dropout": 0.2},
    {"name": "timm/resnet18"},
    {"name": "timm/mobilenetv2_100", "stem": "imagenet", "drop_path": 0.1},
    {"name": "timm/resnet18", "head_hidden": [32], "dropout": 0.1},
]
SIDE = 48


def build(options: dict, channels: int = 1, classes: int = 7, side: int = SIDE) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(**options), channels, classes, side)


def images(count: int, channels: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


each_network = pytest.mark.parametrize(
    "options", NETWORKS, ids=lambda options: "-".join(map(str, options.values()))
)


def test_every_registered_network_is_under_the_contract():
    assert {options["name"] for options in NETWORKS} >= set(BUILDERS)


@each_network
@pytest.mark.parametrize("channels, classes", [(1, 7), (3, 4)])
def test_images_become_one_finite_logit_per_class(options, channels, classes):
    logits = build(options, channels, classes)(images(4, channels))
    assert logits.shape == (4, classes) and logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@each_network
def test_gradient_reaches_every_parameter(options):
    network = build({**options, "drop_path": 0.0} if "drop_path" in options else options)
    with torch.no_grad():  # some residual branches begin with a scale of exactly 0
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    loss = F.cross_entropy(network(images(8)), torch.arange(8) % 7)
    loss.backward()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not without


@each_network
def test_evaluation_is_deterministic_and_per_image(options):
    network = build(options).eval()
    batch = images(6)
    with torch.no_grad():
        whole = network(batch)
        assert torch.equal(whole, network(batch))
        torch.testing.assert_close(whole[2:4], network(batch[2:4]), atol=1e-4, rtol=1e-4)


@each_network
def test_equal_seeds_give_equal_weights(options):
    first, again = build(options).state_dict(), build(options).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@each_network
def test_exported_graph_gives_the_same_logits_at_any_batch_size(options):
    network = build(options).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(network, (images(4),), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images(7)), network(images(7)), atol=1e-4, rtol=1e-4)


@each_network
def test_check_agrees_with_building_and_leaves_randomness_alone(options):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    check_model(ModelConfig(**options), SIDE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({"name": "mlp", "hidden": [10]}, 2304 * 10 + 10 + 10 * 7 + 7),
        ({"name": "mlp", "hidden": [128, 64, 32]}, 305_607),
        ({"name": "mlp", "hidden": [256, 64], "dropout": [0.5, 0.2]}, 606_983),
        ({"name": "mlp", "hidden": [512, 64], "activation": "sigmoid"}, 1_213_447),
        ({"name": "cnn"}, 647_111),
        ({"name": "dcnn"}, 2_395_591 - 2 * (2 * (64 + 128 + 256) + 128)),
        ({"name": "dexpression"}, 485_671 + 2 * 64),
        ({"name": "mini_xception"}, 58_423 - 2 * 736),
    ],
)
def test_parameters_are_those_of_the_publication(options, parameters):
    assert count_parameters(build(options)) == parameters


def test_frozen_parameters_count_too():
    network = build({"name": "mlp", "hidden": [10]})
    network[-1].requires_grad_(False)
    assert count_parameters(network) == 2304 * 10 + 10 + 10 * 7 + 7


@pytest.mark.parametrize(
    "options, side, message",
    [
        ({"name": "dexpresion"}, 48, "did you mean 'dexpression'"),
        ({"name": "resnte"}, 48, r"did you mean 'resnet'\?.* and timm/<name>"),
        ({"name": "resnet18"}, 48, "did you mean 'timm/resnet18'"),
        ({"name": "timm/resnet81"}, 48, "did you mean 'resnet"),
        ({"name": "vgg", "widht": 32}, 48, "did you mean 'width'"),
        ({"name": "timm/resnet18", "name_": "x"}, 48, "stem, dropout, drop_path"),
        ({"name": "vgg", "depth": 14}, 48, "from 4 to 13, but got 14"),
        ({"name": "vgg", "width": 0}, 48, "width: Input should be greater than 0, but got 0"),
        ({"name": "vgg", "width": "wide"}, 48, "valid integer.* but got 'wide'"),
        ({"name": "mini_xception", "dropout": 1.5}, 48, "dropout: .*less than or equal to 1"),
        ({"name": "dexpression", "blocks": 3}, 48, "blocks: Input should be 1 or 2, but got 3"),
        ({"name": "mlp", "hidden": [0]}, 48, "hidden: Input should be greater than 0"),
        ({"name": "mlp", "hidden": [8, 8], "dropout": [0.1]}, 48, "list of 2, one a layer, but"),
        ({"name": "mlp", "activation": "swish"}, 48, "activation: .* but got 'swish'"),
        ({"name": "cnn", "kernels": 4}, 48, "kernels must be odd, but got .4"),
        ({"name": "cnn", "kernels": [3, 3]}, 48, "kernels must be one value or a list of 4"),
        ({"name": "cnn", "pools": [2, 2]}, 48, "pools must be one value or a list of 4"),
        ({"name": "cnn", "blocks": []}, 48, "blocks: .* at least 1"),
        ({"name": "wide_resnet", "depth": 18}, 48, "4 and a multiple of 6, .* but got 18"),
        ({"name": "wide_resnet", "depth": 4}, 48, "at least 10, but got 4"),
        ({"name": "se_resnet", "depth": 50}, 48, "18 or 34, but got 50"),
        ({"name": "dcnn", "block_dropout": [0.4]}, 48, "block_dropout must be .* list of 3"),
        ({"name": "timm/resnet18", "stem": "tiny"}, 48, "'small' or 'imagenet', but got 'tiny'"),
        ({"name": "vgg"}, 15, "image_size >= 16, but got 15"),
        ({"name": "dexpression"}, 26, "image_size >= 27, but got 26"),
        ({"name": "dexpression", "blocks": 1}, 18, "image_size >= 19, but got 18"),
        ({"name": "cnn"}, 15, "image_size >= 16, but got 15"),
        ({"name": "cnn", "stride": 4}, 60, "stride 4 .* image_size >= 61, but got 60"),
        ({"name": "hog_dcnn"}, 35, "image_size >= 36, but got 35. Make cell smaller"),
        ({"name": "hog_dcnn", "cell": 8}, 71, "image_size >= 72, but got 71"),
    ],
)
def test_refusals_name_the_rule_and_the_value(options, side, message):
    with pytest.raises(ConfigError, match=message):
        build(options, side=side)
    with pytest.raises(ConfigError, match=message):
        check_model(ModelConfig(**options), side)


@pytest.mark.parametrize(
    "options, smallest",
    [
        ({"name": "vgg", "width": 8}, 16),
        ({"name": "dexpression"}, 27),
        ({"name": "dexpression", "blocks": 1}, 19),
        ({"name": "mini_xception"}, 8),
        ({"name": "tiny_xception"}, 8),
        ({"name": "mlp"}, 8),
        ({"name": "cnn"}, 16),
        ({"name": "cnn", "stride": 4}, 61),
        ({"name": "dcnn"}, 8),
        ({"name": "hog_dcnn"}, 36),
        ({"name": "resnet", "width": 8}, 8),
        ({"name": "se_resnet", "width": 8}, 8),
        ({"name": "wide_resnet", "width": 1}, 8),
    ],
)
def test_smallest_images_do_train(options, smallest):
    network = build(options, side=smallest)
    network(images(4, side=smallest)).sum().backward()


@pytest.mark.parametrize(
    "options",
    [  # hog_dcnn is dcnn on fewer pixels
        options
        for options in NETWORKS
        if not options["name"].startswith("timm/") and options["name"] != "dcnn"
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_network_learns_eight_images_by_heart(options):
    dropped = {"dropout", *(option for option in options if "drop" in option)}
    network = build(options | dict.fromkeys(dropped, 0.0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    x, labels = images(8), torch.arange(8) % 7
    losses = []
    for _ in range(25):
        losses.append(F.cross_entropy(network(x), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert float(losses[-1].detach()) < 0.5 * float(losses[0].detach())
