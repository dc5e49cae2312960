"""Spaces that freeze layers and start from weights: what is checked, and where faults are named.

In the texts below § stands where the error must point; it is taken out of the file.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raysearch.config import ModelConfig, TrainConfig
from raysearch.data.dataset import load_dataset
from raysearch.data.synthetic import synthesize
from raysearch.errors import ConfigError, RunError
from raysearch.models.registry import build_model
from raysearch.space import load_space
from raysearch.train.checkpoint import save_weights
from raysearch.train.curve import write_metrics
from raysearch.train.start import check_starts
from raysearch.train.trial import TrialFolder, TrialRecord

TWO = "  model:\n    name: {choice: [vgg, mlp]}\n    depth: {int: [4, 9], when: {model: vgg}}\n"
VGG = "  model: vgg\n"


def load(folder: Path, text: str):
    path = folder / "space.yaml"
    path.write_text(text)
    return load_space(path)


def fault(folder: Path, text: str) -> str:
    before, after = text.split("§")
    with pytest.raises(ConfigError) as error:
        load(folder, before + after)
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    place, message = f"{folder / 'space.yaml'}:{line}:{column}: ", str(error.value)
    assert message.startswith(place), f"{message} must be at {line}:{column}"
    return message.removeprefix(place)


def test_depth_of_freezing_can_be_searched(tmp_path):
    text = "  freeze_depth: {int: [0, 4], when: {model.name: vgg}}\n"
    space = load(tmp_path, f"train:\n{TWO}{text}")
    values = {"model.name": "vgg", "model.depth": 4, "freeze_depth": 4}
    assert space.build(values, epochs=1, seed=0).freeze_depth == 4
    assert space.build({"model.name": "mlp"}, epochs=1, seed=0).freeze_depth == 0


@pytest.mark.parametrize(
    "setting, message",
    [
        ("freeze_depth: §3", "freeze_depth is 3, but mlp has 2 layer groups before its head"),
        ("freeze_depth: §{int: [0, 3]}", "freeze_depth is 3, but mlp has 2"),
        ("freeze_depth: §{choice: [0, 1, 3]}", "freeze_depth is 3, but mlp has 2"),
        ("freeze_depth: §{int: [0, 5], when: {model: vgg}}", "freeze_depth is 5, but vgg has 4"),
        ("freeze_depth: §{int: [-1, 1]}", "freeze_depth: Input should be greater than or equal"),
        ("freeze_depth: §{float: [0, 1]}", "freeze_depth: Input should be a valid integer"),
        (
            "freeze_depth: §{int: [0, 3]}\n  ema: {value: 0, when: {freeze_depth: 3}}",
            "freeze_depth is 3, but mlp has 2",
        ),
        (
            "freeze_depth: §{int: [0, 3]}\n  ema: {value: 0, when: {freeze_depth: 1}}",
            "freeze_depth is 3, but mlp has 2",
        ),
    ],
)
def test_deepest_freezing_must_be_possible_for_every_network(tmp_path, setting, message):
    assert fault(tmp_path, f"train:\n{TWO}  {setting}\n").startswith(message)


def test_alternative_that_is_too_deep_is_the_one_pointed_at(tmp_path):
    text = "  freeze_depth:\n    - {value: 4, when: {model: vgg}}\n"
    text += "    - §{value: 3, when: {model: mlp}}\n"
    assert fault(tmp_path, f"train:\n{TWO}{text}").startswith("freeze_depth is 3, but mlp has 2")


@pytest.mark.parametrize(
    "setting, message",
    [
        ("pretrained: §none.pth", "There is no file or folder"),
        ("pretrained: §space.yaml", "a file of weights ends in one of .safetensors"),
        ("pretrained: §hub", "pretrained: hub has weights of timm's networks alone, not of 'vgg'"),
        ("pretrained: §{choice: [null, none.pth]}", "There is no file or folder"),
        ("init_from: §gone", "init_from names a run's folder, a trial's"),
        ("init_from: §space.yaml", "The configuration"),
        ("pretrained: here.pth\n  init_from: §gone", "init_from: pretrained is given too"),
    ],
)
def test_what_training_starts_from_must_be_there(tmp_path, setting, message):
    (tmp_path / "here.pth").touch()
    found = fault(tmp_path, f"train:\n{VGG}  {setting}\n")
    assert message in found.split(". ")[0] + "."


def test_remedy_for_a_configuration_file(tmp_path):
    message = fault(tmp_path, f"train:\n{VGG}  init_from: §space.yaml\n")
    assert "by `raysearch train` alone. Train it on its own and name its folder here" in message


def test_choices_that_can_meet_though_only_one_may_be_given(tmp_path):
    model = ModelConfig(name="vgg", width=4)
    train = TrainConfig(model=model)
    network = build_model(model, 1, 7, 48)
    files = TrialFolder(tmp_path / "trial")
    files.write_record(
        TrialRecord(0, train, tuple("abcdefg"), (1, 48, 48), (0.5,), (0.2,), "", parameters=1)
    )
    save_weights(files.best / "model.safetensors", network)
    write_metrics(files.metrics, [])
    save_weights(tmp_path / "here.safetensors", network)
    text = "  pretrained: {choice: [null, here.safetensors]}\n"
    text += "  init_from: §{choice: [null, trial]}\n"
    assert fault(tmp_path, f"train:\n{VGG}{text}").startswith("init_from: pretrained is given too")


def test_hub_is_not_asked_but_must_know_every_network(tmp_path):
    networks = "  model: {name: {choice: [timm/test_resnet, timm/resnet50t]}}\n"
    text = f"train:\n{networks}  pretrained: §hub\n"
    assert fault(tmp_path, text).startswith("timm has no pretrained weights of 'resnet50t'")
    space = load(tmp_path, "train:\n  model: timm/test_resnet\n  pretrained: hub\n")
    assert [train.pretrained for train in space.starts] == ["hub"]


def test_hub_has_nothing_for_one_of_the_networks(tmp_path):
    networks = "  model: {name: {choice: [timm/test_resnet, mlp]}}\n"
    text = f"train:\n{networks}  pretrained: §{{choice: [null, hub]}}\n"
    assert "not of 'mlp'" in fault(tmp_path, text)


@pytest.fixture
def weights(tmp_path) -> Path:
    """Of a vgg of width 4 for seven classes, in a folder of their own."""
    torch.manual_seed(0)
    network = build_model(ModelConfig(name="vgg", width=4, depth=4), 1, 7, 24)
    (tmp_path / "weights").mkdir()
    save_file(network.state_dict(), tmp_path / "weights" / "vgg.safetensors")
    return tmp_path / "weights" / "vgg.safetensors"


START = (
    "train:\n  image_size: 24\n  model: {name: vgg, width: %d, depth: 4}\n  pretrained: weights\n"
)


def test_paths_start_at_the_file_wherever_it_is_read_again(tmp_path, weights):
    space = load(tmp_path, START % 4)
    assert space.build({}, epochs=1, seed=0).pretrained == str(weights.parent)
    assert space.constants["pretrained"] == "weights"
    (tmp_path / "run").mkdir()
    copy = tmp_path / "run" / "space.yaml"
    copy.write_text(space.source_text)
    again = load_space(copy, folder=space.folder)
    assert again.build({}, epochs=1, seed=0) == space.build({}, epochs=1, seed=0)
    assert again.fingerprint == space.fingerprint
    weights.unlink()
    assert load_space(copy, folder=space.folder, look=False).constants == space.constants
    with pytest.raises(ConfigError, match="must hold model.safetensors"):
        load_space(copy, folder=space.folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces") / "data"
    synthesize(folder, images=70, image_size=24)
    return load_dataset(folder)


def test_weights_are_held_against_every_network_before_a_search(tmp_path, weights, dataset, capsys):
    check_starts(load(tmp_path, START % 4).starts, dataset)
    said = capsys.readouterr().err
    assert said == f"vgg starts from {weights}: 26 of 26 tensors\n"
    with pytest.raises(ConfigError, match="vgg.safetensors does not fit the network 'vgg'"):
        check_starts(load(tmp_path, START % 8).starts, dataset)


def test_hub_is_asked_before_a_search(tmp_path, dataset, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    space = load(tmp_path, "train:\n  model: timm/test_resnet\n  pretrained: hub\n")
    with pytest.raises(RunError, match="did not come from the hub"):
        check_starts(space.starts, dataset)


def test_search_that_freezes_what_has_not_learned_is_warned_about_once(tmp_path, dataset, capsys):
    check_starts(load(tmp_path, f"train:\n{TWO}  freeze_depth: 1\n").starts, dataset)
    assert capsys.readouterr().err.count("warning: freeze_depth without") == 1
