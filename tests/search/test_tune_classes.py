"""`raysearch tune` on some of the data's classes, and on images that stay on the host."""

import json

import pytest
import yaml
from test_tune_command import raysearch

from raysearch.train.trial import trial_folders

pytestmark = pytest.mark.slow


def test_search_on_two_of_three_classes_is_theirs_from_end_to_end(
    tmp_path, space_text, shards_folder, run_program
):
    space = tmp_path / "two.yaml"
    space.write_text(
        space_text.replace("train:\n", "train:\n  classes: [c, a]\n  images_on: host\n")
    )
    done = raysearch(
        "tune", space, "--data", shards_folder, "--storage", tmp_path, "--name", "r", "--trials",
        2, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "r"
    assert yaml.safe_load((run / "run.yaml").read_text())["classes"] == ["c", "a"]
    for folder in trial_folders(run):
        record = folder.read_record()
        assert (record.classes, record.images_on) == (("c", "a"), "host")

    more = raysearch("resume", run, "--trials", 3, "--json")
    assert json.loads(more.stdout)["trials"] == {"completed": 3}, more.stderr
    chosen = json.loads(more.stdout)["ensemble"]["validation"]["accuracy"]

    scored = run_program(
        "evaluate", run / "ensemble", "--data", shards_folder, "--split", "validation", "--json"
    )
    report = json.loads(scored.stdout)
    assert report["accuracy"] == pytest.approx(chosen, abs=1e-4)
    assert report["classes_left_out"] == ["b"] and report["images"] < 60
    assert "classes b: their images are left out" in scored.stderr
    assert "Confusion" in (run / "report.html").read_text()
