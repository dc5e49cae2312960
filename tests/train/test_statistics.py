"""BatchNorm's statistics taken anew: of what, how, and what stays as it was."""

import numpy as np
import pytest
import torch
from small_runs import assert_bitwise_equal, make_config, make_dataset, run_fit
from torch import nn

from raysearch.metrics import log_loss
from raysearch.train import loop, statistics
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.statistics import renew_statistics


def training_of(config, dataset):
    return Training(config, dataset, torch.device("cpu"), Workers())


def test_they_are_means_over_batches_of_plain_training_images(monkeypatch):
    monkeypatch.setattr(statistics, "BATCH", 20)
    dataset = make_dataset(train=60)
    augmented = {"rotate": 30, "shift": 0.2, "noise": 0.2}
    training = training_of(make_config("vgg", augment=augmented), dataset)
    network, inputs = training.average.network, []
    first = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    hook = first.register_forward_pre_hook(lambda module, x: inputs.append(x[0].detach().clone()))
    renew_statistics(training, network)
    hook.remove()
    assert [len(x) for x in inputs] == [20, 20, 20]
    expected = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(first.running_mean, expected)
    expected = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    torch.testing.assert_close(first.running_var, expected)
    with torch.no_grad():  # the same images as without augmentation, all of them once
        convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        plain = convolution(training.preprocess(dataset.train.images_NCHW))
    seen = torch.cat(inputs).sum((1, 2, 3)).sort().values
    torch.testing.assert_close(seen, plain.sum((1, 2, 3)).sort().values, atol=1e-3, rtol=1e-4)
    assert not any(module.training for module in network.modules())
    assert first.momentum is not None


def test_frozen_statistics_weights_and_networks_without_norms_stay():
    dataset = make_dataset(train=60)
    training = training_of(make_config("vgg", freeze_depth=2), dataset)
    network = training.average.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    renew_statistics(training, network)
    after = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    means = [name for name in before if name.endswith("running_mean")]
    assert changed and all("running" in n or "num_batches" in n for n in changed)
    assert means[0] not in changed and means[-1] in changed
    mlp = training_of(make_config("mlp"), dataset)
    weights = {name: value.clone() for name, value in mlp.network.state_dict().items()}
    renew_statistics(mlp, mlp.network)
    assert_bitwise_equal(weights, mlp.network.state_dict())


def test_training_goes_on_as_if_nothing_had_been_looked_at(monkeypatch):
    config, dataset = make_config("vgg"), make_dataset()
    renewed = run_fit(config, dataset)
    monkeypatch.setattr(loop, "renew_statistics", lambda training, network: None)
    plain = run_fit(config, dataset)
    for one, other in zip(renewed, plain, strict=True):
        assert one.metrics["train_loss"] == other.metrics["train_loss"]
    ends = [dict(end[-1].training.network.named_parameters()) for end in (renewed, plain)]
    assert_bitwise_equal(*ends)


def test_averaged_weights_of_few_steps_are_worth_more(monkeypatch):
    """Their statistics still remember what they were before the first step."""
    config = make_config("vgg", epochs=1, ema=2.0, lr=0.1, batch_size=16)
    labels_V = make_dataset(train=240).validation.labels_N.numpy()
    with_them = run_fit(config, make_dataset(train=240))[-1].probs_VK
    monkeypatch.setattr(loop, "renew_statistics", lambda training, network: None)
    without = run_fit(config, make_dataset(train=240))[-1].probs_VK
    assert log_loss(with_them, labels_V) < log_loss(without, labels_V) - 0.02
    assert np.isfinite(with_them).all()


@pytest.mark.parametrize("images", [1, 3])
def test_very_few_images_are_no_fault(images):
    training = training_of(make_config("vgg"), make_dataset(train=images + 1))
    renew_statistics(training, training.average.network)
    assert torch.isfinite(next(training.average.network.buffers())).all()
