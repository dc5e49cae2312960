import html.parser
import json
import re

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix as reference_confusion
from sklearn.metrics import precision_recall_fscore_support

from raysearch.data.shards import open_shards
from raysearch.errors import ArtifactError
from raysearch.report import page, predictions
from raysearch.report.runfiles import add_search
from raysearch.report.tables import leaderboard
from raysearch.train.trial import trial_folders


class Outline(html.parser.HTMLParser):
    """Headings, and every address that a tag refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.headings, self.links, self.open, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.open.append(tag)
        self.links += [v for k, v in values.items() if k in ("src", "href", "xlink:href")]
        self.ids += [values["id"]] if "id" in values else []

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2" and data.strip():
            self.headings.append(data.strip())


def write(run) -> str:
    return page.write_report(run).read_text(encoding="utf-8")


@pytest.fixture
def full_run(make_run):
    return make_run(["completed"] * 9 + ["pruned"] * 3 + ["out_of_memory", "running"], True)


def test_page_of_a_full_run_has_every_section(full_run):
    assert Outline(write(full_run)).headings == [
        "Ensemble",
        "Members",
        "Leaderboard",
        "Search",
        "Where the ensemble is right and wrong",
        "Trials that ended with an error",
        "How it was made",
    ]


def test_page_needs_no_network_and_no_other_file(full_run):
    text = write(full_run)
    assert all(link.startswith("#") for link in Outline(text).links)
    assert not re.search(r"<script|@import|url\((?!#)|<link|<iframe", text)
    assert text.count("<svg") == 8


def test_figures_follow_the_text_colour_and_share_no_names(full_run):
    text = write(full_run)
    assert page.figures.INK not in text
    assert "currentColor" in text
    ids = Outline(re.sub(r"<defs>.*?</defs>", "", text, flags=re.DOTALL)).ids
    assert len(ids) == len(set(ids))


def test_synthetic_data_is_named_and_other_data_is_not(full_run):
    assert "Synthetic data." in write(full_run)
    description = full_run / "run.yaml"
    description.write_text(description.read_text().replace("synthetic", "given"))
    assert "Synthetic data." not in write(full_run)


def test_candidates_that_were_left_out_are_named_with_the_reason(full_run):
    text = write(full_run)
    assert "<dt>trial 9 ema</dt><dd>belongs to other data</dd>" in text


def test_costs_of_the_exported_ensemble_are_shown_with_their_machine(full_run):
    text = re.sub(r"\s+", " ", write(full_run))
    assert "<td>30,000</td> <td>0.121 MB</td><td>2.5 M</td> <td>1.75 ms</td>" in text
    assert "A CPU, 4 cores; 64 images at once take 40.5 ms" in text
    assert "time for one image" in text


def test_report_of_an_ensemble_whose_costs_are_unknown_is_still_written(full_run):
    path = full_run / "ensemble_report.json"
    report = json.loads(path.read_text())
    del report["cost"]
    path.write_text(json.dumps(report))
    assert "all, as exported" not in write(full_run)


def test_headline_is_the_nested_estimate(full_run):
    tile = re.search(r'main-tile"><b>(.*?)</b>', write(full_run))
    assert tile[1] == "70.00 %"


def test_sections_without_input_are_left_out(make_run):
    headings = Outline(write(make_run(["running"]))).headings
    assert headings == ["Leaderboard", "Search", "How it was made"]
    assert Outline(write(make_run([], name="empty"))).headings == ["Leaderboard", "How it was made"]


def test_best_trial_stands_in_where_there_is_no_ensemble(make_run):
    assert "Where the trial 0 is right and wrong" in write(make_run(["completed", "completed"]))


def test_text_from_a_run_cannot_become_markup(make_run):
    run = make_run(["failed"])
    trial_folders(run)[0].write_status("failed", 0, "<script>alert(1)</script>")
    text = write(run)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_probabilities_of_other_data_are_not_shown(make_run):
    run = make_run(["completed"])
    path = trial_folders(run)[0].validation
    found = predictions.read_probabilities(path)
    from dataclasses import replace

    from raysearch.probabilities import write_probabilities

    write_probabilities(path, replace(found, digest="other"))
    assert predictions.validation_predictions(run, 0) is None


def test_page_is_the_same_when_written_twice(full_run):
    assert write(full_run) == write(full_run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is not a run's folder"):
        page.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_ensemble_probabilities_are_the_tempered_weighted_mean(full_run):
    found = predictions.validation_predictions(full_run, 0)
    manifest = json.loads((full_run / "ensemble" / "ensemble.json").read_text())
    expected = 0
    for member in manifest["members"]:
        path = full_run / "trials" / f"{member['trial']:04d}" / "validation.arrow"
        probs = predictions.read_probabilities(path).candidates["ema"].astype(float)
        probs = np.exp(np.log(probs) / member["temperature"])
        expected = expected + member["weight"] * probs / probs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probs_VK, expected, atol=1e-12)
    labels = open_shards(full_run.parent / "data").split("validation").labels_N
    np.testing.assert_array_equal(found.labels_V, labels)


def test_confusion_and_class_scores_equal_scikit_learn(rng):
    labels, probs = rng.integers(0, 4, 300), rng.dirichlet(np.ones(5), 300)
    made = predictions.Predictions("x", tuple("abcde"), labels, probs)
    counts = predictions.confusion_matrix(made)
    guesses = probs.argmax(axis=1)
    np.testing.assert_array_equal(counts, reference_confusion(labels, guesses, labels=range(5)))
    reference = precision_recall_fscore_support(labels, guesses, labels=range(5), zero_division=0)
    found = predictions.class_scores(counts)
    for row, name in enumerate(("precision", "recall", "f1", "support")):
        np.testing.assert_allclose([scores[name] for scores in found], reference[row])


def test_calibration_error_by_hand():
    """Three images at confidence 0.9, two of them right; two at 0.6, one right."""
    probs = np.array([[0.9, 0.1]] * 3 + [[0.4, 0.6]] * 2)
    made = predictions.Predictions("x", ("a", "b"), np.array([0, 0, 1, 1, 0]), probs)
    bins = predictions.reliability(made, bins=10)
    np.testing.assert_array_equal(bins.images, [2, 3])
    np.testing.assert_allclose(bins.accuracy, [1 / 2, 2 / 3])
    assert bins.error == pytest.approx((2 * 0.1 + 3 * abs(0.9 - 2 / 3)) / 5)


def test_rank_correlations_equal_scipy_over_completed_trials(make_run):
    board = leaderboard(make_run(["completed"] * 12 + ["pruned"] * 4))
    completed = board[board["status"] == "completed"]
    found = dict(page.rank_correlations(board))
    expected = spearmanr(completed["lr"].astype(float), completed["validation_log_loss"])
    assert found["lr"] == pytest.approx(expected.statistic)
    held = completed["model.width"].notna()
    expected = spearmanr(
        completed["model.width"][held].astype(float), completed["validation_log_loss"][held]
    )
    assert found["model.width"] == pytest.approx(expected.statistic)
    assert "optimizer" not in found


def test_few_trials_get_no_rank_correlations(make_run):
    assert page.rank_correlations(leaderboard(make_run(["completed"] * 7))) == []


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (page.percent(0.69884), "69.88 %"),
        (page.percent(None), "–"),
        (page.score(float("nan")), "–"),
        (page.count(1234567), "1,234,567"),
        (page.duration(3725.4), "1:02:05"),
        (page.duration(59.7), "1:00"),
        (page.setting(0.00123456), "0.001235"),
        (page.setting(None), ""),
        (page.setting(True), "True"),
    ],
)
def test_values_are_shown_with_their_usual_digits(made, expected):
    assert made == expected


def test_every_search_of_a_run_says_how_well_it_used_its_slots(make_run):
    run = make_run(["completed"])
    assert "time spent training" not in write(run)
    add_search(run, {"seconds": 725.0, "slots": 2, "utilization": 0.874})
    add_search(run, {"seconds": 60.0, "slots": 4, "utilization": 0.5})
    assert "87 % of 2 × 12:05, then 50 % of 4 × 1:00" in write(run)
