"""Weights carried over from an exported ensemble into a new run."""

import shutil

import pytest
from safetensors.torch import load_file
from small_ensembles import CLASSES, TRIALS

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.train.start import check_start, read_start


def config(source, trial: int = 3) -> TrainConfig:
    return TrainConfig.model_validate(TRIALS[trial] | {"init_from": str(source)})


@pytest.mark.parametrize(
    "member, folder", [("", "0003-ema"), ("#7", "0007-raw"), ("#0012", "0012-ema")]
)
def test_member_is_the_heaviest_or_the_one_that_is_named(artifact_folder, member, folder):
    start = read_start(config(f"{artifact_folder}{member}"))
    file = artifact_folder / "members" / folder / "model.safetensors"
    assert start.source == str(file) and start.classes == CLASSES
    assert start.tensors.keys() == load_file(file).keys()


def test_member_that_is_none_is_named_with_those_that_are(artifact_folder):
    with pytest.raises(ConfigError, match=r"no member of trial '4'; its trials: \[3, 7, 12\]"):
        check_start(config(f"{artifact_folder}#4"))


def test_changed_artifact_is_refused(artifact_folder, tmp_path):
    copy = tmp_path / "changed"
    shutil.copytree(artifact_folder, copy)
    (copy / "members" / "0003-ema" / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ConfigError, match="changed or damaged since the export"):
        check_start(config(copy))


def test_artifact_that_has_seen_validation_is_refused(selection, tmp_path):
    scores = selection.scores | {"nested": {"accuracy": 0.0, "accuracy_se": 0.1}}
    seen = {"trained_on": ("train", "validation"), "scores": scores}
    folder = selection.write(tmp_path / "refitted", **seen)
    with pytest.raises(ConfigError, match="not learned from validation.*/refitted was trained on"):
        check_start(config(f"{folder}#7"))
