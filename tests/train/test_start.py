"""Runs that begin with weights, and runs whose first layers stand still, through the real `fit`."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_runs import CLASSES, SIDE, make_config, make_dataset, patterns, run_fit

from raysearch.configfile import load_train_config
from raysearch.data.shards import write_shards
from raysearch.errors import ConfigError
from raysearch.files import sha256_of
from raysearch.models.freeze import frozen_tensors
from raysearch.models.registry import build_model
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.refit import refit_trial
from raysearch.train.runner import run_trial
from raysearch.train.single import train_one
from raysearch.train.start import check_start, read_start, resolve_start
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")
VGG = {"name": "vgg", "width": 4, "depth": 5}


def state(training: Training) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in training.network.state_dict().items()}


def train_trial(folder: Path, **changes) -> Path:
    dataset = make_dataset()
    config = make_config(VGG, epochs=1, **changes)
    assert run_trial(folder, 0, config, dataset, device=CPU) == "completed"
    return folder


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    return train_trial(tmp_path_factory.mktemp("trial") / "0000")


def weights_of(trial: Path) -> dict[str, torch.Tensor]:
    return load_file(trial / "best" / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_tensors_stand_still_through_an_epoch_and_the_others_move(optimizer, precision):
    config = make_config(
        VGG, epochs=1, freeze_depth=3, optimizer=optimizer, precision=precision, mixup=0.2
    )
    dataset = make_dataset()
    before = state(Training(config, dataset, CPU, Workers()))
    training = run_fit(config, dataset)[-1].training
    still, after = frozen_tensors(training.network), state(training)
    assert len([name for name in still if "running" in name or "num_batches" in name]) == 9
    for name in after:
        assert torch.equal(before[name], after[name]) == (name in still)
    averaged = training.average.network.state_dict()
    assert all(torch.equal(averaged[name], before[name]) for name in still)
    held = [p for group in training.optimizer.param_groups for p in group["params"]]
    learning = [p for p in training.network.parameters() if p.requires_grad]
    assert (
        {id(p) for p in held}
        == {id(p) for p in learning}
        == {id(p) for p in training.optimizer.state}
    )


def test_average_that_skips_frozen_tensors_is_the_average_of_all():
    dataset, config = make_dataset(), make_config(VGG, epochs=1, freeze_depth=2)
    training = Training(config, dataset, CPU, Workers())
    training.average.moves = [True] * len(training.average.moves)
    training.run_epoch()
    whole = training.average.network.state_dict()
    skipping = run_fit(config, dataset)[-1].training.average.network.state_dict()
    assert all(torch.equal(whole[name], skipping[name]) for name in whole)


def test_too_deep_is_refused_with_the_number():
    with pytest.raises(ConfigError, match="freeze_depth is 6, but .* has 5 layer groups"):
        Training(make_config(VGG, freeze_depth=6), make_dataset(), CPU, Workers())


def test_resumed_frozen_run_needs_neither_the_weights_nor_another_step(trial, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trial, source)
    config = make_config(VGG, init_from=str(source), freeze_depth=2, epochs=3)
    dataset, whole, folder = make_dataset(), [], tmp_path / "whole"
    run_trial(folder, 0, config, dataset, device=CPU, report=whole.append)

    class Stop(Exception):
        pass

    def stop(metrics):
        raise Stop

    resumed = tmp_path / "resumed"
    with pytest.raises(Stop):
        run_trial(resumed, 0, config, dataset, device=CPU, report=stop)
    shutil.rmtree(source)
    rest = []
    assert run_trial(resumed, 0, config, dataset, device=CPU, report=rest.append) == "completed"
    assert [row["train_loss"] for row in rest] == [row["train_loss"] for row in whole[1:]]
    records = [TrialFolder(path).read_record() for path in (folder, resumed)]
    assert records[0] == records[1] and records[0].started_from is not None
    _, network = records[1].build()
    network.load_state_dict(weights_of(resumed))


def test_origin_is_recorded_with_its_hash(trial, tmp_path, capsys):
    train_trial(tmp_path / "next", init_from=str(trial))
    origin = TrialFolder(tmp_path / "next").read_record().started_from
    file = trial / "best" / "model.safetensors"
    assert (origin.source, origin.sha256) == (str(file), sha256_of(file))
    assert capsys.readouterr().err == f"{file}: took 32 of 32 tensors\n"
    assert TrialFolder(trial).read_record().started_from is None


def test_old_records_without_an_origin_are_read(trial, tmp_path):
    values = json.loads((trial / "config.json").read_text())
    del values["started_from"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert TrialFolder(tmp_path).read_record() == TrialFolder(trial).read_record()


def begun(config, dataset) -> Training:
    training = Training(config, dataset, CPU, Workers())
    training.begin_with(read_start(config))
    return training


def test_network_and_average_begin_with_the_weights(trial):
    training = begun(make_config(VGG, init_from=str(trial)), make_dataset())
    for network in (training.network, training.average.network):
        tensors = network.state_dict()
        assert all(torch.equal(tensors[name], t) for name, t in weights_of(trial).items())


def test_head_of_other_classes_begins_anew(trial, capsys):
    dataset = replace(make_dataset(), classes=("ring", "disc", "stripes"))
    config = make_config(VGG, init_from=str(trial))
    training = begun(config, dataset)
    fresh = state(Training(config, dataset, CPU, Workers()))
    source = weights_of(trial)
    for name, tensor in training.network.state_dict().items():
        head = name.startswith("21.")
        assert torch.equal(tensor, (fresh if head else source)[name]), name
    told = "took 30 of 32 tensors: the head begins anew, its classes were disc, ring, stripes"
    assert told in capsys.readouterr().err


def test_what_does_not_fit_is_named_and_left_as_it_was(trial, capsys):
    config = make_config({**VGG, "depth": 6}, init_from=str(trial))
    dataset = make_dataset()
    training = begun(config, dataset)
    said = capsys.readouterr().err
    assert "of another shape (" in said and "missing (" in said
    assert torch.equal(training.network.state_dict()["0.weight"], weights_of(trial)["0.weight"])


def test_nothing_that_fits_is_an_error(trial):
    with pytest.raises(ConfigError, match="Nothing of .*model.safetensors fits the network 'mlp'"):
        begun(make_config("mlp", init_from=str(trial)), make_dataset())


def test_pretrained_file_starts_a_run(tmp_path, capsys):
    torch.manual_seed(5)
    tensors = build_model(make_config(VGG).model, 1, 7, SIDE).state_dict()
    save_file(tensors, tmp_path / "w.safetensors")
    config = make_config(VGG, pretrained=str(tmp_path / "w.safetensors"), epochs=1, freeze_depth=5)
    after = state(run_fit(config, make_dataset())[-1].training)
    body = [name for name in after if not name.startswith("21.")]
    assert len(body) == 30 and all(torch.equal(after[name], tensors[name]) for name in body)
    assert "took 30 of 32 tensors: 2 of another shape" in capsys.readouterr().err
    wrong = make_config("mlp", pretrained=str(tmp_path / "w.safetensors"), epochs=1)
    with pytest.raises(ConfigError, match="w.safetensors does not fit the network 'mlp'"):
        run_fit(wrong, make_dataset())


def make_run(folder: Path, losses: list[float], trial: Path) -> Path:
    for number, loss in enumerate(losses):
        target = folder / "trials" / f"{number:04d}"
        shutil.copytree(trial, target)
        rows = (target / "metrics.csv").read_text().splitlines()
        cells = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
        cells["validation_log_loss"] = repr(loss)
        (target / "metrics.csv").write_text(f"{rows[0]}\n{','.join(cells.values())}\n")
    return folder


def test_run_stands_for_its_best_trial_that_has_weights(trial, tmp_path):
    run = make_run(tmp_path / "run", [0.9, 0.5, 0.7], trial)
    start = read_start(make_config(VGG, init_from=str(run)))
    assert start.source == str(run / "trials" / "0001" / "best" / "model.safetensors")
    shutil.rmtree(run / "trials" / "0001" / "best")
    start = read_start(make_config(VGG, init_from=str(run)))
    assert "0002" in start.source and start.classes == CLASSES


def test_weights_that_have_seen_validation_are_refused(trial, tmp_path):
    again = tmp_path / "run" / "refit" / "trials" / "0000"
    refit_trial(again, TrialFolder(trial), 1, make_dataset(), device=CPU)
    config = make_config(VGG, init_from=str(again))
    message = "not learned from validation images, but .*0000 has no metrics.csv.*--refit.*Name"
    for use in (check_start, read_start):
        with pytest.raises(ConfigError, match=message):
            use(config)
    with pytest.raises(ConfigError, match="no trial with weights"):
        read_start(make_config(VGG, init_from=str(tmp_path / "run" / "refit")))


def test_sources_that_are_none_are_named(trial, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "trials").mkdir(parents=True)
    (tmp_path / "trial").mkdir()
    shutil.copy(trial / "config.json", tmp_path / "trial" / "config.json")
    (tmp_path / "stage.yaml").write_text("model: mlp\n")
    cases = {
        "nowhere": "nowhere is not there. A file of weights is given as pretrained.",
        "stage.yaml": "trained first by `raysearch train` alone. Train it on its own and name",
        "empty": "empty is none of them",
        "run": "run has no trial with weights to carry over",
        "trial": "model.safetensors is missing",
        "trial#3": "is no exported ensemble that #3 could be a trial of",
    }
    for name, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            check_start(make_config(VGG, init_from=str(tmp_path / name)))


def test_relative_paths_start_at_the_folder_that_is_given(tmp_path):
    train = resolve_start(make_config(VGG, init_from="runs/a#7"), tmp_path)
    assert train.init_from == f"{tmp_path}/runs/a#7"
    train = resolve_start(make_config(VGG, pretrained="../w.pth"), tmp_path)
    assert train.pretrained == f"{tmp_path.parent}/w.pth"
    for value in (str(tmp_path / "w.pth"), "hub", None):
        train = make_config(VGG, pretrained=value)
        assert resolve_start(train, Path("elsewhere")) == train


def test_both_beginnings_are_refused():
    with pytest.raises(ConfigError, match="init_from: pretrained is given too, and one is enough"):
        make_config(VGG, pretrained="hub", init_from="run")


@pytest.fixture
def data(tmp_path) -> Path:
    images, labels = patterns(120, 0, contrast=60)
    rows = {"train": range(96), "validation": range(96, 120)}
    (tmp_path / "data").mkdir()
    names = [f"{i}.png" for i in range(120)]
    write_shards(tmp_path / "data", images, labels, names, rows, CLASSES, {})
    return tmp_path / "data"


FIELDS = f"image_size: {SIDE}\nbatch_size: 32\nprecision: fp32\n"


def write_stage(path: Path, text: str, model: str = "{name: vgg, width: 4, depth: 5}") -> Path:
    path.write_text(f"model: {model}\n{FIELDS}{text}")
    return path


def train_file(path: Path, data: Path, out: Path) -> tuple[dict, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=300)
    return train_one(load_train_config(path), data, out, CPU, console), shown.getvalue()


def test_configuration_is_trained_first_and_its_weights_carried_over(tmp_path, data, capsys):
    (tmp_path / "stages").mkdir()
    first = write_stage(tmp_path / "stages" / "one.yaml", "epochs: 2\nlr: 0.05\n")
    text = "init_from: stages/one.yaml\nepochs: 1\nfreeze_depth: 5\naugment: {noise: 0.1}\n"
    second, out = write_stage(tmp_path / "two.yaml", text), tmp_path / "out"
    result, shown = train_file(second, data, out)
    assert result["status"] == "completed" and result["folder"] == str(out)
    assert shown.splitlines()[0] == f"first {first}, into {out / 'init'}"
    assert [line[:9] for line in shown.splitlines() if line.startswith("epoch")] == [
        "epoch   1",
        "epoch   2",
        "epoch   1",
    ]
    before, after = weights_of(out / "init"), weights_of(out)
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("21."))
    origin = TrialFolder(out).read_record().started_from
    assert origin.source == str(out / "init" / "best" / "model.safetensors")
    assert origin.sha256 == sha256_of(origin.source)
    shutil.rmtree(out / "init")  # what is finished needs it no more
    assert train_file(second, data, out)[0] == result
    assert not (out / "init").exists()


def test_first_stage_is_not_trained_where_nothing_of_it_would_fit(tmp_path, data):
    write_stage(tmp_path / "one.yaml", "epochs: 1\n", "mlp")
    second = write_stage(tmp_path / "two.yaml", "init_from: one.yaml\n")
    with pytest.raises(ConfigError, match="Nothing of .*one.yaml fits the network 'vgg'"):
        train_file(second, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_freezing_what_has_not_learned_is_warned_about_once(tmp_path, data):
    config = write_stage(tmp_path / "one.yaml", "epochs: 2\nfreeze_depth: 1\n")
    _, shown = train_file(config, data, tmp_path / "out")
    assert shown.count("warning: freeze_depth without pretrained or init_from keeps the first") == 1


def test_start_that_was_corrected_may_use_the_same_folder(tmp_path, data):
    save_file({"x": torch.ones(1)}, tmp_path / "wrong.safetensors")
    config = write_stage(tmp_path / "one.yaml", "epochs: 1\npretrained: wrong.safetensors\n")
    with pytest.raises(ConfigError, match="does not fit the network 'vgg'"):
        train_file(config, data, tmp_path / "out")
    config = write_stage(tmp_path / "one.yaml", "epochs: 1\n")
    assert train_file(config, data, tmp_path / "out")[0]["status"] == "completed"
