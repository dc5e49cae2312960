"""14,000 damaged files: each is read or refused in our own words, without a crash, a hang, a huge
allocation or a line of their code run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import readers
from mutations import mutate
from PIL import Image
from safetensors.torch import save_file

from raysearch.config import TrainConfig
from raysearch.data.shards import write_shards
from raysearch.ensemble import manifest as form
from raysearch.ensemble.manifest import InputEntry, Manifest, MemberEntry
from raysearch.files import write_json
from raysearch.probabilities import Probabilities, write_probabilities
from raysearch.train.trial import TrialRecord

ROOT = Path(__file__).parents[2]
CLASSES = ("angry", "happy", "sad")
MODEL = {"name": "vgg", "width": 4, "depth": 4}
GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
small (uint8[N, 1, 24, 24] images) => (float[N, 3] probabilities)
<float[3, 576] weights, int64[2] flat = {0, -1}> {
  pixels = Cast <to = 1> (images)
  rows = Reshape (pixels, flat)
  scale = Constant <value = float[1] {0.00392}> ()
  scaled = Mul (rows, scale)
  logits = Gemm <transB = 1> (scaled, weights)
  probabilities = Softmax (logits)
}
"""
PICTURES = {"png": "P", "jpg": "RGB", "gif": "P", "webp": "RGB", "tif": "CMYK", "bmp": "RGB"}
PICTURES |= {"pgm": "L", "avif": "RGB"}


@pytest.fixture
def work(tmp_path, rng) -> Path:
    """Small whole files of every format that raysearch reads."""
    make_artifact(tmp_path)
    make_data(tmp_path, rng)
    make_pictures(tmp_path, rng)
    shutil.copy(ROOT / "search_spaces" / "demo.yaml", tmp_path / "space.yaml")
    return tmp_path


def make_artifact(folder: Path) -> None:
    train = TrainConfig(model=MODEL, image_size=24)
    record = TrialRecord(7, train, CLASSES, (1, 24, 24), (0.5,), (0.25,), "f" * 32, 99)
    write_json(folder / "config.json", record.to_json())
    _, network = record.build()
    save_file(network.state_dict(), folder / "model.safetensors")
    member = {"trial": 7, "candidate": "ema", "weight": 1.0, "temperature": 1.1, "params": 99}
    described = Manifest(
        classes=CLASSES,
        input=InputEntry(channels=1, height=24, width=24),
        preprocessing={"resize": "bilinear"},
        members=(MemberEntry(**member, folder="members/0007-ema", mirror=False),),
        temperature=0.9,
        class_shares=dict.fromkeys(CLASSES, 0.3),
        scores={"validation": {"accuracy": 0.5, "log_loss": 1.0}},
        data={"fingerprint": "f" * 32},
        versions={"raysearch": "0"},
    )
    write_json(folder / "ensemble.json", described.model_dump(mode="json"))
    onnx.save(onnx.parser.parse_model(GRAPH), folder / "model.onnx")
    form.write_sums(folder, {"ensemble.json", "config.json", "model.safetensors"})


def make_data(folder: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (12, 1, 24, 24), dtype=np.uint8)
    rows = {"train": np.arange(12)}
    names = [f"{i}.png" for i in range(12)]
    write_shards(folder, images, rng.integers(0, 3, 12), names, rows, CLASSES, {})
    probs = {name: rng.dirichlet(np.ones(3), 12).astype(np.float16) for name in ("ema", "raw")}
    precision = dict.fromkeys(probs, "fp32")
    written = Probabilities(probs, "validation", "0" * 32, CLASSES, 3, precision)
    write_probabilities(folder / "validation.arrow", written)


def make_pictures(folder: Path, rng: np.random.Generator) -> None:
    noise = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    for suffix, mode in PICTURES.items():
        more = {"save_all": True, "append_images": [noise.rotate(180)]} if suffix == "gif" else {}
        noise.convert(mode).save(folder / f"picture.{suffix}", **more)
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("picture.*")):
            archive.write(path, path.name)


def fuzz(work: Path, *options: str) -> subprocess.CompletedProcess:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("readers.py"), work, *options]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=500, cwd=work
    )


def test_damaged_files_are_read_or_refused(work):
    done = fuzz(work)
    last = (work / "now").read_text().strip()
    assert done.returncode == 0, f"at {last}, exit {done.returncode}\n{done.stderr[-4000:]}"
    counts = json.loads(done.stdout)
    print("\n".join(f"{name:>14} {count}" for name, count in counts.items()))
    assert sum(sum(count.values()) for count in counts.values()) == 14_000
    for name, count in counts.items():
        if name != "zip":  # which names what it leaves out, and goes on
            assert count["refused"] > 0.1 * sum(count.values()), name


def endless(path: Path) -> None:
    while path:
        pass


@pytest.mark.parametrize(
    ("read", "result"),
    [
        (lambda path: {}["absent"], "KeyError: 'absent'"),
        (lambda path: bytearray(2**62), "MemoryError"),
        (endless, "TimeoutError: more than"),
        (form.read_json, "refused"),
        (Path.read_bytes, "read"),
    ],
)
def test_what_a_reader_may_not_do_is_told_with_what_was_done_to_the_file(
    tmp_path, monkeypatch, read, result
):
    monkeypatch.setattr(readers, "SECONDS", 0.5)
    signal.signal(signal.SIGPROF, readers.out_of_time)
    for name in ("some.txt", "manifest.json"):
        (tmp_path / name).write_text("[1, 2")
    told = readers.attempt(tmp_path, "x", readers.Reader(1, ["some.txt"], read), 0, seed=3)
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    assert result in told
    assert told in ("read", "refused") or told.startswith("some.txt: ")
    assert (tmp_path / "some.txt").read_text() == "[1, 2"


def test_mutations_repeat_by_their_seed_and_differ_from_the_original():
    data = bytes(range(256)) * 8
    for text in (False, True):
        made = [mutate(data, np.random.default_rng(seed), text) for seed in range(300)]
        again = [mutate(data, np.random.default_rng(seed), text) for seed in range(300)]
        assert made == again
        assert len({content for content, _ in made}) > 250
