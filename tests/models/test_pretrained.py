"""Published weights into our networks: files as they are found, and what is bridged or refused."""

import argparse
import json
import logging

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_patch_embed
from torch.nn import functional as F

from raysearch.config import ModelConfig
from raysearch.errors import ConfigError, RunError
from raysearch.files import sha256_of
from raysearch.models.pretrained import (
    check_pretrained,
    fit_pretrained,
    read_pretrained,
    small_kernel,
)
from raysearch.models.registry import build_model
from raysearch.models.weights import find_file, read_weights

SIDE = 32
NAME, TENSORS = "test_resnet", 92
"""timm's smallest ResNet, which it publishes for tests like these."""
RESNET = ModelConfig(name=f"timm/{NAME}")


def publish(path, name):
    """Colour images, 1,000 classes: as timm gives them, but for the values."""
    torch.manual_seed(3)
    network = timm.create_model(name)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 1)
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published") / "tiny.safetensors", NAME)


def fitted(path, model, channels=1, classes=7, side=SIDE):
    """The network with what it took, and the report."""
    torch.manual_seed(0)
    network = build_model(model, channels, classes, side)
    weights = read_pretrained(str(path), model)
    result = fit_pretrained(weights, model, channels, side, network)
    network.load_state_dict(result.tensors, strict=False)
    return network, result


def test_weights_reach_the_network_all_but_the_head(published):
    model = ModelConfig(name=f"timm/{NAME}", stem="imagenet")
    torch.manual_seed(0)
    fresh = build_model(model, 1, 7, SIDE).state_dict()
    network, result = fitted(published, model)
    source, taken = load_file(published), network.state_dict()
    assert str(result).startswith("90 of 92 tensors: 2 of another shape (fc.weight is [1000, 96]")
    for name, tensor in taken.items():
        if name == "conv1.0.weight":
            torch.testing.assert_close(tensor, source[name].sum(1, keepdim=True))
        else:
            assert torch.equal(tensor, (fresh if name.startswith("fc.") else source)[name])


def test_gray_image_gives_what_it_gave_in_three_equal_channels(published):
    network, _ = fitted(published, ModelConfig(name=f"timm/{NAME}", stem="imagenet"))
    original = timm.create_model(NAME)
    original.load_state_dict(load_file(published))
    gray = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        ours = network.eval().forward_features(gray)
        theirs = original.eval().forward_features(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [7, 5, 3])
def test_small_kernel_is_the_kernel_on_the_image_enlarged_four_times(side):
    weight, image = torch.randn(4, 2, side, side), torch.randn(1, 2, 12, 12)
    enlarged = F.interpolate(
        image, 4 * (12 - 1) + 1, mode="bilinear", align_corners=True
    )  # whose every fourth pixel is one of the image
    expected = F.conv2d(enlarged, weight, padding=side // 2)[:, :, ::4, ::4]
    found = F.conv2d(image, small_kernel(weight), padding=1)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_small_kernel_of_patches_is_the_patches_of_the_enlarged_image():
    weight, image = torch.randn(4, 2, 4, 4), torch.randn(1, 2, 12, 12)
    enlarged = F.interpolate(image, scale_factor=4, mode="bilinear")
    expected = F.conv2d(enlarged, weight, stride=4)
    found = F.conv2d(image, small_kernel(weight), padding=1)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@pytest.mark.parametrize(
    "name, conv", [("resnet18", "conv1.weight"), ("test_convnext", "stem.0.weight")]
)
def test_small_stem_gets_the_resampled_kernel(tmp_path, name, conv):
    source = publish(tmp_path / "weights.safetensors", name)
    kernel = load_file(source)[conv]
    network, _ = fitted(source, ModelConfig(name=f"timm/{name}"))
    expected = small_kernel(kernel.sum(1, keepdim=True))
    torch.testing.assert_close(network.state_dict()[conv], expected)
    colour, _ = fitted(source, ModelConfig(name=f"timm/{name}"), channels=3)
    torch.testing.assert_close(colour.state_dict()[conv], small_kernel(kernel))


def test_stem_whose_kernels_keep_their_size_gets_them_as_they_are(published):
    network, _ = fitted(published, RESNET, channels=3)
    assert torch.equal(network.conv1[0].weight, load_file(published)["conv1.0.weight"])


def test_head_of_the_same_number_of_classes_is_taken(published):
    network, result = fitted(published, RESNET, classes=1000)
    assert len(result.tensors) == result.total and str(result) == "92 of 92 tensors"
    assert torch.equal(network.fc.weight.detach(), load_file(published)["fc.weight"])


def wrapped(tensors, kind):
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    arguments = argparse.Namespace(lr=0.1)
    return {
        "plain": tensors,
        "state_dict": {"epoch": 3, "state_dict": tensors, "args": arguments},
        "model": {"model": prefixed},
        "average": {"state_dict": {"fc.bias": torch.zeros(1)}, "state_dict_ema": tensors},
    }[kind]


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt"])
@pytest.mark.parametrize("kind", ["plain", "state_dict", "model", "average"])
def test_files_of_torch_give_the_same_tensors(published, tmp_path, kind, suffix):
    tensors, path = load_file(published), tmp_path / f"weights{suffix}"
    torch.save(wrapped(tensors, kind), path)
    weights = read_pretrained(str(path), RESNET)
    assert weights.tensors.keys() == tensors.keys()
    assert all(torch.equal(weights.tensors[name], tensors[name]) for name in tensors)
    assert (weights.source, weights.sha256) == (str(path), sha256_of(path))


def test_headless_file_fits(published, tmp_path):
    tensors = {n: t for n, t in load_file(published).items() if not n.startswith("fc.")}
    save_file(tensors, tmp_path / "headless.safetensors")
    _, result = fitted(tmp_path / "headless.safetensors", RESNET)
    assert str(result) == "90 of 92 tensors: 2 missing (fc.weight, fc.bias)"


def test_weights_of_gray_images_fit_gray_and_colour(tmp_path):
    tensors = timm.create_model(NAME, in_chans=1, num_classes=7).state_dict()
    save_file(tensors, tmp_path / "gray.safetensors")
    network, result = fitted(tmp_path / "gray.safetensors", RESNET)
    assert torch.equal(network.conv1[0].weight, tensors["conv1.0.weight"])
    assert len(result.tensors) == TENSORS
    colour, _ = fitted(tmp_path / "gray.safetensors", RESNET, channels=3)
    summed = colour.conv1[0].weight.sum(1, keepdim=True)
    torch.testing.assert_close(summed, tensors["conv1.0.weight"])


def test_our_own_small_network_fits_itself(tmp_path):
    torch.manual_seed(9)
    tensors = build_model(RESNET, 1, 7, SIDE).state_dict()
    save_file(tensors, tmp_path / "own.safetensors")
    network, result = fitted(tmp_path / "own.safetensors", RESNET)
    assert len(result.tensors) == TENSORS
    assert all(torch.equal(t, tensors[n]) for n, t in network.state_dict().items())


def test_vision_transformer_gets_smaller_patches_and_more_positions(tmp_path):
    original = timm.create_model("test_vit")
    save_file(original.state_dict(), tmp_path / "vit.safetensors")
    network, result = fitted(tmp_path / "vit.safetensors", ModelConfig(name="timm/test_vit"))
    assert len(result.tensors) == 78
    assert network.pos_embed.shape[1] == 8 * 8 + 1
    gray = original.patch_embed.proj.weight.sum(1, keepdim=True)
    expected = resample_patch_embed(gray, [4, 4])
    torch.testing.assert_close(network.patch_embed.proj.weight, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(network.blocks[3].mlp.fc1.weight, original.blocks[3].mlp.fc1.weight)


def test_folder_in_the_layout_of_timm_on_hugging_face(published, tmp_path):
    save_file(load_file(published), tmp_path / "model.safetensors")
    config = {"architecture": NAME, "num_classes": 1000, "pretrained_cfg": {"tag": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_file(tmp_path) == tmp_path / "model.safetensors"
    assert len(fitted(tmp_path, RESNET)[1].tensors) == 90
    with pytest.raises(ConfigError, match="holds weights of 'test_resnet', not of 'timm/resnet34'"):
        check_pretrained(str(tmp_path), ModelConfig(name="timm/resnet34"))


def test_our_networks_take_files_whose_names_and_shapes_match(tmp_path):
    model = ModelConfig(name="vgg", width=4)
    torch.manual_seed(1)
    tensors = build_model(model, 1, 3, SIDE).state_dict()
    save_file(tensors, tmp_path / "vgg.safetensors")
    network, result = fitted(tmp_path / "vgg.safetensors", model)
    assert (len(result.tensors), result.total) == (48, 50)
    assert torch.equal(network[0].weight, tensors["0.weight"])
    with pytest.raises(ConfigError, match=r"'vgg' .* of another shape \(0.weight is \[4, 1, 3, 3"):
        fitted(tmp_path / "vgg.safetensors", ModelConfig(name="vgg", width=8))


def test_wrong_network_is_refused_with_the_names_that_do_not_fit(published):
    model = ModelConfig(name="timm/resnet18", stem="imagenet")
    needed = {name: t.shape for name, t in build_model(model, 1, 7, SIDE).state_dict().items()}
    found = {name: t.shape for name, t in load_file(published).items()}
    with pytest.raises(ConfigError) as error:
        fitted(published, model)
    message = str(error.value)
    assert message.startswith(f"{published} does not fit the network 'timm/resnet18' with its")
    assert message.endswith("or name the network that they are of.")
    missing, unexpected = needed.keys() - found.keys(), found.keys() - needed.keys()
    shapes = [n for n in needed.keys() & found.keys() if needed[n] != found[n] and n[:2] != "fc"]
    # The first convolution, which is missing too, would have been made to fit.
    assert f"{len(missing) - 1} missing (layer1.1.conv1.weight, " in message
    assert f"{len(unexpected)} unexpected (" in message
    assert f"and {len(unexpected) - 3} more)" in message
    assert f"{len(shapes)} of another shape (bn1.weight is [32], needed [64], " in message


def test_file_that_lacks_one_tensor_is_refused(published, tmp_path):
    tensors = load_file(published)
    del tensors["layer3.0.bn2.running_var"]
    save_file(tensors, tmp_path / "torn.safetensors")
    with pytest.raises(ConfigError, match=r": 1 missing \(layer3.0.bn2.running_var\)\. Give"):
        fitted(tmp_path / "torn.safetensors", RESNET)


class Harmful:
    def __reduce__(self):
        return (print, ("ran",))


def test_pickles_are_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"x": torch.ones(1)}, "args": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(ConfigError, match=r"could run anything: .* Save the state_dict alone"):
        read_weights(tmp_path / "bad.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["half.safetensors", "half.pth", "text.pth", "empty.safetensors"])
def test_damaged_files_are_named(published, tmp_path, name):
    path = tmp_path / name
    whole = tmp_path / f"whole{path.suffix}"
    torch.save(load_file(published), whole) if path.suffix == ".pth" else save_file({}, whole)
    source = published if name == "half.safetensors" else whole
    data = source.read_bytes()
    kept = {"half": data[: len(data) // 2], "text": b"no weights at all", "empty": data}
    path.write_bytes(kept[path.stem])
    with pytest.raises(ConfigError, match=f"^{path} holds|^{path} is no whole file"):
        read_weights(path)


def test_sources_that_are_not_there_are_named(tmp_path):
    cases = {
        str(tmp_path / "none.pth"): "There is no file or folder",
        str(tmp_path): "must hold model.safetensors or one file of weights .* holds none",
        __file__: "ends in one of .safetensors",
    }
    for source, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            check_pretrained(source, RESNET)
    (tmp_path / "a.pth").touch()
    (tmp_path / "b.bin").touch()
    with pytest.raises(ConfigError, match="but holds 2. Name the file itself"):
        check_pretrained(str(tmp_path), RESNET)


@pytest.mark.parametrize(
    "name, message",
    [
        ("vgg", "hub has weights of timm's networks alone, not of 'vgg'"),
        ("timm/resnet50t", "timm has no pretrained weights of 'resnet50t'"),
    ],
)
def test_hub_without_weights_is_known_without_asking_it(name, message):
    with pytest.raises(ConfigError, match=message):
        check_pretrained("hub", ModelConfig(name=name))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Hugging Face's cache in an empty folder, and no way to the hub itself."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_hub_that_does_not_answer_is_a_run_error_with_the_remedy(cache):
    check_pretrained("hub", RESNET)
    with pytest.raises(
        RunError, match=r"'test_resnet' did not come from the hub .*pretrained: FILE"
    ):
        read_pretrained("hub", RESNET)


def test_weights_of_the_hub_are_timms(cache, published):
    repository = timm.get_pretrained_cfg(NAME).hf_hub_id
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "model.safetensors").symlink_to(published)
    weights = read_pretrained("hub", RESNET)
    assert weights.source == f"hub:{repository}" and len(weights.sha256) == 64
    network = build_model(RESNET, 1, 7, SIDE)
    result = fit_pretrained(weights, RESNET, 1, SIDE, network)
    assert len(result.tensors) == 90
    assert torch.equal(result.tensors["bn1.weight"], load_file(published)["bn1.weight"])
    assert read_pretrained("hub", RESNET).sha256 == weights.sha256


def test_fitting_leaves_the_global_generator_and_the_log_alone(published, caplog):
    weights = read_pretrained(str(published), RESNET)
    network = build_model(RESNET, 1, 7, SIDE)
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        fit_pretrained(weights, RESNET, 1, SIDE, network)
    assert torch.equal(torch.get_rng_state(), before) and not caplog.records
