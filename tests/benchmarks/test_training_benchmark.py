"""The training benchmark runs, on a very small archive, and its table holds what it promises."""

import csv
import io
import runpy
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysearch.data.importing import import_data

FOLDER = Path(__file__).parents[2] / "benchmarks"
CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
TINY = "--threads 1 --width 4 --depth 4 --batch-size 8 --blocks 1 --block-steps 2"
TINY += " --fraction 0.75 --epochs 1 --seeds 2"


@pytest.fixture
def archive(tmp_path, rng) -> Path:
    """In the layout of FER2013's image archive: 28 training images, 14 of the public test."""
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as files:
        for name in CLASSES:
            for number in range(6):
                image = Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8))
                encoded = io.BytesIO()
                image.save(encoded, "jpeg")
                split = "train" if number < 4 else "test"
                prefix = "Training" if number < 4 else "PublicTest"
                source = f"{split}/{name}/{prefix}_{number}{CLASSES.index(name)}.jpg"
                files.writestr(source, encoded.getvalue())
    return path


def run(monkeypatch, *arguments) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("sys.argv", ["training.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(FOLDER / "training.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


def test_benchmark_compares_both_programs(archive, tmp_path, monkeypatch, capsys):
    import_data([str(archive)], tmp_path / "shards")
    out = tmp_path / "training.csv"
    paths = ["--data", tmp_path / "shards", "--archive", archive, "--out", out]
    run(monkeypatch, *paths, *TINY.split())
    with open(out, newline="", encoding="utf-8") as file:
        rows = {row["program"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["raysearch", "raysearch, fp32", "ImageFolder, DataLoader"]
    for row in rows.values():
        speed = float(row["images_per_second"])
        assert 0 < float(row["slowest_block"]) <= speed <= float(row["fastest_block"])
        assert (row["blocks"], row["fraction"], row["torch"]) == ("1", "0.75", version("torch"))
        assert row["date"] and row["cores"] and row["cpu"]
    assert rows["ImageFolder, DataLoader"]["times_theirs"] == "1.0"
    for name in ("raysearch", "ImageFolder, DataLoader"):
        assert len(rows[name]["each_seed"].split()) == 2
        assert 0 <= float(rows[name]["validation_accuracy"]) <= 1
    assert str(out) in capsys.readouterr().out


def test_shards_of_another_archive_are_refused(archive, tmp_path, monkeypatch):
    import_data([str(archive)], tmp_path / "shards")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as files:
        files.writestr("readme.txt", "nothing")
    paths = ["--data", tmp_path / "shards", "--archive", tmp_path / "other.zip"]
    with pytest.raises(SystemExit, match="was not imported from"):
        run(monkeypatch, *paths, "--out", tmp_path / "training.csv", *TINY.split())
