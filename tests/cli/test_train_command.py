import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raysearch.data.shards import write_shards

CONFIG = "{model: {name: mlp, hidden: [8]}, epochs: 100000, batch_size: 8, image_size: 8}\n"


@pytest.fixture
def data(tmp_path, rng) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    images = rng.integers(0, 256, (48, 1, 8, 8), dtype=np.uint8)
    rows = {"train": range(40), "validation": range(40, 48)}
    names = [f"{i}.png" for i in range(48)]
    write_shards(folder, images, np.arange(48) % 2, names, rows, ["a", "b"], {})
    return folder


def test_ctrl_c_ends_training_in_words_and_keeps_what_was_done(tmp_path, data):
    (tmp_path / "config.yaml").write_text(CONFIG)
    process = subprocess.Popen(
        [sys.executable, "-m", "raysearch", "train", "config.yaml", "--data", str(data)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Also where the tests run in a shell's background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stderr:
        if "epoch" in line:
            process.send_signal(signal.SIGINT)
            break
    output, errors = process.communicate(timeout=60)
    folder = Path("results") / "train" / "config"
    assert process.returncode == 130
    assert errors.splitlines()[-1] == f"interrupted; the same command goes on with {folder}"
    assert output == ""
    status = json.loads((tmp_path / folder / "status.json").read_text())
    assert status["status"] == "interrupted" and status["epochs"] >= 1
