"""Commands that go on with a run, up to where Ray would start."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from raysearch import pipeline, runfolder
from raysearch.data.synthetic import synthesize
from raysearch.ensemble.build import open_data
from raysearch.errors import ConfigError, InputError, RunError
from raysearch.search.capacity import Capacity, Machine
from raysearch.space import load_space
from raysearch.storage.folderlock import locked_here
from raysearch.storage.runs import RunPlace, new_place, open_place
from raysearch.train.trial import TrialFolder

SPACE = "search: {trials: 2, epochs: 1}\ntrain:\n  model: {name: mlp, hidden: [8]}\n  lr: 0.1\n"
HERE = Capacity((Machine(2, 0),), 1)


@pytest.fixture(autouse=True)
def no_cluster_no_wait(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("raysearch.search.lock.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "find_capacity", lambda say: HERE)


@pytest.fixture
def searches(monkeypatch) -> list[RunPlace]:
    """The places at which a search would have started."""
    found = []

    def execute(prepared, place, *_):
        found.append(place)
        return {"interrupted": False, "aborted": "", "run": str(place)}

    monkeypatch.setattr(pipeline, "execute", execute)
    return found


@pytest.fixture
def shards(tmp_path) -> Path:
    synthesize(tmp_path / "faces", images=40)
    return tmp_path / "faces"


@pytest.fixture(params=["folder", "uri"])
def place(request, tmp_path, shards) -> RunPlace:
    """A run that has begun."""
    (tmp_path / "space.yaml").write_text(SPACE)
    limits = pipeline.Limits(trials=2)
    space = load_space(tmp_path / "space.yaml")
    prepared = pipeline.prepare(space, str(shards), limits, None, tmp_path)
    storage = f"file://{tmp_path}/runs" if request.param == "uri" else str(tmp_path / "runs")
    place = new_place(storage, "r")
    runfolder.start_run(prepared, place.path, ["raysearch", "tune"], limits)
    place.push()
    return place


def tune(place: RunPlace, data: Path, trials: int = 2) -> list:
    """The command that began the run at ``place``."""
    storage, name = str(place).rsplit("/", 1)
    space = data.parent / "space.yaml"
    words = ["tune", space, "--data", data, "--storage", storage, "--name", name]
    return [*words, "--trials", trials, "--json"]


def description(place: RunPlace) -> dict:
    """What run.yaml says where the run is."""
    return yaml.safe_load((open_place(str(place)).path / "run.yaml").read_text())


def test_raised_limits_are_known_wherever_the_run_is_looked_at(run_command, place, searches):
    run_command("resume", place, "--trials", 5, "--json")
    assert description(place)["limits"]["trials"] == 5
    run_command("resume", place, "--max-disk", "1GB", "--json")
    assert description(place)["limits"]["trials"] == 5
    assert description(place)["limits"]["max_disk"] == 10**9
    assert len(searches) == 2


def test_fewer_trials_than_the_run_has_are_refused_and_not_remembered(run_command, place, searches):
    for number in range(3):
        TrialFolder(place.path / "trials" / f"{number:04d}").write_status("completed", 1)
    place.push()
    with pytest.raises(ConfigError, match="at least the 3 that .* has, but got 1"):
        run_command("resume", place, "--trials", 1)
    assert description(place)["limits"]["trials"] == 2
    run_command("resume", place, "--trials", 4, "--json")
    assert description(place)["limits"]["trials"] == 4 and len(searches) == 1


def test_run_that_another_process_works_on_stays_as_it_is(run_command, place, shards, searches):
    (place.path / "study.log").write_text("not sent yet")
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.name != ".lock"}
    with locked_here(place.path):
        for command in (["resume", place, "--trials", 5], tune(place, shards)):
            with pytest.raises(RunError, match=f"Process .* is working on {place}"):
                run_command(*command)
    after = {path: path.read_bytes() for path in place.path.rglob("*") if path.name != ".lock"}
    assert after == before and not searches


def test_images_that_moved_are_found_from_then_on(tmp_path, run_command, place, shards, searches):
    moved = shards.rename(tmp_path / "moved")
    run_command("resume", place, "--data", moved, "--json")
    assert description(place)["data"] == str(moved)
    assert len(open_data(open_place(str(place)).path).split("train"))
    again = moved.rename(tmp_path / "again")
    run_command(*tune(place, again))
    assert description(place)["data"] == str(again)
    assert len(searches) == 2


def test_run_that_was_begun_meanwhile_is_not_written_over(
    run_command, place, shards, monkeypatch, searches
):
    begun = iter([False, True])
    monkeypatch.setattr(RunPlace, "exists", lambda self: next(begun))
    before = (place.path / "run.yaml").read_bytes()
    with pytest.raises(InputError, match="was begun by another command"):
        run_command(*tune(place, shards))
    assert (place.path / "run.yaml").read_bytes() == before and not searches


def test_ctrl_c_before_the_first_epoch_says_how_to_go_on(run_program, place, monkeypatch):
    from raysearch.search.tuner import SearchEnd

    ends = iter([SearchEnd({"interrupted": 2}, True, "", 1.0, 0.0), SearchEnd({}, False, "", 1, 0)])
    monkeypatch.setattr("raysearch.search.cluster.ray_cluster", lambda *_: nullcontext())
    monkeypatch.setattr("raysearch.search.tuner.run_search", lambda *_, **__: next(ends))
    done = run_program("resume", place)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("interrupted before a trial")
    assert f"raysearch resume {place}\n" in done.stderr
    out_of_time = run_program("resume", place)
    assert out_of_time.returncode == 1
    assert f"Give it more time: `raysearch resume {place}`" in out_of_time.stderr
