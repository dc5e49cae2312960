"""Balancing: the laws of what is drawn, and that nothing of it reaches beyond training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_runs import CLASSES, make_config, make_dataset, run_fit
from torch.nn import functional as F

from raysearch.data.dataset import Dataset
from raysearch.errors import DataError
from raysearch.probabilities import read_probabilities
from raysearch.train.balance import EpochRows
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder

WAYS = ("none", "oversample", "weighted_sampling", "weighted_loss")
COUNTS = st.lists(st.integers(1, 30), min_size=2, max_size=7)


def labels_of(counts: list[int], seed: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator(seed))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(counts) -> list[str]:
    return [f"class {n}" for n in range(len(counts))]


@settings(deadline=None)
@given(COUNTS, st.integers(0, 2**31))
def test_oversampling_shows_all_classes_equally_often_and_each_image_at_its_turn(counts, seed):
    labels_N = labels_of(counts, seed)
    rows = EpochRows("oversample", labels_N, names(counts))
    drawn = rows.draw(generator(seed))
    assert len(drawn) == len(rows) == len(counts) * max(counts)
    times_N = torch.bincount(drawn, minlength=len(labels_N))
    assert len(times_N) == len(labels_N)
    for label, count in enumerate(counts):
        times = times_N[labels_N == label]
        assert int(times.sum()) == max(counts)
        assert set(times.tolist()) <= {max(counts) // count, -(-max(counts) // count)}


@settings(deadline=None)
@given(COUNTS, st.integers(0, 2**31), st.sampled_from(WAYS))
def test_rows_are_of_training_and_repeat_with_their_generator_alone(counts, seed, balance):
    labels_N = labels_of(counts, seed)
    rows = EpochRows(balance, labels_N, names(counts))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    drawn = rows.draw(generator(seed))
    assert torch.equal(drawn, rows.draw(generator(seed)))
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.dtype == torch.int64 and len(drawn) == len(rows)
    assert 0 <= int(drawn.min()) and int(drawn.max()) < len(labels_N)
    if balance != "oversample":
        assert len(rows) == len(labels_N)
    if balance in ("none", "weighted_loss"):
        assert sorted(drawn.tolist()) == list(range(len(labels_N)))


def test_without_balancing_epochs_are_plain_permutations():
    rows = EpochRows("none", labels_of([30, 5], 0), names([30, 5]))
    assert torch.equal(rows.draw(generator(4)), torch.randperm(35, generator=generator(4)))


def test_weighted_sampling_gives_classes_and_their_images_equal_chances():
    counts = [600, 40, 5]
    labels_N = labels_of(counts, 1)
    rows, draws = EpochRows("weighted_sampling", labels_N, names(counts)), generator()
    times_N = torch.bincount(torch.cat([rows.draw(draws) for _ in range(40)]), minlength=645)
    seen = [int(times_N[labels_N == label].sum()) for label in range(3)]
    assert stats.chisquare(seen).pvalue > 1e-3
    for label in range(3):
        assert stats.chisquare(times_N[labels_N == label]).pvalue > 1e-3


def of_strength(counts: list[int], strength: float) -> torch.Tensor:
    """What each class is to count, relative to all, in closed form."""
    powers_K = torch.tensor(counts, dtype=torch.float64) ** (1 - strength)
    return powers_K / powers_K.sum()


@settings(deadline=None)
@given(COUNTS, st.integers(0, 2**31), st.floats(0, 1.5))
def test_strength_says_how_often_oversampling_shows_a_class(counts, seed, strength):
    labels_N = labels_of(counts, seed)
    rows = EpochRows("oversample", labels_N, names(counts), strength)
    drawn = rows.draw(generator(seed))
    assert len(drawn) == len(rows)
    times_N = torch.bincount(drawn, minlength=len(labels_N))
    shares_K = of_strength(counts, strength)
    largest = counts.index(max(counts))
    for label in range(len(counts)):
        times = times_N[labels_N == label]
        assert 1 <= int(times.min()) and int(times.max()) - int(times.min()) <= 1
        wanted = float(max(counts) * shares_K[label] / shares_K[largest])
        assert abs(int(times.sum()) - wanted) <= 0.5 + 1e-6


def test_strength_of_nothing_shows_every_image_once():
    labels_N = labels_of([30, 5], 0)
    drawn = EpochRows("oversample", labels_N, names([30, 5]), 0.0).draw(generator())
    assert sorted(drawn.tolist()) == list(range(35))
    weights_K = EpochRows("weighted_loss", labels_N, names([30, 5]), 0.0).loss_weights()
    assert torch.equal(weights_K, torch.ones(2))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.25])
def test_strength_says_the_chance_that_weighted_sampling_gives_a_class(strength):
    counts = [600, 40, 5]
    labels_N = labels_of(counts, 1)
    rows = EpochRows("weighted_sampling", labels_N, names(counts), strength)
    draws = generator()
    drawn = torch.cat([rows.draw(draws) for _ in range(40)])
    seen = torch.bincount(labels_N[drawn], minlength=3)
    expected = of_strength(counts, strength) * len(drawn)
    assert stats.chisquare(seen, expected).pvalue > 1e-3


@given(COUNTS, st.floats(0, 1.5))
def test_strength_says_what_a_class_weighs_in_the_loss(counts, strength):
    rows = EpochRows("weighted_loss", labels_of(counts, 0), names(counts), strength)
    shares = rows.loss_weights() * torch.tensor(counts) / sum(counts)
    torch.testing.assert_close(shares, of_strength(counts, strength).float())


@given(COUNTS)
def test_loss_weights_balance_the_classes_and_have_mean_one_over_the_images(counts):
    weights_K = EpochRows("weighted_loss", labels_of(counts, 0), names(counts)).loss_weights()
    shares = weights_K * torch.tensor(counts)
    torch.testing.assert_close(shares, torch.full_like(shares, sum(counts) / len(counts)))
    assert float(shares.sum()) / sum(counts) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("balance", [way for way in WAYS if way != "none"])
def test_class_without_images_is_named(balance):
    with pytest.raises(DataError, match=f"balance: {balance} needs .* none of ring. Add some"):
        EpochRows(balance, torch.tensor([0, 0, 2]), CLASSES)
    assert len(EpochRows("none", torch.tensor([0, 0, 2]), CLASSES)) == 3


def unequal() -> Dataset:
    """80 discs, 11 rings and 5 stripes to train on, in that order."""
    whole = make_dataset(train=400, validation=45)
    labels_N = whole.train.labels_N
    kept = torch.cat([(labels_N == k).nonzero()[:n, 0] for k, n in enumerate((80, 11, 5))])
    split = type(whole.train)(whole.train.images_NCHW[kept], labels_N[kept], "unequal")
    return type(whole)(**{**vars(whole), "train": split})


def test_weighted_loss_is_torchs_weighted_cross_entropy_but_for_its_divisor():
    dataset = unequal()
    config = make_config(balance="weighted_loss")
    training = Training(config, dataset, torch.device("cpu"), Workers())
    logits, labels = torch.randn(64, 3, generator=generator()), labels_of([30, 24, 10], 0)
    weights_K = 96 / (3 * torch.tensor([80.0, 11.0, 5.0]))
    expected = F.cross_entropy(logits, labels, weight=weights_K, reduction="sum") / 64
    torch.testing.assert_close(training._loss(logits, [(1.0, labels)]), expected)
    share_N = torch.rand(64, generator=generator(1))
    partner = labels.flip(0)
    each = [F.cross_entropy(logits, y, reduction="none") * weights_K[y] for y in (labels, partner)]
    mixed = training._loss(logits, [(share_N, labels), (1 - share_N, partner)])
    torch.testing.assert_close(mixed, (share_N * each[0] + (1 - share_N) * each[1]).mean())


def watch(monkeypatch) -> list[torch.Tensor]:
    """All images that training steps get, batch by batch."""
    seen, step = [], Training._step

    def watched(self, images, labels, *others):
        seen.append(images.clone())
        return step(self, images, labels, *others)

    monkeypatch.setattr(Training, "_step", watched)
    return seen


@pytest.mark.parametrize(
    ("balance", "strength", "steps"),
    [
        ("oversample", 1.0, 7),
        ("oversample", 0.5, 4),
        ("weighted_sampling", 1.0, 3),
        ("weighted_sampling", 0.5, 3),
    ],
)
def test_epochs_are_of_balanced_training_images_and_as_long_as_they_say(
    monkeypatch, balance, strength, steps
):
    dataset, seen = unequal(), watch(monkeypatch)
    config = make_config(
        balance=balance, balance_strength=strength, augment={"mirror": 1.0}, epochs=2
    )
    ends = run_fit(config, dataset)
    assert len(seen) == 2 * steps == 2 * ends[0].training.steps_per_epoch
    number = {image.numpy().tobytes(): n for n, image in enumerate(dataset.train.images_NCHW)}
    rows = [number[image.numpy().tobytes()] for image in torch.cat(seen)]  # KeyError: not training
    counts = torch.bincount(dataset.train.labels_N[rows], minlength=3)
    expected = len(rows) * of_strength([80, 11, 5], strength)
    assert (abs(counts - expected) < 4 * expected**0.5).all()


@pytest.mark.parametrize("balance", WAYS)
def test_nothing_repeated_or_augmented_reaches_validation(tmp_path, monkeypatch, balance):
    dataset, seen = unequal(), watch(monkeypatch)
    before = [split.images_NCHW.clone() for split in (dataset.train, dataset.validation)]
    labels_V = dataset.validation.labels_N.clone()
    config = make_config(
        balance=balance, augment={"mirror": 0.5, "shift": 0.2, "noise": 0.1}, cutmix=1.0
    )
    run_trial(tmp_path, 0, config, dataset, device=torch.device("cpu"))
    validation = {image.numpy().tobytes() for image in dataset.validation.images_NCHW}
    assert not validation & {image.numpy().tobytes() for image in torch.cat(seen)}
    after = [split.images_NCHW for split in (dataset.train, dataset.validation)]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert torch.equal(dataset.validation.labels_N, labels_V)
    kept = read_probabilities(TrialFolder(tmp_path).validation)
    assert kept.digest == dataset.validation.digest
    for probs_VK in kept.candidates.values():
        assert probs_VK.shape == (45, 3)
        np.testing.assert_allclose(probs_VK.astype(np.float32).sum(1), 1, atol=2e-3)
