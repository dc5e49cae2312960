"""Learning rates and standstill against torch's own schedulers and plain loops."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import make_config
from torch import nn

from raysearch.train.schedule import learning_rate, plateaus, stands_still

LOSSES = st.lists(st.sampled_from([0.5, 0.7, 0.9, 1.1, 1.3]) | st.floats(0.1, 5), max_size=40)
SCHEDULES = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(["cosine", "one_cycle"]),
        "warmup": st.floats(0, 0.9),
        "lr": st.floats(1e-5, 10),
    }
)


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


@given(LOSSES, st.integers(1, 6), st.sampled_from([0.1, 0.5, 0.7]))
def test_plateau_is_torchs(losses, patience, factor):
    """torch's patience is how many idle epochs are borne, ours after how many the rate falls."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience - 1, threshold=0, eps=0
    )
    config = make_config(
        lr=0.3, schedule="plateau", plateau_patience=patience, plateau_factor=factor
    )
    for epoch, loss in enumerate(losses):
        rate = learning_rate(config, 10 * epoch, 10 * len(losses), losses[:epoch])
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        schedule.step(loss)


def test_plateau_lowers_the_rate_after_so_many_idle_epochs_and_counts_anew():
    assert plateaus([3, 2, 2, 2], 3) == 0
    assert plateaus([3, 2, 2, 2, 2], 3) == 1
    assert plateaus([3, 2, 2, 2, 2, 5, 2], 3) == 1
    assert plateaus([3, 2, 2, 2, 2, 5, 2, 2], 3) == 2
    assert plateaus([3, 2, 2, 2, 1, 2, 2], 3) == 0


@given(LOSSES, st.integers(1, 6))
def test_standing_still_is_a_lowest_loss_so_many_epochs_ago(losses, patience):
    def idle(seen):
        return len(seen) - 1 - seen.index(min(seen)) if seen else 0

    # A run ends when it first stands still: what is asked after that is of no matter.
    first = next((n for n in range(len(losses) + 1) if idle(losses[:n]) >= patience), None)
    for n in range(len(losses) + 1 if first is None else first + 1):
        assert stands_still(losses[:n], patience) == (n == first)


@given(LOSSES)
def test_without_patience_nothing_stands_still(losses):
    assert not stands_still(losses, 0)
