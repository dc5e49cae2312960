"""The documented systems: each loads, and builds with the parameters that the README states."""

import functools
import importlib.metadata
import re
from pathlib import Path

import pytest
import torch
import typer

from raysearch import cli
from raysearch.config import TrainConfig
from raysearch.configfile import load_train_config
from raysearch.errors import ConfigError
from raysearch.models.registry import build_model
from raysearch.space import resolve_config, shipped, shipped_baselines
from raysearch.train.penalty import strengths

FOLDER = Path(__file__).parents[1] / "search_spaces" / "baselines"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = {
    name: (int(built.replace(",", "")), documented, accuracy)
    for name, built, documented, accuracy in re.findall(
        r"^\| \[`(\S+)`\]\(\1\.yaml\) \| .*? \| ([\d,]+) \| (.*?) \| (.*?) \|$",
        README,
        re.MULTILINE,
    )
}

each_baseline = pytest.mark.parametrize("name", sorted(ROWS))


@functools.cache
def load(name: str) -> TrainConfig:
    return load_train_config(FOLDER / f"{name}.yaml")


def comment(name: str) -> str:
    """The lines at the top of a file that say which system it is."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not re.match(r"# (?!departs)", line))
    return " ".join(line[2:] for line in lines[:end])


def test_the_readme_lists_every_file():
    assert set(ROWS) == {path.stem for path in FOLDER.glob("*.yaml")}


@each_baseline
def test_baseline_builds_with_the_parameters_of_the_readme(name):
    config = load(name)
    built, documented, _ = ROWS[name]
    photographs = name.startswith("p5_")
    classes = 6 if photographs else len(config.classes or range(7))
    with torch.device("meta"):
        network = build_model(config.model, 3 if photographs else 1, classes, config.image_size)
    assert sum(p.numel() for p in network.parameters()) == built
    if documented.endswith("without norms"):
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        built -= sum(p.numel() for norm in norms for p in norm.parameters())
    assert documented == "–" or int(documented.split()[0].replace(",", "")) == built


@each_baseline
def test_baseline_says_its_system_and_accuracy_at_the_top(name):
    said = comment(name)
    assert said.startswith(f"{name[:2].upper()}, ") and said.endswith(".")
    for figure in re.findall(r"[\d.]+(?= %)", ROWS[name][2]):
        assert f"{figure} %" in said


@each_baseline
def test_baseline_has_no_weight_decay_average_or_mirror_that_is_not_documented(name):
    config = load(name)
    assert (config.optimizer, config.weight_decay, config.ema) == ("adamw", 0, 0)
    assert config.schedule == "plateau" and config.mixup == config.label_smoothing == 0
    assert bool(config.pretrained) == ("ImageNet" in comment(name))
    assert bool(config.init_from) == any(
        word in comment(name) for word in ("carried", "trained on")
    )


@each_baseline
def test_weights_carried_over_are_of_a_baseline_of_the_same_network(name):
    config = load(name)
    if config.init_from:
        before = load(Path(config.init_from).stem)
        assert before.model == config.model


@pytest.mark.parametrize(
    "name, expected",
    [
        ("p1_dexpression_augmented", {"stem.0.weight", "classifier.weight"}),
        ("p3_cnn_48_16", {"blocks.0.weight", "blocks.4.weight"}),
        ("p3_cnn_96_48", {"blocks.0.weight", "blocks.4.weight"}),
        ("p3_cnn_96_256_384", {"blocks.0.weight", "blocks.5.weight", "blocks.10.weight"}),
    ],
)
def test_l2_by_name_reaches_what_the_comment_says(name, expected):
    config = load(name)
    with torch.device("meta"):
        network = build_model(config.model, 1, 7, 48)
    assert {n for n, strength in strengths(config.l2, network).items() if strength} == expected


def test_baseline_is_found_by_name():
    found = resolve_config("baselines/p4_improved_cnn")
    assert found.resolve() == FOLDER / "p4_improved_cnn.yaml"
    assert set(shipped_baselines()) == {f"baselines/{name}" for name in ROWS}


def test_own_baseline_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "search_spaces" / "baselines" / "p4_improved_cnn.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("model: mlp\n")
    assert resolve_config("baselines/p4_improved_cnn").resolve() == own


def test_unknown_baseline_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'baselines/p4_improved_cnn'"):
        resolve_config("baselines/p4_improve_cnn")


def test_a_path_stays_as_it_is():
    assert resolve_config("somewhere/run.yaml") == Path("somewhere/run.yaml")


class _Installed:
    """A distribution's record of files, as importlib.metadata gives it."""

    def __init__(self, path: str, root: Path):
        self.parent, self.suffix = Path(path).parent, Path(path).suffix
        self._path = root / path

    def locate(self) -> Path:
        return self._path


def test_installed_data_files_are_told_apart_by_folder(tmp_path, monkeypatch):
    share = "../../../share/raysearch/search_spaces"
    names = ["demo.yaml", "README.md", "baselines/README.md", "baselines/p1_resnet50.yaml"]
    files = [_Installed(f"{share}/{name}", tmp_path) for name in names]
    monkeypatch.setattr(importlib.metadata, "files", lambda _: files)
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "a" / "b" / "c"))
    assert [*shipped.shipped_spaces()] == ["demo"]
    assert [*shipped.shipped_baselines()] == ["baselines/p1_resnet50"]


def test_train_takes_a_baseline_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "app", typer.Typer())
    cli._register()
    words = ["train", "baselines/p3_cnn_49_16", "--data", str(tmp_path)]
    with pytest.raises(ConfigError, match="did you mean 'baselines/p3_cnn_48_16'"):
        cli.app(words, standalone_mode=False)
