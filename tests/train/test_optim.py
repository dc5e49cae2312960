"""Optimizers and moving average against torch's own and plain loops."""

import copy
import math

import pytest
import torch
from small_runs import SIDE, make_config
from torch import nn

from raysearch.errors import ConfigError
from raysearch.models.registry import build_model
from raysearch.train.optim import DecoupledSGD, MovingAverage, make_optimizer


def small_vgg() -> nn.Module:
    torch.manual_seed(0)
    return build_model(make_config("vgg").model, 1, 3, SIDE)


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_biases_and_norms_are_never_decayed(optimizer):
    network = small_vgg()
    built = make_optimizer(make_config("vgg", optimizer=optimizer, weight_decay=0.1), network)
    name = "decoupled_decay" if optimizer == "sgd" else "weight_decay"
    decay_of = {id(p): g[name] for g in built.param_groups for p in g["params"]}
    kinds = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kinds.setdefault((type(module).__name__, name), set()).add(decay_of[id(parameter)])
    assert kinds == {
        ("Conv2d", "weight"): {0.1},
        ("Linear", "weight"): {0.1},
        ("Linear", "bias"): {0.0},
        ("BatchNorm2d", "weight"): {0.0},
        ("BatchNorm2d", "bias"): {0.0},
    }
    assert len(decay_of) == len(list(network.parameters()))


def test_frozen_parameters_are_left_out():
    network = small_vgg()
    network[0].weight.requires_grad_(False)
    built = make_optimizer(make_config("vgg"), network)
    assert all(p is not network[0].weight for g in built.param_groups for p in g["params"])


def test_sgd_steps_are_those_of_the_plain_formula():
    network, decay, rates = small_vgg(), 0.01, [0.1, 0.05, 0.02]
    optimizer = make_optimizer(make_config("vgg", weight_decay=decay), network)
    reference = copy.deepcopy(network)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for seed, lr in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = lr
        give_gradients(network, seed)
        give_gradients(reference, seed)
        optimizer.step()
        with torch.no_grad():
            for p, v in zip(reference.parameters(), velocity, strict=True):
                if p.ndim > 1:
                    p -= lr * decay * p
                v.mul_(0.9).add_(p.grad)
                p -= lr * (p.grad + 0.9 * v)
    for mine, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_sgd_without_momentum_decays_as_torchs_does():
    """Without momentum, and only then, decay in the gradient and decoupled decay are the same."""
    network, decay = small_vgg(), 0.02
    reference = copy.deepcopy(network)
    group = {"params": list(network.parameters()), "weight_decay": decay}
    mine = DecoupledSGD([group], 0.1, momentum=0.0)
    plain = torch.optim.SGD(reference.parameters(), lr=0.1, weight_decay=decay)
    for seed in range(4):
        for one, built in ((network, mine), (reference, plain)):
            give_gradients(one, seed)
            built.step()
    for mine, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_weights_without_a_gradient_are_not_decayed():
    network = small_vgg()
    optimizer = make_optimizer(make_config("vgg", weight_decay=0.1), network)
    give_gradients(network, 0)
    network[0].weight.grad = None
    before = network[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_steps_are_torchs_unfused_ones(name):
    network = small_vgg()
    reference = copy.deepcopy(network)
    decay = 5e-3 if name == "adamw" else 0.0
    config = make_config("vgg", optimizer=name, lr=0.01, weight_decay=decay)
    optimizer = make_optimizer(config, network)
    groups = [
        {"params": [p for p in reference.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in reference.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    options = {"lr": 0.01, "fused": False, "foreach": False}
    if name == "sgd":
        plain = torch.optim.SGD(groups, momentum=0.9, nesterov=True, **options)
    else:
        plain = torch.optim.AdamW(groups, **options)
    for seed in range(4):
        for one, built in ((network, optimizer), (reference, plain)):
            give_gradients(one, seed)
            built.step()
    for mine, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_muon_orthogonalizes_matrices_and_leaves_the_rest_to_adamw():
    network, lr, decay = small_vgg(), 0.01, 0.1
    reference = copy.deepcopy(network)
    config = make_config("vgg", optimizer="muon", lr=lr, weight_decay=decay)
    optimizer = make_optimizer(config, network)
    others = [p for p in reference.parameters() if p.ndim <= 1]
    by_adamw = [reference[0].weight, reference[-1].weight]  # one input channel; the classifier
    plain = torch.optim.AdamW(
        [{"params": by_adamw, "weight_decay": decay}, {"params": others}],
        lr=lr,
        betas=(0.9, 0.95),
        eps=1e-7,
        weight_decay=0,
    )
    for one, built in ((network, optimizer), (reference, plain)):
        give_gradients(one, 0)
        built.step()
    matrices = 0
    for mine, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        if mine.ndim != 4 or mine.shape[1] == 1:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
            continue
        moved = ((1 - lr * decay) * theirs - mine).flatten(1).detach()
        stretched = torch.linalg.svdvals(moved) / (lr * 0.2 * max(moved.shape) ** 0.5)
        assert ((stretched > 0.6) & (stretched < 1.3)).all()  # bf16, five steps of the iteration
        matrices += 1
    assert matrices == 3


def test_learning_rate_of_muon_is_followed_by_all_parameters():
    network = small_vgg()
    optimizer = make_optimizer(make_config("vgg", optimizer="muon", lr=0.01), network)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in network.parameters()]
    give_gradients(network, 0)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("found", [None, torch.optim.SGD])
def test_timm_without_muon_is_named_with_its_version(monkeypatch, found):
    import timm.optim

    monkeypatch.setattr(timm.optim, "Muon", found)
    monkeypatch.setattr(timm, "__version__", "1.0.20")
    with pytest.raises(ConfigError, match="muon needs timm 1.0.27 or later.*timm 1.0.20 is"):
        make_optimizer(make_config("vgg", optimizer="muon"), small_vgg())


def test_moving_average_is_the_plain_recurrence_buffers_too():
    network, horizon = small_vgg(), 4.0
    average = MovingAverage(network, horizon)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for update in range(30):
        network.train()
        network(torch.randn(8, 1, SIDE, SIDE))  # moves the norms' running means
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape))
        average.update(network)
        decay = min(math.exp(-1 / horizon), (1 + update) / (10 + update))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
    names = set(expected)
    assert any("running_mean" in name for name in names)
    for name, value in average.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    counts = [
        v for n, v in average.network.state_dict().items() if n.endswith("num_batches_tracked")
    ]
    assert {int(count) for count in counts} == {30}


def test_moving_average_leaves_constants_as_they_are():
    """Of which HOG has an infinite one, and the average of infinities is no number."""
    network = build_model(make_config({"name": "hog_dcnn"}).model, 1, 3, 48)
    average = MovingAverage(network, 4.0)
    before = average.network[0](torch.rand(2, 1, 48, 48, generator=torch.manual_seed(0)))
    average.update(network)
    after = average.network[0](torch.rand(2, 1, 48, 48, generator=torch.manual_seed(0)))
    assert torch.equal(before, after) and before[:, 0].any()


def test_moving_average_without_horizon_is_the_network_itself():
    network = small_vgg()
    average = MovingAverage(network, 0.0)
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape))
        average.update(network)
        for mine, theirs in zip(average.network.parameters(), network.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_moving_average_neither_trains_nor_follows_the_network_by_itself():
    network = small_vgg()
    average = MovingAverage(network, 4.0)
    before = copy.deepcopy(average.network.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, before[name])
