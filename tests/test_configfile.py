"""A training run from a file; faults are named where they stand (§ marks the place)."""

import pytest

from raysearch.config import TrainConfig
from raysearch.configfile import load_train_config
from raysearch.errors import ConfigError


def test_fields_are_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: vgg, width: 8}\nlr: 1e-2\naugment:\n  rotate: 10\n")
    expected = {"model": {"name": "vgg", "width": 8}, "lr": 0.01, "augment": {"rotate": 10}}
    assert load_train_config(path) == TrainConfig.model_validate(expected)


def test_model_can_be_a_name_alone(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: mlp\n")
    assert load_train_config(path).model.name == "mlp"


@pytest.mark.parametrize(
    "text, message",
    [
        ("model: vgg\n§bach_size: 3\n", "unknown field 'bach_size' (did you mean 'batch_size'?)"),
        (
            "model: vgg\naugment:\n  §rotat: 3\n",
            "unknown field 'augment.rotat' (did you mean 'rotate'?)",
        ),
        ("model: vgg\nlr: §-1\n", "lr: Input should be greater than 0, but got -1."),
        ("model: vgg\naugment: {shift: §2}\n", "augment.shift: Input should be less than"),
        ("model: vgg\noptimizer: §adam\n", "optimizer: Input should be 'sgd', 'adamw' or"),
        ("§lr: 0.1\n", "the field 'model' is missing."),
        ("model:\n  §width: 8\n", "the field 'model.name' is missing."),
        ("model: §vggg\n", "There is no network 'vggg' (did you mean 'vgg'?)."),
        ("model: {name: §vggg}\n", "There is no network 'vggg' (did you mean 'vgg'?)."),
        ("model: {name: vgg, §widht: 8}\n", "The network 'vgg' has no option 'widht' (did you"),
        ("model: {name: vgg, §depth: 99}\n", "vgg: depth must be from 4 to 13, but got 99."),
        ("model: §vgg\nimage_size: 8\n", "The network 'vgg' halves the image three times"),
        ("model: mlp\nfreeze_depth: §3\n", "freeze_depth is 3, but mlp has 2 layer groups"),
        ("model: mlp\npretrained: §gone.pth\n", "There is no file or folder"),
        ("model: mlp\npretrained: §hub\n", "pretrained: hub has weights of timm's networks"),
        ("model: mlp\ninit_from: §gone\n", "init_from names a run's folder, a trial's"),
        ("model: mlp\ninit_from: §gone.yaml\n", "init_from names a run's folder, a trial's"),
        ("model: mlp\npretrained: x\ninit_from: §y\n", "init_from: pretrained is given too"),
        ("model: mlp\ninit_from: §run.yaml\n", "init_from goes in a circle: "),
        ("model: vgg\nl2: §-1\n", "l2: l2 is a number of at least 0"),
        (
            "model: mlp\nl2:\n  1.*: 1e-4\n  §4.wieght: 0.1\n",
            "l2: the pattern '4.wieght' matches no weight of two or more dimensions of the "
            "network. Near it: 4.weight",
        ),
    ],
)
def test_fault_is_named_where_it_stands(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    before, after = text.split("§")
    path.write_text(before + after)
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    with pytest.raises(ConfigError) as error:
        load_train_config(path)
    assert str(error.value).startswith(f"{path}:{line}:{column}: {message}")


def test_configuration_that_a_run_begins_from_is_checked_too(tmp_path):
    (tmp_path / "one.yaml").write_text("model: mlp\nlr: -1\n")
    (tmp_path / "two.yaml").write_text("model: mlp\ninit_from: one.yaml\n")
    with pytest.raises(ConfigError, match=r"one.yaml:2:5: lr: Input should be greater than 0"):
        load_train_config(tmp_path / "two.yaml")
    (tmp_path / "one.yaml").write_text("model: mlp\n")
    assert load_train_config(tmp_path / "two.yaml").init_from == str(tmp_path / "one.yaml")


def test_circle_of_configurations_is_refused_where_it_closes(tmp_path):
    for name, first in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.yaml").write_text(f"model: mlp\ninit_from: {first}.yaml\n")
    with pytest.raises(ConfigError) as error:
        load_train_config(tmp_path / "a.yaml")
    b, c = tmp_path / "b.yaml", tmp_path / "c.yaml"
    assert str(error.value) == f"{c}:2:12: init_from goes in a circle: {b} -> {c} -> {b}."
