"""The freezing benchmark runs, on a very small network, and its table holds what it promises."""

import csv
import runpy
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = "--model mini_xception --depths 0 3 6 --image-size 16 --batch-size 8 --blocks 1"
TINY += " --block-steps 1 --threads 1"


def test_table_has_a_row_a_depth_and_less_is_kept_the_deeper_it_is_frozen(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "freeze.csv"
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("sys.argv", ["freeze.py", *TINY.split(), "--out", str(out)])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(FOLDER / "freeze.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["freeze_depth"] for row in rows] == ["0", "3", "6"]
    assert rows[0]["times_first"] == "1.0" and rows[0]["date"] and rows[0]["cpu"]
    for row in rows:
        speed = float(row["images_per_second"])
        assert 0 < float(row["slowest_block"]) <= speed <= float(row["fastest_block"])
    kept = [float(row["saved_tensors_mb"]) for row in rows]
    assert kept[0] > kept[1] > kept[2]
    assert str(out) in capsys.readouterr().out
