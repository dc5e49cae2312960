"""The shipped spaces are sound, and their README says what is so."""

import re
from pathlib import Path

import numpy as np
import pytest

from raysearch.errors import ConfigError
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
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", README, re.M))
    defaults = SearchConfig().model_dump() | {"objective": "log_loss"}  # alone, as in a file
    assert rows == {k: "none" if v is None else str(v) for k, v in defaults.items()}
