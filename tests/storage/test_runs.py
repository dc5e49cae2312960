"""A run at a URI, looked at and changed on the machine whose search is working on it."""

from pathlib import Path

import pytest

from raysearch.errors import ArtifactError
from raysearch.storage.folderlock import locked_here
from raysearch.storage.runs import LARGE, RunPlace, changed_place, find_place, new_place, open_place

FILES = {
    "run.yaml": b"data: x\n",
    "study.log": b"1\n",
    "trials/0000/status.json": b"{}",
    "ensemble/ensemble.json": b"old",
    "ensemble/members/0000/config.json": b"old",
}


@pytest.fixture
def uri(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/store/r"


@pytest.fixture
def searched(tmp_path, uri) -> RunPlace:
    """A run that its search has sent to the store, and has gone on with since."""
    place = new_place(f"file://{tmp_path}/store", "r")
    write(place.path, FILES)
    place.push()
    write(place.path, {"study.log": b"1\n2\n", "trials/0001/status.json": b"{}"})
    return place


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def tree(folder: Path) -> dict[str, bytes]:
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_look_at_a_run_leaves_what_its_search_has_not_sent_yet(searched, uri):
    before = tree(searched.path)
    with locked_here(searched.path):
        for skip in (LARGE, ()):
            looked_at = open_place(uri, skip).path
            assert looked_at.name == searched.path.name
        assert tree(looked_at) == FILES
    assert tree(searched.path) == before


def test_change_during_a_search_sends_what_was_changed_alone(tmp_path, searched, uri):
    with locked_here(searched.path):
        with changed_place(uri) as folder:
            searched.mirror.push("study.log")
            write(folder, {"report.html": b"new", "ensemble/ensemble.json": b"new"})
            (folder / "ensemble/members/0000/config.json").unlink()
    there = FILES | {
        "study.log": b"1\n2\n",
        "report.html": b"new",
        "ensemble/ensemble.json": b"new",
    }
    del there["ensemble/members/0000/config.json"]
    assert tree(tmp_path / "store" / "r") == there
    searched.mirror.push()
    assert tree(tmp_path / "store" / "r") == there | {"trials/0001/status.json": b"{}"}


def test_look_at_a_run_leaves_what_another_command_is_changing(searched, uri):
    with changed_place(uri) as folder:
        write(folder, {"ensemble_report.json": b"new", ".ensemble.7.partial/model.onnx": b"half"})
        begun = tree(folder)
        assert tree(open_place(uri).path) == FILES
        assert tree(folder) == begun


def test_without_a_search_the_copy_that_it_left_is_brought_up_to_date(searched, uri):
    assert open_place(uri).path == searched.path
    assert tree(searched.path) == FILES


def test_what_is_no_run_is_said_and_nothing_is_made(tmp_path, uri):
    for open_it in (find_place, open_place):
        with pytest.raises(ArtifactError, match="is not a run .* no run.yaml"):
            open_it(uri)
    with pytest.raises(ArtifactError, match="is not a run .* no run.yaml"):
        find_place(str(tmp_path / "none"))
    assert not list(tmp_path.iterdir())
