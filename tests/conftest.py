"""What all tests share: where the real data is, and small images made on the spot."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from photographs import write_photographs
from s3_store import bucket, s3_server  # noqa: F401  (fixtures)
from typer.testing import CliRunner

# A busy machine must not fail a test that is only slow.
settings.register_profile("raysearch", deadline=None)
settings.load_profile("raysearch")


def fer2013_archive() -> Path | None:
    """The archive named by RAYSEARCH_FER2013, or one in ../shared/data beside the checkout."""
    named = os.environ.get("RAYSEARCH_FER2013")
    beside = Path(__file__).parents[2] / "shared" / "data" / "fer2013" / "fer2013.zip"
    for path in ([Path(named)] if named else []) + [beside]:
        if path.is_file():
            return path
    return None


@pytest.fixture(scope="session")
def fer2013_zip() -> Path:
    archive = fer2013_archive()
    if archive is None:
        pytest.skip("the FER2013 archive is not here; name it in RAYSEARCH_FER2013")
    return archive


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """1,000 colour pictures of mixed sizes in six class folders."""
    return write_photographs(tmp_path_factory.mktemp("photographs") / "photos")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def run_command():
    """``run_command(*arguments)``: a command of raysearch, run here; a failure is raised."""
    from raysearch.cli import _register, app

    if not app.registered_commands:
        _register()

    def run(*arguments: object):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None:
            raise result.exception
        return result

    return run


@pytest.fixture
def run_program(monkeypatch, capsys):
    """``run_program(*words)``: what a shell sees of `raysearch`, run in this process, which has
    paid for the imports; an exception that would be a traceback there is raised."""
    from raysearch import cli

    def run(*words: object) -> subprocess.CompletedProcess:
        monkeypatch.setattr(cli.app, "registered_commands", [])
        monkeypatch.setattr(cli.app, "registered_groups", [])
        monkeypatch.setattr("sys.argv", ["raysearch", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run
