"""One process at a time works on a run, on one machine or at a URI."""

import json
import subprocess
import sys
import time

import pytest

from raysearch.errors import RunError
from raysearch.search import lock
from raysearch.search.lock import locked
from raysearch.storage.mirror import Mirror
from raysearch.storage.runs import RunPlace

HOLD = """
import sys
from pathlib import Path
from raysearch.search import lock
from raysearch.storage.mirror import Mirror
from raysearch.storage.runs import RunPlace
lock.RENEW_SECONDS, lock.SETTLE_SECONDS = 0.2, 0.1
path = Path(sys.argv[1])
mirror = Mirror(path, sys.argv[2]) if len(sys.argv) > 2 else None
with lock.locked(RunPlace(path, mirror)):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(*arguments):
    command = [sys.executable, "-c", HOLD, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("bucket") + "/run"
    (tmp_path / "store").mkdir()
    return f"file://{tmp_path}/store"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 2.0)


def place_at(uri, folder):
    folder.mkdir(exist_ok=True)
    return RunPlace(folder, Mirror(folder, uri))


def written(mirror):
    return json.loads(mirror.read(".lock"))


def test_second_process_is_refused_until_the_first_ends_even_by_a_kill(tmp_path):
    with hold(tmp_path) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"Process {holder.pid} is working on"):
            with locked(RunPlace(tmp_path)):
                pass
        holder.kill()
        holder.wait()
        with locked(RunPlace(tmp_path)):
            pass


def test_lock_is_released_at_the_end(tmp_path):
    for _ in range(2):
        with locked(RunPlace(tmp_path)):
            pass


def test_at_a_uri_others_are_refused_by_name_while_it_is_renewed(tmp_path, uri, quick):
    (tmp_path / "a").mkdir()
    place, said = place_at(uri, tmp_path / "b"), []
    with hold(tmp_path / "a", uri) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=rf"Process {holder.pid} on \S+ is working on {uri}"):
            with locked(place, said.append):
                pass
        assert "waiting up to 2 s" in said[0]
        holder.stdin.close()
        assert holder.wait() == 0
        said.clear()
        with locked(place, said.append):
            pass
    assert not said
    assert not place.mirror.exists(".lock")


def test_at_a_uri_a_killed_process_of_this_machine_is_not_waited_for(tmp_path, uri, quick):
    (tmp_path / "a").mkdir()
    said = []
    with hold(tmp_path / "a", uri) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()
        place = place_at(uri, tmp_path / "b")
        with locked(place, said.append):
            assert written(place.mirror)["token"]
    assert not said


@pytest.mark.parametrize("left", [b'{"process": 1, "machine": "gone x y", "token": "t"}', b"{tor"])
def test_what_a_lost_machine_left_is_taken_over(tmp_path, uri, quick, left):
    place = place_at(uri, tmp_path / "b")
    place.mirror.write(".lock", left)
    begin, said = time.monotonic(), []
    with locked(place, said.append):
        assert written(place.mirror)["process"] != 1
    assert said == [] or (time.monotonic() - begin > 2 and "Process 1 on gone" in said[0])
    assert bool(said) == (left != b"{tor")


def test_one_that_was_cut_off_and_replaced_changes_nothing_any_more(tmp_path, uri, quick):
    place = place_at(uri, tmp_path / "a")
    (place.path / "study.log").write_text("old")
    with locked(place):
        other = {"process": 7, "machine": "laptop x y", "token": "t"}
        Mirror(tmp_path / "b", uri).write(".lock", json.dumps(other).encode())
        limit = time.monotonic() + 10
        while not place.mirror.fence and time.monotonic() < limit:
            time.sleep(0.05)
        with pytest.raises(RunError, match=f"Process 7 on laptop is working on {uri}"):
            place.push()
    anew = Mirror(tmp_path / "b", uri)
    assert not anew.exists("study.log")
    assert written(anew)["token"] == "t"


def test_of_two_that_come_at_once_one_gets_the_run(tmp_path, uri, quick, monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.5)
    first = lock.Lease(Mirror(tmp_path / "a", uri), print)
    write = first._write

    def overtaken():
        write()
        lock.Lease(Mirror(tmp_path / "b", uri), print)._write()

    monkeypatch.setattr(first, "_write", overtaken)
    with pytest.raises(RunError, match="is working on"), first:
        pass
