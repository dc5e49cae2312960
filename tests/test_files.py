import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raysearch import files
from raysearch.files import atomic_folder, atomic_path, sha256_of, write_json, write_text

OLD, NEW = "old " * 5000, "new " * 9000

KILL = """
import os, signal
from pathlib import Path

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_folder(path):
    if path.is_dir():
        die()

def half(path, text, **kwargs):
    with open(path, "w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        die()
"""
MOMENTS = {
    "before the write": "Path.write_text = die",
    "inside the write": "Path.write_text = half",
    "before the sync": "os.fsync = die",
    "before the rename": "os.replace = os.rename = die",
    "after the rename": "import raysearch.files; raysearch.files.sync = die_at_folder",
}


def run_until_killed(moment: str, work: str, *arguments: object) -> None:
    """Run ``work`` in a process of its own that SIGKILLs itself at ``moment``."""
    script = f"{KILL}\n{MOMENTS[moment]}\nimport sys\n{work}"
    process = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize("moment", MOMENTS)
def test_file_is_old_or_new_but_whole_after_sigkill(tmp_path, moment):
    path = tmp_path / "file"
    write_text(path, OLD)
    work = "from raysearch.files import write_text\nwrite_text(sys.argv[1], 'new ' * 9000)"
    run_until_killed(moment, work, path)
    assert path.read_text() == (NEW if moment == "after the rename" else OLD)
    write_text(path, "again")
    assert path.read_text() == "again"


@pytest.mark.parametrize("moment", MOMENTS)
def test_folder_is_absent_or_whole_after_sigkill_and_can_be_made_again(tmp_path, moment):
    folder = tmp_path / "folder"
    work = (
        "from raysearch.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as made:\n"
        "    for name in 'ab': (made / name).write_text('new ' * 9000)"
    )
    run_until_killed(moment, work, folder)
    if moment == "after the rename":
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": NEW, "b": NEW}
        return
    assert not folder.exists()
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    with atomic_folder(folder) as made:
        (made / "a").write_text("again")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_partial_folder_of_a_process_that_lives_is_kept(tmp_path):
    living = tmp_path / f".folder.{os.getppid()}.partial"
    living.mkdir()
    with atomic_folder(tmp_path / "folder"):
        pass
    assert living.exists()


def test_partial_folder_of_an_earlier_process_with_our_number_is_removed(tmp_path):
    """In a container the process that is killed and the next one often have the same number."""
    stale = tmp_path / f".folder.{os.getpid()}.partial"
    stale.mkdir()
    (stale / "left").touch()
    with atomic_folder(tmp_path / "folder") as made:
        assert list(made.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_partial_folders_of_other_names_are_left_alone(tmp_path):
    other = tmp_path / ".other.1234567890.partial"
    other.mkdir()
    with atomic_folder(tmp_path / "folder"):
        pass
    assert other.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    with pytest.raises(error), atomic_folder(tmp_path / "folder") as made:
        (made / "a").touch()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_keeps_the_file_that_was_there(tmp_path):
    write_text(tmp_path / "file", OLD)
    with pytest.raises(ValueError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert (tmp_path / "file").read_text() == OLD


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text(OLD)
    with pytest.raises(OSError), atomic_folder(tmp_path / "folder") as made:
        (made / "a").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["precious"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.fixture(params=["one step", "three steps"])
def exchange(request, monkeypatch):
    """With the system's exchange of two names, and without it."""
    if request.param == "three steps":
        monkeypatch.setattr(files.ctypes, "CDLL", lambda name: object())


def test_a_folder_is_replaced_whole_where_asked(tmp_path, exchange):
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "folder", replace=True) as made:
            (made / content).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("moment", ["inside the write", "before the sync", "after the rename"])
def test_replaced_folder_is_old_or_new_but_whole_after_sigkill(tmp_path, moment):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text(OLD)
    work = (
        "from raysearch.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1], replace=True) as made:\n"
        "    (made / 'a').write_text('new ' * 9000)"
    )
    run_until_killed(moment, work, folder)
    assert (folder / "a").read_text() == (NEW if moment == "after the rename" else OLD)
    with atomic_folder(folder, replace=True) as made:
        (made / "a").write_text("again")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_replacement_keeps_the_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text(OLD)
    with pytest.raises(ValueError), atomic_folder(tmp_path / "folder", replace=True) as made:
        (made / "a").write_text(NEW)
        raise ValueError
    assert (tmp_path / "folder" / "a").read_text() == OLD


def test_readers_beside_a_writer_never_see_half_a_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, OLD)
    writer = threading.Thread(
        target=lambda: [write_text(path, NEW if i % 2 else OLD) for i in range(60)]
    )
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(path.read_text())
    writer.join()
    assert seen <= {OLD, NEW}


def test_parents_are_made_and_text_is_utf8(tmp_path):
    write_json(tmp_path / "a" / "b" / "file.json", {"größe": "48 × 48"})
    text = (tmp_path / "a" / "b" / "file.json").read_bytes().decode("utf-8")
    assert json.loads(text) == {"größe": "48 × 48"}
    assert "größe" in text


def test_sha256_is_that_of_coreutils(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 999)
    out = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert sha256_of(Path(path)) == out.split()[0]
