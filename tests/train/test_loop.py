"""`fit`: determinism, resuming, the loss of a step, divergence, and that it learns at all."""

import copy
import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import (
    SIDE,
    Stopped,
    assert_bitwise_equal,
    make_config,
    make_dataset,
    run_fit,
    stop_after,
    timeless,
    weights,
)
from torch.nn import functional as F

from raysearch import metrics
from raysearch.errors import ConfigError
from raysearch.models.registry import build_model
from raysearch.train.augment import augment
from raysearch.train.distributed import Workers
from raysearch.train.evaluate import predict_probs
from raysearch.train.loop import Diverged, Training, fit
from raysearch.train.mixing import mix
from raysearch.train.seeding import seeded
from raysearch.train.targets import split_evenly

LOSSES = Path(__file__).parents[1] / "assets" / "losses_smoke.csv"
ALL_AUGMENTS = {"mirror": 0.5, "shift": 0.1, "rotate": 10, "zoom": 0.1, "contrast": 0.2}
ALL_AUGMENTS |= {"noise": 0.05, "erase": 0.2}


def regularized(model: str, **changes):
    """Every source of randomness at once: dropout, all augmentation, mixup and cutmix."""
    options = {"augment": ALL_AUGMENTS, "mixup": 0.3, "cutmix": 1.0, "label_smoothing": 0.1}
    return make_config(model, **(options | changes))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["mlp", "vgg"])
def test_same_seed_gives_bitwise_equal_runs_and_another_seed_does_not(model, precision):
    config, dataset = regularized(model, precision=precision, epochs=2), make_dataset()
    first, second = run_fit(config, dataset), run_fit(config, dataset)
    for one, two in zip(first, second, strict=True):
        assert timeless(one.metrics) == timeless(two.metrics)
        assert np.array_equal(one.probs_VK, two.probs_VK)
    assert_bitwise_equal(weights(first[-1].training), weights(second[-1].training))
    other = run_fit(config.model_copy(update={"seed": 1}), dataset)
    assert other[-1].metrics["train_loss"] != first[-1].metrics["train_loss"]
    assert not np.array_equal(other[-1].probs_VK, first[-1].probs_VK)


def test_global_generators_are_left_as_they_were():
    torch.manual_seed(5)
    np.random.seed(5)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()
    run_fit(regularized("vgg", epochs=1), make_dataset())
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_equal(np.random.get_state(), numpy_before)


def test_global_generators_do_not_change_a_run():
    config, dataset = regularized("mlp", epochs=1), make_dataset()
    torch.manual_seed(1)
    first = run_fit(config, dataset)
    torch.manual_seed(2)
    torch.rand(3)
    assert timeless(run_fit(config, dataset)[0].metrics) == timeless(first[0].metrics)


def test_global_generator_is_restored_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(Stopped), seeded(1, 2, 3):
        torch.rand(1)
        raise Stopped
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_the_gpu_in_use_alone_are_restored(monkeypatch):
    """Torch forks those of all GPUs unless told which, and warns at length of several."""
    calls = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: calls.append(gpu) or "state")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: calls.append(given))
    with warnings.catch_warnings(action="error"):
        with seeded(1, 2, 3):
            pass
        assert calls == []
        with seeded(1, 2, 3, device=torch.device("cuda:1")):
            assert calls == [torch.device("cuda:1")]
        assert calls[1:] == [("state", torch.device("cuda:1"))]


@pytest.mark.parametrize("stopped_after", [1, 2])
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("mlp", {"optimizer": "adamw", "lr": 0.003, "balance": "oversample"}),
        ("vgg", {}),
        ("vgg", {"schedule": "cosine", "balance": "weighted_sampling"}),
        ("mlp", {"schedule": "plateau", "plateau_patience": 1, "lr": 0.5}),
        ("vgg", {"optimizer": "muon", "lr": 0.003}),
    ],
    ids=["mlp-adamw", "vgg-sgd", "vgg-cosine", "mlp-plateau", "vgg-muon"],
)
def test_resumed_run_repeats_the_uninterrupted_one_bitwise(model, changes, stopped_after, tmp_path):
    config, dataset = regularized(model, **changes), make_dataset()
    whole = run_fit(config, dataset)
    saved = []
    with pytest.raises(Stopped):
        keep = stop_after(stopped_after, lambda end: saved.append(end.training.state_dict()))
        fit(config, dataset, keep)
    torch.save(saved[0], tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    rest = run_fit(config, dataset, resume=state)
    assert [end.metrics["epoch"] for end in rest] == list(range(stopped_after + 1, 4))
    for end, expected in zip(rest, whole[stopped_after:], strict=True):
        assert timeless(end.metrics) == timeless(expected.metrics)
        assert np.array_equal(end.probs_VK, expected.probs_VK)
    assert_bitwise_equal(weights(rest[-1].training), weights(whole[-1].training))


def test_finished_run_resumed_does_nothing():
    config, dataset = make_config(epochs=1), make_dataset()
    state = run_fit(config, dataset)[-1].training.state_dict()
    assert run_fit(config, dataset, resume=state) == []


def test_exception_of_the_report_ends_the_run():
    epochs = []
    with pytest.raises(Stopped):
        fit(make_config(), make_dataset(), stop_after(2, lambda end: epochs.append(end)))
    assert len(epochs) == 1


def test_reported_scores_are_those_of_the_averaged_weights_on_all_of_validation():
    dataset = make_dataset()
    end = run_fit(make_config("vgg", epochs=2), dataset)[-1]
    labels_V = dataset.validation.labels_N.numpy()
    probs_VK = predict_probs(
        end.training.average.network, end.training.preprocess, dataset.validation.images_NCHW
    ).numpy()
    assert np.array_equal(end.probs_VK, probs_VK)
    assert end.metrics["validation_log_loss"] == metrics.log_loss(probs_VK, labels_V)
    assert end.metrics["validation_accuracy"] == metrics.accuracy(probs_VK, labels_V)
    assert end.metrics["validation_macro_f1"] == metrics.macro_f1(probs_VK, labels_V)
    assert end.metrics["images_per_second"] > 0


def test_without_an_average_the_weights_themselves_are_evaluated():
    training = run_fit(make_config("vgg", ema=0, epochs=1), make_dataset())[-1].training
    averaged, current = training.average.network.state_dict(), training.network.state_dict()
    assert_bitwise_equal(averaged, current)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alphas", [{}, {"mixup": 0.4}, {"cutmix": 1.0}], ids=str)
def test_step_minimizes_cross_entropy_against_soft_targets(smoothing, alphas):
    """Every part of a step by hand, with the loss against target vectors and torch's own SGD."""
    dataset, rows = make_dataset(), slice(0, 32)
    images, labels = dataset.train.images_NCHW[rows], dataset.train.labels_N[rows]
    config = make_config(
        model={"name": "mlp", "hidden": [16], "dropout": 0.0},
        label_smoothing=smoothing,
        **alphas,
        augment=ALL_AUGMENTS,
        l2=0.01,
    )
    training = Training(config, dataset, torch.device("cpu"), Workers())
    network = copy.deepcopy(training.network)
    summed, correct, count = training._step(images, labels, torch.Generator().manual_seed(7))

    draws = torch.Generator().manual_seed(7)
    x = augment(images.float() / 255, config.augment, draws)
    x = (x - torch.tensor(dataset.mean)) / torch.tensor(dataset.std)
    targets_NK = F.one_hot(labels, 3).float()
    if alphas:
        x, partner_N, share_N = mix(x, draws, **alphas)
        share_N1 = share_N[:, None]
        targets_NK = share_N1 * targets_NK + (1 - share_N1) * targets_NK[partner_N]
    targets_NK = (1 - smoothing) * targets_NK + smoothing / 3
    logits_NK = network(x)
    loss = -(targets_NK * logits_NK.log_softmax(1)).sum(1).mean()
    loss.backward()  # the penalty is added below, and not to the loss that is reported

    assert summed.item() == pytest.approx(32 * loss.item(), rel=1e-5)
    assert int(correct) == int((logits_NK.argmax(1) == labels).sum())
    assert int(count) == 32
    for mine, reference in zip(training.network.parameters(), network.parameters(), strict=True):
        decay, l2 = (config.weight_decay, 0.01) if reference.ndim > 1 else (0.0, 0.0)
        before = reference.detach()
        gradient = reference.grad + 2 * l2 * before
        expected = (1 - config.lr * decay) * before
        expected -= config.lr * (1 + 0.9) * gradient  # Nesterov's first step
        torch.testing.assert_close(mine.detach(), expected, rtol=1e-4, atol=1e-6)


def test_every_training_image_is_seen_once_an_epoch(monkeypatch):
    dataset, seen = make_dataset(train=96), []
    step = Training._step

    def watched(self, images, *others):
        seen.append(images)
        return step(self, images, *others)

    monkeypatch.setattr(Training, "_step", watched)
    run_fit(make_config(epochs=2), dataset)
    assert [len(images) for images in seen] == [32] * 6
    stored = sorted(image.numpy().tobytes() for image in dataset.train.images_NCHW)
    for epoch in (seen[:3], seen[3:]):
        assert sorted(image.numpy().tobytes() for image in torch.cat(epoch)) == stored
    assert not torch.equal(seen[0], seen[3])


def test_set_smaller_than_a_batch_is_one_batch():
    end = run_fit(make_config(epochs=1, batch_size=500), make_dataset(train=20))[0]
    assert np.isfinite(end.metrics["train_loss"])


def test_batch_with_fewer_images_than_workers_is_refused():
    with pytest.raises(ConfigError, match="each of 4 workers an image, but got 2"):
        Training(make_config(batch_size=2), make_dataset(), torch.device("cpu"), Workers(0, 4))


def test_divergence_names_the_epoch_and_the_remedy():
    with pytest.raises(Diverged, match=r"epoch 1; try a lower lr"):
        run_fit(make_config(lr=1e6, batch_size=8), make_dataset())


def test_loss_that_is_not_finite_ends_its_epoch_soon(monkeypatch):
    steps, step = [], Training._step

    def ruin(self, *batch):
        steps.append(1)
        totals = step(self, *batch)
        return totals * torch.tensor([math.nan, 1, 1]) if len(steps) == 130 else totals

    monkeypatch.setattr(Training, "_step", ruin)
    config = make_config(batch_size=2, lr=1e-3, epochs=3)
    with pytest.raises(Diverged, match="loss is nan in epoch 2"):
        run_fit(config, make_dataset(train=240))
    assert len(steps) == 120 + 50


def scored(monkeypatch, losses: list[float]) -> None:
    """Let the validation log losses of the epochs be ``losses``."""
    told = iter(losses)
    monkeypatch.setattr(metrics, "log_loss", lambda probs, labels: next(told))


def test_training_ends_when_validation_loss_has_stood_still(monkeypatch):
    scored(monkeypatch, [3, 2, 2.5, 2, 1, 1])
    ends = run_fit(make_config(epochs=6, early_stopping=2), make_dataset())
    assert [end.metrics["validation_log_loss"] for end in ends] == [3, 2, 2.5, 2]
    assert ends[-1].training.ended


def test_plateau_lowers_the_rate_of_the_next_epoch(monkeypatch):
    scored(monkeypatch, [3, 2, 2, 1, 1, 1])
    config = make_config(
        epochs=6, lr=0.4, schedule="plateau", plateau_patience=1, plateau_factor=0.5
    )
    ends = run_fit(config, make_dataset())
    assert [end.metrics["lr"] for end in ends] == [0.4, 0.4, 0.4, 0.2, 0.2, 0.1]


def test_weights_that_are_not_finite_are_divergence_too(monkeypatch):
    """The last step of an epoch can ruin the weights after its own loss was still finite."""
    train = Training._train

    def ruin(self, epoch):
        result = train(self, epoch)
        if epoch == 2:
            next(self.average.network.parameters()).fill_(float("nan"))
        return result

    monkeypatch.setattr(Training, "_train", ruin)
    ends = []
    with pytest.raises(Diverged, match="weights are not finite after epoch 2"):
        fit(make_config(), make_dataset(), ends.append)
    assert len(ends) == 1


def test_initial_weights_depend_on_the_seed_alone():
    config = make_config("vgg", seed=3)
    first = Training(config, make_dataset(seed=1), torch.device("cpu"), Workers())
    torch.rand(9)
    second = Training(config, make_dataset(seed=2), torch.device("cpu"), Workers())
    assert_bitwise_equal(first.network.state_dict(), second.network.state_dict())
    with seeded(3, 0, 0):
        network = build_model(config.model, 1, 3, SIDE)
    assert_bitwise_equal(first.network.state_dict(), network.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_small_vgg_learns(precision):
    dataset = make_dataset(train=480, validation=150)
    config = make_config("vgg", epochs=8, lr=0.1, batch_size=32, precision=precision)
    ends = run_fit(config, dataset)
    assert ends[-1].metrics["train_loss"] < 0.5 * ends[0].metrics["train_loss"]
    assert ends[-1].metrics["validation_accuracy"] > 0.85  # chance: 0.33
    assert ends[-1].metrics["validation_log_loss"] < 0.5  # chance: 1.10


@given(st.integers(1, 300), st.integers(0, 9))
def test_parts_of_a_batch_are_even_and_leave_nothing_out(rows, parts):
    slices = split_evenly(rows, min(parts, rows))
    assert [row for part in slices for row in range(rows)[part]] == list(range(rows))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1 and len(sizes) == max(min(parts, rows), 1)


@pytest.mark.parametrize("parts", [2, 3, 100])
def test_batch_in_parts_gives_the_same_steps_and_holds_fewer_images_at_a_time(parts, monkeypatch):
    mixed = {"mixup": 0.2, "label_smoothing": 0.1, "balance": "weighted_loss"}
    config = make_config({"name": "mlp", "hidden": [16], "dropout": 0.0}, **mixed)
    whole, seen = run_fit(config, make_dataset()), []
    forward = torch.nn.Flatten.forward
    monkeypatch.setattr(
        torch.nn.Flatten, "forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    split = run_fit(config, make_dataset(), accumulate=parts)
    for one, other in zip(whole, split, strict=True):
        assert timeless(other.metrics) == pytest.approx(timeless(one.metrics), abs=1e-5)
    assert 2 <= min(seen) <= -(-32 // parts) + 1


def smoke_losses() -> list[dict[str, float]]:
    """The run behind the committed losses; ``python tests/train/test_loop.py`` writes them."""
    config = regularized("vgg", epochs=5)
    names = ("epoch", "train_loss", "validation_log_loss")
    return [{n: end.metrics[n] for n in names} for end in run_fit(config, make_dataset())]


def test_losses_are_those_that_were_committed():
    with open(LOSSES, newline="", encoding="utf-8") as file:
        committed = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    for row, expected in zip(smoke_losses(), committed, strict=True):
        assert row == pytest.approx(expected, abs=1e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(LOSSES, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", "train_loss", "validation_log_loss"])
        writer.writeheader()
        writer.writerows(smoke_losses())
