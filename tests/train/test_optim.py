"""Optimizer, schedule and moving average against torch's own and plain loops."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import SIDE, make_config
from torch import nn

from raysearch.models.registry import build_model
from raysearch.train.optim import MovingAverage, learning_rate, make_optimizer

SCHEDULES = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(["cosine", "one_cycle"]),
        "warmup": st.floats(0, 0.9),
        "lr": st.floats(1e-5, 10),
    }
)


def small_vgg() -> nn.Module:
    torch.manual_seed(0)
    return build_model(make_config("vgg").model, 1, 3, SIDE)


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def torch_rates(make_schedule, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = make_schedule(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_torchs():
    config = make_config(schedule="cosine", lr=0.3)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50), 50)
    assert [learning_rate(config, step, 50) for step in range(50)] == pytest.approx(expected)


@pytest.mark.parametrize(("anneal", "steps"), [("linear", range(0, 21)), ("cos", range(20, 100))])
def test_one_cycle_is_torchs(anneal, steps):
    """torch anneals both ways alike, ours rises linearly and falls as a cosine: each half is
    compared with torch's of that kind. Its peak lies at ``pct_start * total_steps - 1``."""
    config = make_config(schedule="one_cycle", warmup=0.2, lr=0.3)
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=0.3,
            total_steps=101,
            pct_start=21 / 101,
            anneal_strategy=anneal,
            div_factor=25,
            final_div_factor=math.inf,
            cycle_momentum=False,
        ),
        100,
    )
    for step in steps:
        assert learning_rate(config, step, 100) == pytest.approx(expected[step]), step


@given(SCHEDULES, st.integers(1, 400))
def test_rates_lie_between_nothing_and_the_peak(values, steps):
    config = make_config(**values)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= config.lr * (1 + 1e-12) for rate in rates)


@given(SCHEDULES, st.integers(2, 400))
def test_rates_rise_to_one_peak_and_then_fall(values, steps):
    config = make_config(**values)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    peak = max(range(steps), key=rates.__getitem__)
    for step, (before, after) in enumerate(itertools.pairwise(rates)):
        assert before <= after if step < peak else before >= after


@given(SCHEDULES)
def test_rates_are_continuous(values):
    """Over a fine division no step is larger than the steepest slope times its length."""
    config, steps = make_config(**values), 2000
    rise = config.warmup if config.schedule == "one_cycle" else 0.0
    steepest = max(1 / rise if rise else 0.0, math.pi / 2 / (1 - rise))
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    # A rise shorter than a step is a jump by nature, of no more than the whole height.
    largest = config.lr * min(steepest / steps, 1) * (1 + 1e-6)
    assert all(abs(b - a) <= largest for a, b in itertools.pairwise(rates))
    assert rates[-1] <= largest


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_biases_and_norms_are_never_decayed(optimizer):
    network = small_vgg()
    built = make_optimizer(make_config("vgg", optimizer=optimizer, weight_decay=0.1), network)
    decay_of = {id(p): g["weight_decay"] for g in built.param_groups for p in g["params"]}
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
                gradient = p.grad + (decay * p if p.ndim > 1 else 0)
                v.mul_(0.9).add_(gradient)
                p -= lr * (gradient + 0.9 * v)
    for mine, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_steps_are_torchs_unfused_ones(name):
    network = small_vgg()
    reference = copy.deepcopy(network)
    optimizer = make_optimizer(make_config("vgg", optimizer=name, lr=0.01), network)
    groups = [
        {"params": [p for p in reference.parameters() if p.ndim > 1], "weight_decay": 5e-4},
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
