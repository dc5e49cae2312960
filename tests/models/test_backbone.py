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
