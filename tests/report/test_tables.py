import csv
import shutil

import pandas as pd
import pytest

from raysearch.errors import ArtifactError
from raysearch.report.tables import flatten, leaderboard, run_status, write_leaderboard
from raysearch.train.trial import TrialFolder, trial_folders

STATUSES = ["completed", "pruned", "running", "interrupted", "diverged", "out_of_memory", "failed"]


def test_leaderboard_is_sorted_by_the_best_epoch_with_scoreless_trials_last(make_run):
    board = leaderboard(make_run(["failed", "completed", "pruned", "completed"]))
    assert list(board["trial"]) == [1, 3, 2, 0]
    assert board["validation_log_loss"].iloc[:3].is_monotonic_increasing
    assert pd.isna(board["validation_log_loss"].iloc[3])


def test_scores_are_those_of_the_epoch_with_the_lowest_log_loss(make_run):
    run = make_run(["completed"])
    with open(trial_folders(run)[0].metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["validation_log_loss"]))
    row = leaderboard(run).iloc[0]
    assert row["best_epoch"] == int(best["epoch"])
    assert row["validation_accuracy"] == float(best["validation_accuracy"])
    assert row["seconds"] == sum(float(r["seconds"]) for r in rows)


def test_columns_show_the_settings_that_differ_and_no_others(make_run):
    board = leaderboard(make_run(["completed"] * 6))
    extra = list(board.columns[10:])
    assert {"lr", "optimizer", "augment.rotate", "model.width"} <= set(extra)
    assert not {"epochs", "seed", "batch_size", "model.name"} & set(extra)
    assert set(board.loc[board["model"] == "mlp", "model.width"]) == {None}


def test_a_metrics_line_that_is_cut_short_is_left_out(make_run):
    run = make_run(["completed"])
    metrics = trial_folders(run)[0].metrics
    whole = leaderboard(run).iloc[0]["epochs"]
    metrics.write_bytes(metrics.read_bytes()[:-20])
    assert leaderboard(run).iloc[0]["epochs"] == whole - 1


def test_a_trial_without_a_readable_configuration_still_has_its_row(make_run):
    run = make_run(["completed", "failed"])
    trial_folders(run)[1].config.write_text("{")
    row = leaderboard(run).set_index("trial").loc[1]
    assert (row["status"], row["model"]) == ("failed", "")
    assert f"{row['parameters']:,}" == "nan"


def test_csv_holds_the_leaderboard(make_run):
    run = make_run(STATUSES)
    frame = pd.read_csv(write_leaderboard(run))
    board = leaderboard(run)
    assert list(frame.columns) == list(board.columns)
    assert list(frame["trial"]) == list(board["trial"])
    for name in ("validation_log_loss", "lr"):
        pd.testing.assert_series_equal(
            frame[name], board[name].astype(float), check_names=False, rtol=1e-5
        )


@pytest.mark.parametrize("command", [leaderboard, run_status, write_leaderboard])
def test_a_folder_that_is_no_run_is_named(tmp_path, command):
    with pytest.raises(ArtifactError, match=r"is not a run's folder.*tune"):
        command(tmp_path)


def test_status_counts_every_trial_once(make_run):
    found = run_status(make_run(STATUSES))
    assert found["trials"] == {
        "running": 1,
        "completed": 1,
        "pruned": 1,
        "failed": 3,
        "pending": 1 + 1,  # the interrupted one, and one of the limit that never started
    }
    assert found["best"]["trial"] == 0
    assert found["elapsed_seconds"] > 0


def test_status_of_a_run_that_has_not_started_a_trial(make_run):
    found = run_status(make_run([]))
    assert found["best"] is None
    assert found["trials"]["pending"] == 1
    assert found["elapsed_seconds"] == 0


def test_status_of_bare_trials_without_a_description(make_run):
    run = make_run(["completed"])
    (run / "run.yaml").unlink()
    assert run_status(run)["trials"]["completed"] == 1


def test_trials_are_ordered_by_number_not_by_name(make_run):
    run = make_run(["completed"] * 2)
    shutil.move(run / "trials" / "0001", run / "trials" / "10000")
    shutil.copytree(run / "trials" / "0000", run / "trials" / "9999")
    assert [int(TrialFolder(f.path).path.name) for f in trial_folders(run)] == [0, 9999, 10000]


def test_flatten_joins_names_with_dots():
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}
