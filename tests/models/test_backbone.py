"""timm backbones on small images: the stems, the options and the refusals."""

import pytest
import timm
import torch
from torch import nn

from raysearch.errors import ConfigError
from raysearch.models.backbone import backbone

NETWORKS = [
    "resnet18",
    "resnet18d",
    "regnetx_002",
    "mobilenetv2_100",
    "tf_efficientnetv2_b0",
    "convnext_atto",
    "densenet121",
]


def features(network: nn.Module, side: int = 48) -> torch.Size:
    with torch.no_grad():
        return network.eval().forward_features(torch.zeros(1, 1, side, side)).shape


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gray_images_of_48_pixels_become_logits(name, stem):
    network = backbone(1, 7, 48, name=name, stem=stem)
    assert network.training
    assert network(torch.randn(2, 1, 48, 48)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_small_stem_keeps_four_times_the_side(name):
    side = 128
    small = features(backbone(1, 7, side, name=name), side)
    imagenet = features(backbone(1, 7, side, name=name, stem="imagenet"), side)
    assert imagenet[2:] == (4, 4) and small[2:] == (16, 16) and small[1] == imagenet[1]


@pytest.mark.parametrize("side", [33, 40, 47, 48, 50])
def test_small_stem_at_odd_sides_reduces_eightfold(side):
    assert features(backbone(1, 7, side, name="resnet18"), side)[2] == -(-side // 8)


def test_small_resnet_has_the_stem_of_the_cifar_version():
    network = backbone(1, 7, 48, name="resnet18")
    conv = network.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(network.maxpool, nn.Identity)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv2_100"])
def test_activations_of_the_changed_stem_keep_their_scale(name):
    torch.manual_seed(0)
    x = torch.randn(4, 1, 96, 96)

    def first_convolution(stem: str) -> float:
        network = backbone(1, 7, 96, name=name, stem=stem)
        conv = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
        return float(conv(x).detach().std())

    assert first_convolution("small") == pytest.approx(first_convolution("imagenet"), rel=0.35)


def test_imagenet_stem_is_the_network_of_timm():
    torch.manual_seed(0)
    ours = backbone(3, 7, 64, name="resnet18", stem="imagenet").state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=7).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_vision_transformer_gets_patches_of_a_quarter_side():
    network = backbone(1, 7, 48, name="vit_tiny_patch16_224")
    assert features(network)[1] == 12 * 12 + 1
    assert (
        features(backbone(1, 7, 48, name="vit_tiny_patch16_224", stem="imagenet"))[1] == 3 * 3 + 1
    )


@pytest.mark.parametrize("stem, side", [("small", 6), ("imagenet", 1)])
def test_vgg11_takes_small_images_by_pooling_up_to_its_seven_pixels(stem, side):
    network = backbone(1, 7, 48, name="vgg11_bn", stem=stem)
    assert features(network)[2] == side
    assert network(torch.randn(2, 1, 48, 48)).shape == (2, 7)


def test_dropout_and_drop_path_reach_the_network():
    network = backbone(1, 7, 48, name="resnet18", dropout=0.3, drop_path=0.2)
    assert network.drop_rate == 0.3
    rates = [getattr(layer, "drop_prob", None) for layer in network.modules()]
    assert max(rate for rate in rates if rate is not None) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "name, side, options, message",
    [
        ("resnet81", 48, {}, "did you mean 'resnet"),
        ("densenet121", 48, {"drop_path": 0.1}, "drop_path must be 0"),
        ("inception_v3", 48, {"stem": "imagenet"}, "48 x 48 pixels; use image_size 80"),
        ("dla34", 48, {"stem": "imagenet"}, "use image_size 64"),
        ("levit_128s", 48, {}, "use another image_size or stem: imagenet"),
        ("vit_tiny_patch16_224", 8, {"stem": "imagenet"}, "8 x 8 pixels; use another image_size"),
    ],
)
def test_refusals_name_the_remedy(name, side, options, message):
    with pytest.raises(ConfigError, match=message):
        backbone(1, 7, side, name=name, **options)


@pytest.mark.parametrize(
    "name, channels, side",
    [
        ("resnet50", 1, 48),
        ("mobilenetv2_100", 3, 100),
        ("tf_efficientnetv2_b3", 3, 100),
        ("convnext_atto", 1, 100),
        ("vgg16", 3, 48),
        ("vgg19_bn", 1, 48),
    ],
)
def test_documented_backbones_with_hidden_layers_take_a_batch(name, channels, side):
    network = backbone(channels, 7, side, name=name, stem="imagenet", head_hidden=[64], dropout=0.5)
    assert network(torch.randn(2, channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "mobilenetv2_100",
        "tf_efficientnetv2_b3",
        "convnext_atto",
        "vgg16",
        "vgg16_bn",
        "vgg19",
        "vgg19_bn",
    ],
)
def test_documented_backbones_build_at_their_sizes(name, stem):
    for channels, side in ((1, 48), (3, 100)):
        with torch.device("meta"):
            network = backbone(channels, 7, side, name=name, stem=stem)
            assert network(torch.zeros(2, channels, side, side)).shape == (2, 7)


def linear_sizes(layers: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in layers.modules() if isinstance(m, nn.Linear)]


def test_hidden_layers_stand_before_the_classifier_each_with_dropout():
    network = backbone(1, 7, 48, name="resnet18", head_hidden=[128, 32], dropout=0.4)
    assert linear_sizes(network) == [(512, 128), (128, 32), (32, 7)]
    assert [m.p for m in network.fc if isinstance(m, nn.Dropout)] == [0.4, 0.4]
    assert network.drop_rate == 0


def test_hidden_layers_leave_the_names_of_published_weights():
    with torch.device("meta"):
        published = timm.create_model("vgg16_bn", num_classes=7, in_chans=1).state_dict()
        network = backbone(1, 7, 48, name="vgg16_bn", stem="imagenet", head_hidden=1024)
    ours = network.state_dict()
    kept = {name for name in published if name.startswith("features.")}
    assert kept == {name for name in ours if not name.startswith("head.")}
    assert all(ours[name].shape == published[name].shape for name in kept)
    assert linear_sizes(network) == [(512, 1024), (1024, 7)]


def test_hidden_layers_need_a_linear_classifier():
    with pytest.raises(ConfigError, match="'timm/resnetv2_18' is not one linear layer"):
        backbone(1, 7, 48, name="resnetv2_18", stem="imagenet", head_hidden=[8])
