"""The l2 penalty against autograd of the loss that it stands for, and its patterns."""

import copy

import pytest
import torch
from small_runs import SIDE, make_config
from torch import nn

from raysearch.errors import FieldError
from raysearch.models.registry import build_model
from raysearch.train.penalty import Penalty, strengths


def network(model="vgg") -> nn.Module:
    torch.manual_seed(0)
    return build_model(make_config(model).model, 1, 3, SIDE)


def loss(of: nn.Module) -> torch.Tensor:
    images = torch.randn(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return of.eval()(images).square().mean()


def added_by_hand(l2, name: str, parameter: torch.Tensor) -> torch.Tensor | float:
    """The term of the loss for one parameter, patterns resolved by hand below."""
    if parameter.ndim < 2:
        return 0.0
    strength = l2 if isinstance(l2, float) else l2["0.*"] if name.startswith("0.") else l2["*"]
    return strength * parameter.square().sum()


@pytest.mark.parametrize("l2", [0.0, 0.03, {"0.*": 0.5, "*": 0.01}, {"0.*": 0.0, "*": 0.2}])
def test_gradients_are_autograds_of_the_added_loss(l2):
    mine = network()
    reference = copy.deepcopy(mine)
    loss(mine).backward()
    Penalty(l2, mine).add_gradients()
    total = loss(reference)
    for name, parameter in reference.named_parameters():
        total = total + added_by_hand(l2, name, parameter)
    total.backward()
    for one, two in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-6)


def test_first_pattern_that_matches_counts_and_what_none_matches_is_free():
    names = [n for n, p in network("mlp").named_parameters() if p.ndim > 1]
    assert names == ["1.weight", "4.weight"]
    assert strengths({"1.*": 0.1, "*": 0.2}, network("mlp")) == {"1.weight": 0.1, "4.weight": 0.2}
    assert strengths({"*": 0.2, "1.*": 0.1}, network("mlp")) == {"1.weight": 0.2, "4.weight": 0.2}
    assert strengths({"4.*": 0.1}, network("mlp")) == {"4.weight": 0.1}


def test_weights_that_do_not_learn_are_left_alone():
    mine = network()
    mine[0].weight.requires_grad_(False)
    loss(mine).backward()
    Penalty(0.1, mine).add_gradients()
    assert mine[0].weight.grad is None


@pytest.mark.parametrize("pattern", ["4.wieght", "*.bias", "head.*"])
def test_pattern_that_matches_no_weight_is_named_with_what_is_there(pattern):
    with pytest.raises(FieldError) as caught:
        strengths({"1.*": 0.1, pattern: 0.1}, network("mlp"))
    assert f"the pattern {pattern!r} matches no weight" in str(caught.value)
    assert "4.weight" in str(caught.value)
    assert caught.value.field == ("l2", pattern)
