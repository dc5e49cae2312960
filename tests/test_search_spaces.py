"""The shipped spaces are sound, and their README says what is so."""

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from raysearch.config import AugmentConfig, TrainConfig
from raysearch.errors import ConfigError
from raysearch.models.registry import BUILDERS
from raysearch.space import SearchConfig, load_space, resolve_space, shipped_spaces

FOLDER = Path(__file__).parents[1] / "search_spaces"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def shipped():
    for path in sorted(FOLDER.glob("*.yaml")):
        slow = "timm/" in path.read_text(encoding="utf-8")
        yield pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("path", list(shipped()))
def test_shipped_space_checks_and_samples_valid_configurations(path):
    space, rng = load_space(path), np.random.default_rng(0)
    assert space.description and space.known
    for number in range(200):
        known = space.known_values[number % len(space.known_values)] if number % 2 else {}
        values = space.propose(lambda d, known=known: known.get(d.name, d.draw(rng)))
        config = space.build(values, epochs=space.search.epochs, seed=number)
        assert config.epochs == space.search.epochs


def test_spaces_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(shipped_spaces()) == {path.stem for path in FOLDER.glob("*.yaml")}
    assert resolve_space("demo") == FOLDER / "demo.yaml"


def test_readme_names_every_space():
    for path in FOLDER.glob("*.yaml"):
        assert f"({path.name})" in README


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", README, re.S))
def test_examples_of_the_readme_are_spaces(tmp_path, example):
    path = tmp_path / "example.yaml"
    path.write_text(example)
    assert load_space(path).dimensions


def test_readme_shows_the_message_of_the_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("train:\n  model:\n    name: vgg\n    width: {chioce: [16]}\n")
    with pytest.raises(ConfigError) as error:
        load_space("broken.yaml")
    assert f"error: {error.value}\n" in README


def test_readme_lists_every_search_setting_with_its_default():
    written = section("`search`: how to search")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", written, re.M))
    defaults = SearchConfig().model_dump() | {"objective": "log_loss"}  # alone, as in a file
    assert rows == {k: "none" if v is None else str(v) for k, v in defaults.items()}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_readme_has_every_field_with_its_default():
    written = section("Fields of a training run")
    named = set(re.findall(r"`(\w+)`", written))
    assert named >= set(TrainConfig.model_fields) - {"model"} | set(AugmentConfig.model_fields)
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", written, re.MULTILINE))
    for name in ("image_size", "batch_size", "lr", "weight_decay", "l2", "balance_strength", "ema"):
        assert float(rows[name]) == TrainConfig.model_fields[name].default
    for name in ("normalize", "optimizer", "schedule", "balance", "precision", "images_on"):
        assert rows[name] == f"`{TrainConfig.model_fields[name].default}`"


@pytest.mark.parametrize("name", [*BUILDERS, "timm/..."])
def test_readme_has_every_network_with_its_options(name):
    row = next(r for r in section("Networks").splitlines() if r.startswith(f"| `{name}` |"))
    module, function = BUILDERS.get(name, "raysearch.models.backbone:backbone").split(":")
    parameters = inspect.signature(getattr(import_module(module), function)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY} | {"name": None}
    told = dict(re.findall(r"`(\w+)` ([\d.]+|\[[\d., ]*\]|\w+)", row))
    assert set(re.findall(r"`(\w+)`", row)) - {name} == set(options) - {"name"}
    for option, value in told.items():
        default = options[option]
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(value) == default, option
        elif isinstance(default, tuple) and "[[" not in row and default:
            assert tuple(json.loads(value)) == default, option
