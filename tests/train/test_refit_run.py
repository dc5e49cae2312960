"""A trial's configuration once more: for as long, at the same rates, in files of its own."""

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Stopped, assert_bitwise_equal, make_config, make_dataset

from raysearch.errors import RunError
from raysearch.train import refit
from raysearch.train.curve import read_metrics, write_metrics
from raysearch.train.refit import refit_trial
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def trained(folder, dataset, **changes) -> TrialFolder:
    config = make_config("vgg", epochs=4, **changes)
    assert run_trial(folder, 7, config, dataset, device=CPU) == "completed"
    return TrialFolder(folder)


def weights(files: TrialFolder) -> dict[str, torch.Tensor]:
    found = {name: load_file(files.best / f"{name}.safetensors") for name in ("model", "raw")}
    return {f"{name}.{key}": value for name, part in found.items() for key, value in part.items()}


def losses_of(files: TrialFolder, losses: list[float]) -> None:
    rows = read_metrics(files.metrics)
    rows = [row | {"validation_log_loss": x} for row, x in zip(rows, losses, strict=True)]
    write_metrics(files.metrics, rows)


def test_on_the_images_of_the_trial_a_refit_is_the_trial(tmp_path, dataset):
    original = trained(tmp_path / "trial", dataset)
    record = refit_trial(tmp_path / "refit", original, 4, dataset, device=CPU)
    assert record == original.read_record() == TrialFolder(tmp_path / "refit").read_record()
    again = load_file(tmp_path / "refit" / "best" / "raw.safetensors")
    if (original.best / "raw.safetensors").exists():  # the last epoch was the best
        assert_bitwise_equal(again, load_file(original.best / "raw.safetensors"))
    kept = tmp_path / "kept"
    config = original.read_record().train
    run_trial(kept, 7, config, dataset, device=CPU, report=keep_average(kept, epoch=2))
    refit_trial(tmp_path / "half", original, 2, dataset, device=CPU)
    assert_bitwise_equal(
        load_file(tmp_path / "half" / "best" / "model.safetensors"), torch.load(kept / "epoch.pt")
    )


def keep_average(folder, epoch):
    """A report that copies the averaged weights of one epoch from the trial's checkpoint."""

    def report(metrics):
        if metrics["epoch"] == epoch:
            state = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
            torch.save(state["average"], folder / "epoch.pt")

    return report


def test_learning_rates_follow_the_trials_losses_and_nothing_ends_it_early(
    tmp_path, dataset, monkeypatch
):
    plateau = {"schedule": "plateau", "plateau_patience": 1, "early_stopping": 4}
    original = trained(tmp_path / "trial", dataset, **plateau)
    losses_of(original, [1.0, 2.0, 0.5, 3.0])
    rates, run_epoch = [], refit.Training.run_epoch

    def watched(training):
        end = run_epoch(training)
        rates.append(end.metrics["lr"] / training.config.lr)
        return end

    monkeypatch.setattr(refit.Training, "run_epoch", watched)
    refit_trial(tmp_path / "refit", original, 4, make_dataset(seed=1), device=CPU)
    factor = original.read_record().train.plateau_factor
    assert rates == pytest.approx([1, 1, factor, factor])


def test_a_broken_off_refit_goes_on_and_a_whole_one_is_kept(tmp_path, dataset):
    original, other = trained(tmp_path / "trial", dataset), make_dataset(seed=1)
    refit_trial(tmp_path / "whole", original, 3, other, device=CPU)

    def stop(epoch):
        raise Stopped

    with pytest.raises(Stopped):
        refit_trial(tmp_path / "broken", original, 3, other, device=CPU, on_epoch=stop)
    epochs = []
    options = {"device": CPU, "on_epoch": epochs.append}
    refit_trial(tmp_path / "broken", original, 3, other, **options)
    assert epochs == [2, 3]
    broken, whole = (TrialFolder(tmp_path / name) for name in ("broken", "whole"))
    assert_bitwise_equal(weights(broken), weights(whole))
    refit_trial(tmp_path / "broken", original, 3, other, **options)
    assert epochs == [2, 3]
    refit_trial(tmp_path / "broken", original, 2, other, **options)
    assert epochs == [2, 3, 1, 2]
    refit_trial(tmp_path / "broken", original, 2, dataset, **options)
    assert epochs == [2, 3, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (refit.Diverged("The training loss is nan in epoch 1."), "diverged"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
    ],
)
def test_a_refit_that_fails_says_how(tmp_path, dataset, monkeypatch, error, status):
    original = trained(tmp_path / "trial", dataset)

    def fail(training):
        raise error

    monkeypatch.setattr(refit.Training, "run_epoch", fail)
    with pytest.raises(RunError, match=f"Trial 7 ended as {status} .* leave out --refit"):
        refit_trial(tmp_path / "refit", original, 2, dataset, device=CPU)
    assert TrialFolder(tmp_path / "refit").read_status()["status"] == status
