"""``classes`` in configurations and spaces: what is trained, and where a wrong name stands."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from raysearch.cli.train import register
from raysearch.data.shards import open_shards, write_shards
from raysearch.errors import ConfigError
from raysearch.pipeline import Limits, prepare
from raysearch.runfolder import start_run
from raysearch.space import load_space
from raysearch.train.trial import TrialFolder

CLASSES = ("angry", "happy", "neutral", "sad")
CONFIG = """model: {name: mlp, hidden: [8]}
image_size: 12
epochs: 1
batch_size: 16
precision: fp32
"""
SPACE = """search: {trials: 2, epochs: 1}
train:
  model: {name: mlp, hidden: [8]}
  image_size: 12
  lr: {float: [0.01, 0.1]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four classes, of which `neutral` is missing in validation."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(120) % 4
    labels_N[80:] = np.array([0, 1, 3])[np.arange(40) % 3]
    images = rng.integers(0, 256, (120, 1, 12, 12), dtype=np.uint8)
    rows = {"train": np.arange(80), "validation": np.arange(80, 120)}
    folder = tmp_path_factory.mktemp("choice")
    write_shards(folder, images, labels_N, [f"{row}.png" for row in range(120)], rows, CLASSES, {})
    return folder


def train(tmp_path: Path, data: Path, config: str):
    import typer

    app = typer.Typer()
    register(app)
    path = tmp_path / "config.yaml"
    path.write_text(config)
    arguments = [path, "--data", data, "--out", tmp_path / "out", "--json"]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_trained_network_tells_these_classes_apart_in_this_order(tmp_path, data):
    done = train(tmp_path, data, CONFIG + "classes: [sad, angry]\nimages_on: host\n")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["status"] == "completed"
    assert "40 + 27 images (0 MB) on the host, fed to cpu" in done.stderr
    record, view = TrialFolder(tmp_path / "out").read_record(), open_shards(data)
    assert (record.classes, record.images_on) == (("sad", "angry"), "host")
    assert record.data_fingerprint == view.subset(["sad", "angry"]).fingerprint
    assert record.parameters == 144 * 8 + 8 + 8 * 2 + 2


def test_run_goes_on_wherever_its_images_wait_but_not_with_other_classes(tmp_path, data):
    assert train(tmp_path, data, CONFIG + "classes: [sad, angry]\n").exit_code == 0
    moved = train(tmp_path, data, CONFIG + "classes: [sad, angry]\nimages_on: host\n")
    assert moved.exit_code == 0, moved.output
    other = train(tmp_path, data, CONFIG + "classes: [angry, sad]\n")
    assert "another configuration" in str(other.exception)


FAULTS = [
    (
        "[sad, §hapy]",
        "classes: the data has no class 'hapy' (did you mean 'happy'?). "
        "It has: angry, happy, neutral, sad.",
    ),
    ("[sad, §neutral]", "classes: 'neutral' has no image in the split 'validation' of"),
]


@pytest.mark.parametrize(("classes", "message"), FAULTS)
@pytest.mark.parametrize("kind", ["configuration", "space"])
def test_fault_that_the_data_brings_out_is_named_where_it_stands(
    tmp_path, data, kind, classes, message
):
    text = f"{CONFIG}classes: {classes}\n"
    if kind == "space":
        text = f"{SPACE}  classes: {classes}\n"
    before, after = text.split("§")
    place = f"config.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    if kind == "configuration":
        error = train(tmp_path, data, before + after).exception
    else:
        (tmp_path / "config.yaml").write_text(before + after)
        space = load_space(tmp_path / "config.yaml")
        with pytest.raises(ConfigError) as caught:
            prepare(space, str(data), Limits(), 0, tmp_path)
        error = caught.value
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{tmp_path}/{place}{message}")


def test_fault_of_a_first_stage_is_named_in_its_own_file(tmp_path, data):
    (tmp_path / "one.yaml").write_text(f"{CONFIG}classes: [sad, neutral]\n")
    error = train(tmp_path, data, CONFIG + "init_from: one.yaml\nclasses: [happy, sad]\n").exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{tmp_path}/one.yaml:6:16: classes: 'neutral' has no image in")


def test_fault_of_a_shipped_configuration_is_named_in_its_file(tmp_path, data, run_command):
    """Its classes are happy, sad and neutral."""
    with pytest.raises(ConfigError, match=r"_3_classes.yaml:\d+:\d+: .*'neutral' has no"):
        run_command("train", "baselines/p2_hog_dcnn_3_classes", "--data", data, "--out", tmp_path)


@pytest.mark.parametrize("classes", ["[sad]", "[sad, sad]", "sad", "[]"])
def test_fewer_than_two_different_classes_are_refused_before_the_data_is_read(tmp_path, classes):
    done = train(tmp_path, tmp_path / "no data", f"{CONFIG}classes: {classes}\n")
    assert str(done.exception).startswith(f"{tmp_path}/config.yaml:6:10: classes: ")
    (tmp_path / "space.yaml").write_text(f"{SPACE}  classes: {classes}\n")
    with pytest.raises(ConfigError, match=r"space.yaml:6:12: classes: "):
        load_space(tmp_path / "space.yaml")


@pytest.mark.parametrize(
    "dimension",
    [
        "{choice: [[sad, happy], [sad, angry]]}",
        "{value: [sad, happy], when: {model.name: mlp}}",
    ],
)
def test_classes_that_vary_within_a_search_are_refused_with_the_reason(tmp_path, dimension):
    (tmp_path / "space.yaml").write_text(f"{SPACE}  classes: {dimension}\n")
    reason = "must be a constant: members of one ensemble must tell the same classes apart"
    with pytest.raises(ConfigError, match=rf"space.yaml:6:3: classes {reason}"):
        load_space(tmp_path / "space.yaml")


@pytest.mark.parametrize("classes", ["[sad, angry]", "{value: [sad, angry]}", None])
def test_run_yaml_records_the_classes_and_their_fingerprint(tmp_path, data, classes):
    import yaml

    (tmp_path / "space.yaml").write_text(SPACE + (f"  classes: {classes}\n" if classes else ""))
    prepared = prepare(load_space(tmp_path / "space.yaml"), str(data), Limits(), 0, tmp_path)
    start_run(prepared, tmp_path / "run", ["tune"], Limits())
    description = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    expected = ["sad", "angry"] if classes else list(CLASSES)
    assert description["classes"] == expected
    assert description["data_fingerprint"] == open_shards(data).subset(expected).fingerprint
    assert prepared.dataset.images_on == "host"  # the search's own process trains nothing
