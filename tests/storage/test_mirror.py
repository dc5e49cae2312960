"""A folder and its counterpart under a URI, against a plain copy of the tree."""

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch.errors import ConfigError, RunError
from raysearch.storage import mirror as module
from raysearch.storage.locations import open_filesystem
from raysearch.storage.mirror import Mirror


@pytest.fixture
def pair(tmp_path) -> tuple[Mirror, Path]:
    """A mirror of ``tmp_path/here`` and the folder that its URI names."""
    (tmp_path / "here").mkdir()
    return Mirror(tmp_path / "here", f"file://{tmp_path}/there"), tmp_path / "there"


def tree(folder: Path) -> dict[str, bytes]:
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "ensemble/x"])
CHANGES = st.lists(st.tuples(NAMES, st.one_of(st.none(), st.binary(max_size=20))), max_size=12)


@settings(max_examples=50, deadline=None)
@given(first=CHANGES, second=CHANGES)
def test_push_and_exact_pull_carry_any_tree_to_another_machine(tmp_path_factory, first, second):
    base = tmp_path_factory.mktemp("mirror")
    here, other = Mirror(base / "here", f"file://{base}/t"), Mirror(base / "o", f"file://{base}/t")
    here.local.mkdir()
    for changes in (first, second):
        for name, data in changes:
            if data is None:
                (here.local / name).unlink(missing_ok=True)
            else:
                write(here.local, {name: data})
        here.push()
        here.remove_gone("")
        assert tree(base / "t") == tree(here.local)
        other.pull(exact=True)
        assert tree(other.local) == tree(here.local)


def test_only_what_changed_is_sent_and_in_the_order_of_the_changes(pair):
    mirror, _ = pair
    for number, name in enumerate(["trial/z", "trial/a", "trial/m"]):
        write(mirror.local, {name: b"1"})
        os.utime(mirror.local / name, (number, number))
    assert mirror.push("trial") == ["trial/z", "trial/a", "trial/m"]
    assert mirror.push("trial") == []
    write(mirror.local, {"trial/a": b"22", "study.log": b"3"})
    assert mirror.push("trial") == ["trial/a"]
    assert mirror.push("study.log") == ["study.log"]


def test_pull_leaves_alone_what_is_the_same_and_what_it_is_told_to_skip(pair):
    mirror, there = pair
    write(there, {"metrics.csv": b"1", "checkpoint/state.pt": b"2"})
    assert mirror.pull(skip=["checkpoint"]) == ["metrics.csv"]
    assert mirror.pull(skip=["checkpoint"]) == []
    later = Mirror(mirror.local, mirror.uri)
    assert later.pull(skip=["checkpoint"]) == later.push() == []
    write(there, {"metrics.csv": b"10"})
    assert sorted(mirror.pull()) == ["checkpoint/state.pt", "metrics.csv"]
    assert tree(mirror.local) == tree(there)


def test_locks_and_half_written_files_stay_here(pair):
    mirror, there = pair
    write(mirror.local, {".lock": b"", ".a.json.0a1b2c3d.tmp": b"half", "a.json": b"{}"})
    mirror.push()
    assert tree(there) == {"a.json": b"{}"}


def test_removing_a_folder_takes_it_away_in_both_places(pair):
    mirror, there = pair
    write(mirror.local, {"trials/0000/best/w": b"1", "trials/0000/metrics.csv": b"2"})
    mirror.push()
    mirror.remove("trials/0000/best")
    assert tree(there) == tree(mirror.local) == {"trials/0000/metrics.csv": b"2"}
    mirror.remove("trials/0001/best")  # of which there is none


def test_store_that_fails_for_a_while_is_tried_again(pair, monkeypatch):
    mirror, there = pair
    write(mirror.local, {"a": b"1"})
    calls = []

    def upload(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise OSError("no route to host")
        return Mirror._upload(mirror, *arguments)

    monkeypatch.setattr(mirror, "_upload", upload)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    mirror.push()
    assert tree(there) == {"a": b"1"} and len(calls) == 3


def test_store_that_keeps_failing_is_named_with_the_cause(pair, monkeypatch):
    mirror, there = pair
    write(mirror.local, {"a": b"1"})
    there.write_text("a file where the folder should be")
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.6)
    with pytest.raises(RunError, match=f"{mirror.uri} cannot be read or written: .*resume"):
        mirror.push()


@pytest.mark.parametrize("uri", ["s4://bucket/a", "s3:///a", "://a"])
def test_uri_that_is_none_is_refused_with_examples(uri):
    with pytest.raises(
        ConfigError, match=r"cannot be opened as a place for runs: .*[^.]\. Give s3://bucket"
    ):
        open_filesystem(uri)


def test_folder_that_comes_and_goes_meanwhile_is_no_error(pair):
    mirror, there = pair
    write(there, {"a/b": b"1"})
    listed = dict(mirror._files_there("a"))
    shutil.rmtree(there)
    mirror._download("a/b", listed["a/b"])
    assert tree(mirror.local) == {}
