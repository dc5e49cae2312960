"""The overhead benchmark runs, the way that needs no Ray, and its table holds what it promises."""

import csv
import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"


def test_table_has_a_row_of_costs_for_every_way(tmp_path):
    out = tmp_path / "overhead.csv"
    arguments = ["--ways", "optuna", "--blocks", "1", "--trials", "1", "--out", out]
    run = {"cwd": SCRIPT.parents[1], "env": os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}}
    subprocess.run([sys.executable, SCRIPT, *arguments], check=True, timeout=120, **run)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["way"], row["sessions"], row["trials"]) == ("optuna", "1", "4")
    assert (row["optuna"], row["date"] > "2026") == (version("optuna"), True)
    assert 0 < float(row["median_s"]) <= float(row["p90_s"]) < 5
    assert float(row["fit_median_s"]) > 0
    assert float(row["share_of_5_minutes"]) == pytest.approx(float(row["median_s"]) / 300, abs=1e-5)


def test_cost_of_a_trial_is_all_of_its_time_but_that_within_fit(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    costs = runpy.run_path(str(SCRIPT))["costs"]
    moments = [
        {"begin": 100.0},
        {"begin": 103.0, "end": 105.0, "waited": 0.5},  # a search's start and a trial's
        {"begin": 105.25, "end": 107.25, "waited": 0.25},
    ]
    found = costs([json.dumps(line) for line in moments])
    assert found == [(3.5, 1.5), (0.5, 1.75)]
