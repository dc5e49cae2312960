"""`make test` without ARGS: two pytests side by side, on small folders of tests."""

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "test.py"
PROGRAM = f"import sys, runpy; run = runpy.run_path({str(SCRIPT)!r})['run_side_by_side']; "


@pytest.fixture
def start(tmp_path):
    """``start(seen, held)``: both texts as tests; the process that runs them."""

    def start(seen: str, held: str) -> subprocess.Popen:
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        (tmp_path / "pytest.ini").touch()
        for name, text in (("seen", seen), ("held", held)):
            (tmp_path / f"test_{name}.py").write_text(text)
        parts = [[*options, f"test_{name}.py"] for name in ("seen", "held")]
        return subprocess.Popen(
            [sys.executable, "-c", f"{PROGRAM}sys.exit(run(*{parts}))"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.mark.parametrize(
    ("seen", "held", "code"),
    [("pass", "pass", 0), ("pass", "assert 0", 1), ("assert 0", "pass", 1)],
)
def test_both_run_and_either_fails_both(start, seen, held, code):
    process = start(f"def test_seen(): {seen}", f"def test_held(): {held}\ndef test_b(): pass")
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == code, lines
    assert len([line for line in lines if " in 0." in line and "=" not in line]) == 2
    words = "1 failed, 2 passed in " if code else "3 passed in "
    assert lines[-1].strip("= ").startswith(words)


def test_the_two_have_every_file_of_tests_once(monkeypatch):
    monkeypatch.chdir(SCRIPT.parents[1])
    found = []
    for part in runpy.run_path(str(SCRIPT))["parts"]():
        left_out = [word.removeprefix("--ignore=") for word in part if word.startswith("--")]
        for word in (word for word in part if not word.startswith("--")):
            files = [Path(word)] if word.endswith(".py") else Path(word).rglob("test_*.py")
            found += [file for file in files if str(file) not in left_out]
    assert sorted(found) == sorted(Path("tests").rglob("test_*.py"))


def test_ctrl_c_ends_both(start, tmp_path):
    wait = (
        "import time, pathlib\ndef test_it():\n    pathlib.Path({!r}).touch()\n    time.sleep(60)"
    )
    process = start(wait.format("a"), wait.format("b"))
    while not all((tmp_path / name).exists() for name in "ab"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert text.count("KeyboardInterrupt") >= 2
