"""Learning from a teacher's probabilities: the loss by hand, mixing, and what a student learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import assert_bitwise_equal, make_config, make_dataset, run_fit, weights
from torch.nn import functional as F

from raysearch.data.dataset import TensorSplit
from raysearch.metrics import log_loss
from raysearch.train.teaching import Teacher


def softened(probs, temperature):
    powered = probs ** (1 / temperature)
    return powered / powered.sum(-1, keepdims=True)


def test_the_loss_is_hintons():
    rng = np.random.default_rng(0)
    probs_NK = rng.dirichlet(np.ones(4), 6).astype(np.float32)
    logits_NK = rng.normal(0, 2, (6, 4)).astype(np.float32)
    labels_N = torch.from_numpy(rng.integers(0, 4, 6))
    teacher = Teacher(torch.from_numpy(probs_NK), temperature=3.0, share=0.7)
    rows_N = torch.tensor([5, 0, 3, 1, 2, 4])
    label_loss = F.cross_entropy(torch.from_numpy(logits_NK), labels_N)
    found = teacher.loss(torch.from_numpy(logits_NK), teacher.of(rows_N), label_loss)
    p = softened(probs_NK[rows_N.numpy()].astype(np.float64), 3.0)
    q = softened(np.exp(logits_NK.astype(np.float64)), 3.0)
    divergence = (p * np.log(p / q)).sum(1).mean()
    expected = 0.7 * 9 * divergence + 0.3 * float(label_loss)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_student_that_listens_to_labels_alone_is_no_student():
    dataset = make_dataset()
    config = make_config("vgg", mixup=0.3)
    teacher = Teacher(torch.full((96, 3), 1 / 3), temperature=2.0, share=0.0)
    taught, alone = run_fit(config, dataset, teacher=teacher), run_fit(config, dataset)
    assert_bitwise_equal(weights(taught[-1].training), weights(alone[-1].training))


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.3}, {"cutmix": 1.0}])
def test_a_student_learns_what_the_teacher_knows_and_the_labels_do_not_say(changes):
    """Labels are drawn by chance, so that only the teacher's probabilities can teach them."""
    dataset = make_dataset(train=240)
    true_N = dataset.train.labels_N
    rng = torch.Generator().manual_seed(0)
    drawn_N = torch.randint(0, 3, true_N.shape, generator=rng)
    train = TensorSplit(dataset.train.images_NCHW, drawn_N, "drawn")
    probs_NK = 0.9 * F.one_hot(true_N, 3).float() + 0.1 / 3
    config = make_config("mlp", epochs=10, **changes)
    confused = replace(dataset, train=train)
    labels_V = dataset.validation.labels_N.numpy()
    losses = {}
    for share in (0.0, 1.0):
        end = run_fit(config, confused, teacher=Teacher(probs_NK, 2.0, share))[-1]
        losses[share] = log_loss(end.probs_VK, labels_V)
    assert losses[1.0] < 0.8 * losses[0.0]


def test_accumulated_parts_learn_as_one():
    dataset, config = make_dataset(), make_config({"name": "mlp", "hidden": [16]})
    probs_NK = torch.rand(96, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    teacher = Teacher(probs_NK, 2.0, 0.5)
    whole, parts = (run_fit(config, dataset, teacher=teacher, accumulate=n)[-1] for n in (1, 2))
    np.testing.assert_allclose(whole.probs_VK, parts.probs_VK, atol=1e-4)
