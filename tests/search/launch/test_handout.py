"""What is made here for a cluster's nodes: the token, the wheel and its packages' versions."""

import os
import platform
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from cluster_files import write

from raysearch.errors import ConfigError
from raysearch.search.launch import wheel
from raysearch.search.launch.clusterfile import load_cluster_file
from raysearch.search.launch.handout import (
    constraints,
    hand_out,
    make_token,
    read_token,
    token_file,
    wheel_folder,
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_token_is_for_its_owner_alone(home, umask):
    before = os.umask(umask)
    try:
        assert make_token()
    finally:
        os.umask(before)
    assert mode(token_file()) == 0o600
    assert mode(token_file().parent) == 0o700
    assert len(bytes.fromhex(read_token())) == 32


def test_a_token_that_others_may_read_is_closed_and_kept(home):
    token_file().parent.mkdir()
    token_file().write_text("secret\n")
    token_file().chmod(0o644)
    assert not make_token()
    assert mode(token_file()) == 0o600
    assert read_token() == "secret"


def test_an_empty_token_is_refused(home):
    token_file().parent.mkdir()
    token_file().touch()
    with pytest.raises(ConfigError, match="is empty"):
        read_token()


def test_the_token_file_is_the_one_that_ray_reads(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert make_token()
    assert mode(tmp_path / "elsewhere") == 0o600


def test_a_file_gets_what_it_sends_and_no_more(home, tmp_path):
    mount = "  ~/.raysearch/wheels/: ~/.raysearch/wheels/"
    path = write(tmp_path, "onprem", (mount, f"#{mount}"))
    assert hand_out(load_cluster_file(path)) == [token_file()]
    assert hand_out(load_cluster_file(path)) == []
    assert not wheel_folder().exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return wheel.build_wheel(tmp_path_factory.mktemp("built"))


def test_the_handout_holds_this_raysearch_and_its_versions(home, tmp_path, built):
    wheel_folder().mkdir(parents=True)
    (wheel_folder() / "raysearch-0.0.1-py3-none-any.whl").touch()
    hand_out(load_cluster_file(write(tmp_path, "onprem")))
    (made,) = wheel_folder().glob("*.whl")
    assert made.read_bytes() == built.read_bytes()
    python = (wheel_folder() / "python-version").read_text().strip()
    assert platform.python_version().startswith(python + ".")
    pins = (wheel_folder() / "constraints.txt").read_text().splitlines()
    assert f"ray=={metadata.version('ray')}" in pins


def test_an_equal_wheel_is_not_written_again(built):
    """Ray sets nodes up again where a file changes."""
    before = built.stat().st_mtime_ns
    assert wheel.build_wheel(built.parent) == built
    assert built.stat().st_mtime_ns == before


def test_the_wheel_holds_the_package_the_spaces_and_the_command(built):
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        (metadata_file,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata_file).decode()
    assert "raysearch/search/launch/wheel.py" in names
    assert any(name.endswith("share/raysearch/search_spaces/demo.yaml") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)
    assert "Provides-Extra: cluster" in text


PACK = """
import sys
from pathlib import Path
from raysearch.search.launch import wheel
assert not wheel.is_checkout()
print(wheel.build_wheel(Path(sys.argv[1])))
"""


def test_an_installed_wheel_is_packed_again(tmp_path, built):
    """As an installer unpacks it, where no checkout is."""
    site = tmp_path / "lib/python/site-packages"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    (data,) = site.glob("*.data")
    (data / "data" / "share").rename(tmp_path / "share")
    (information,) = site.glob("*.dist-info")
    record = information / "RECORD"
    moved = f"{data.name}/data/share"
    record.write_text(record.read_text().replace(moved, "../../../share"))
    (information / "INSTALLER").write_text("test")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PACK, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(built) as one, zipfile.ZipFile(done.stdout.strip()) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            if not name.endswith("RECORD"):
                assert one.read(name) == other.read(name), name
        assert sorted(one.read(record.relative_to(site).as_posix()).split()) == sorted(
            other.read(record.relative_to(site).as_posix()).split()
        )


def test_constraints_name_each_package_once_without_its_build(monkeypatch):
    class Distribution:
        def __init__(self, name, version):
            self.metadata, self.version = {"Name": name}, version

    shown = [("torch", "2.15.0+cpu"), ("Torch", "1.0"), ("ray", "2.60.0"), ("raysearch", "0.1.0")]
    monkeypatch.setattr(metadata, "distributions", lambda: [Distribution(*s) for s in shown])
    assert constraints() == "ray==2.60.0\ntorch==2.15.0\n"
