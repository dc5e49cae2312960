"""What the scaling benchmark measures with: its stubs, its arithmetic, its table."""

import csv
import sys
from pathlib import Path

import pytest

from raysearch.data.shards import open_shards
from raysearch.data.synthetic import synthesize
from raysearch.ensemble.library import load_library
from raysearch.space import load_space

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scaling
import stubs


def test_stub_leaves_what_an_ensemble_is_selected_from(tmp_path, monkeypatch):
    (tmp_path / "space.yaml").write_text(stubs.SPACE.format(trials=4, epochs=2, sampler="random"))
    space = load_space(tmp_path / "space.yaml")
    synthesize(tmp_path / "faces", images=100)
    stub = stubs.make_stub(stubs.stub_files(tmp_path / "faces", space, 2), str(tmp_path), 0.02)
    rows = []
    monkeypatch.setattr("ray.tune.report", rows.append)
    for number in (3, 11):
        stub({"trial": number, "train": {"epochs": 2, "lr": 0.1}})
    assert [(row["trial"], row["epoch"]) for row in rows] == [(3, 1), (3, 2), (11, 1), (11, 2)]
    library = load_library(tmp_path, open_shards(tmp_path / "faces"))
    assert [c.trial for c in library.candidates] == [3, 3, 11, 11]
    assert library.skipped == {}


def search_of(trials: int, slots: int, seconds: float, gap: float) -> scaling.Watch:
    """What is heard of trials of one epoch each, ``gap`` seconds after each other in a slot, where
    the slots begin a second after each other."""
    watch = scaling.Watch(trials, stubs.Clock())
    for number in range(trials):
        begin = number % slots + (number // slots) * (seconds + gap)
        watch.starts.append(begin)
        watch.reports.append(begin + seconds)
    return watch


def test_share_of_the_ideal_leaves_out_the_start_and_the_end():
    assert search_of(400, 4, 10, 0).share_while_busy(4, 10) == pytest.approx(1, abs=0.011)
    assert search_of(400, 4, 10, 2.5).share_while_busy(4, 10) == pytest.approx(0.8, abs=0.011)
    assert search_of(4, 4, 10, 0).share_while_busy(4, 10) is None


def test_rows_are_added_to_a_table_as_they_are_measured(tmp_path, monkeypatch):
    out = tmp_path / "scaling.csv"
    command = ["scaling.py", "--trials", "20", "--epochs", "2", "--out", str(out), "--ledger"]
    for sampler in ("random", "tpe"):
        monkeypatch.setattr(sys, "argv", [*command, sampler])
        scaling.main()
    rows = list(csv.DictReader(out.open()))
    assert [(row["where"], row["sampler"]) for row in rows] == [
        ("ledger alone", "random"),
        ("ledger alone", "tpe"),
    ]
    assert all(float(row["ledger_ms_last_tenth"]) > 0 and row["nodes"] == "" for row in rows)
    assert set(scaling.COLUMNS) < set(rows[0])
