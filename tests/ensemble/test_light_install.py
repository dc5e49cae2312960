"""`pip install '.[predict]'`: a real environment without torch that predicts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysearch.ensemble.predictor import Predictor

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "timm", "optuna", "pandas", "cv2")
SOURCES = ("raysearch", "search_spaces", "pyproject.toml", "README.md", "LICENSE")


def installer(python: Path) -> list[str]:
    """The command that installs packages into the environment of ``python``."""
    if uv := shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent):
        return [uv, "pip", "install", "--quiet", "--python", str(python)]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> Path:
    """The folder of the programs of a new environment; skips where no index can be reached."""
    folder = tmp_path_factory.mktemp("light")
    for name in SOURCES:  # a copy, as building leaves files behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    programs = folder / "venv" / "bin"
    constraints = ["-c", ROOT / "constraints.txt"]
    command = [
        *installer(programs / "python"),
        *constraints,
        f"raysearch[predict] @ {folder.as_uri()}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"packages cannot be installed here: {done.stderr.strip()[-300:]}")
    return programs


@pytest.mark.slow
def test_a_light_environment_predicts_what_the_full_one_does(light, artifact_folder, tmp_path, rng):
    images = rng.integers(0, 256, (3, 1, 20, 20), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "photos" / f"{number}.png")
    command = [light / "raysearch", "predict", artifact_folder, tmp_path / "photos", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [list(row["probabilities"].values()) for row in json.loads(done.stdout)]
    np.testing.assert_allclose(found, Predictor(artifact_folder).predict_probs(images), atol=1e-6)


@pytest.mark.slow
def test_a_light_environment_says_what_it_lacks(light, tmp_path):
    script = f"import importlib.util as u; print([name for name in {HEAVY} if u.find_spec(name)])"
    present = subprocess.run([light / "python", "-c", script], capture_output=True, text=True)
    assert present.stdout.strip() == "[]", present.stdout + present.stderr
    done = subprocess.run(
        [light / "raysearch", "tune"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1 and "pip install '.[train]'" in done.stderr
