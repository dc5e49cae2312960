from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder with the ssh key that the shipped on-prem file names."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "id_ed25519").touch()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return folder
