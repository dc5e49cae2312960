"""Which command goes on with a run: the one that began it."""

from pathlib import Path

import pytest
import yaml

from raysearch.data.synthetic import synthesize
from raysearch.pipeline import Limits
from raysearch.resuming import same_again
from raysearch.space import SearchSpace, load_space

SPACE = "search: {trials: 2, epochs: 1}\ntrain:\n  model: {name: mlp, hidden: [8]}\n  lr: 0.1\n"


@pytest.fixture
def space(tmp_path) -> SearchSpace:
    (tmp_path / "space.yaml").write_text(SPACE)
    return load_space(tmp_path / "space.yaml")


@pytest.fixture
def shards(tmp_path) -> Path:
    """Faces that are drawn, but named by ``--data`` as any images are."""
    synthesize(tmp_path / "faces", images=40)
    return tmp_path / "faces"


def begin(folder: Path, space: SearchSpace, data: Path, source: str) -> Path:
    """A run as it is written when it begins."""
    folder.mkdir()
    (folder / "space.yaml").write_text(space.source_text)
    description = {
        "space": space.path.name,
        "space_folder": str(space.folder),
        "data": str(data.resolve()),
        "data_source": source,
        "seed": space.search.seed,
        "limits": vars(Limits(trials=2)),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(description))
    return folder


def again(run: Path, space: SearchSpace, data: Path | None, **changes) -> str:
    limits = Limits(**{"trials": 2, **changes.pop("limits", {})})
    return same_again(
        run, space, None if data is None else str(data), limits, changes.pop("seed", None)
    )


@pytest.mark.parametrize("source", ["given", "synthetic"])
def test_the_same_command_is_the_same_search(tmp_path, space, shards, source):
    run = begin(tmp_path / "run", space, shards, source)
    assert again(run, space, shards) == ""
    assert again(run, space, shards, limits={"time_budget": 60.0}) == ""


def test_without_data_only_a_synthetic_run_is_the_same(tmp_path, space, shards):
    assert again(begin(tmp_path / "a", space, shards, "synthetic"), space, None) == ""
    assert "its data is" in again(begin(tmp_path / "b", space, shards, "given"), space, None)


def test_what_differs_is_said(tmp_path, space, shards):
    run = begin(tmp_path / "run", space, shards, "given")
    synthesize(tmp_path / "others", images=40)
    (tmp_path / "wider.yaml").write_text(SPACE.replace("0.1", "{float: [0.1, 0.2]}"))
    assert again(run, space, tmp_path / "others") == f"its data is {shards}"
    assert again(run, space, shards, seed=5) == "its seed is 0, not 5"
    said = again(run, space, shards, limits={"trials": 3})
    assert said == "it runs with --trials 2, not with --trials 3"
    said = again(run, space, shards, limits={"trial_timeout": 9.0})
    assert said == "it runs without --trial-timeout, not with --trial-timeout 9.0"
    assert again(run, load_space(tmp_path / "wider.yaml"), shards) == "it has another search space"
