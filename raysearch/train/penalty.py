"""The `l2` field: a penalty on the squares of weights, by the names of parameters.

``l2 * sum(w ** 2)`` is added to the loss (Keras' convention: its gradient is ``2 * l2 * w``).
It is added to the gradients alone, which costs a pass over the weights and no graph, so that the
loss that is reported stays the cross entropy. Unlike decoupled weight decay it passes through
momentum and through AdamW's normalization.
"""

from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import nn

from raysearch.errors import FieldError


class Penalty:
    """The penalty's gradient for the weights of ``network`` that learn.

    Raises `FieldError` as `strengths` does.
    """

    def __init__(self, l2: float | dict[str, float], network: nn.Module):
        parameters = dict(network.named_parameters())
        self.groups: dict[float, list[nn.Parameter]] = {}
        for name, strength in strengths(l2, network).items():
            if strength and parameters[name].requires_grad:
                self.groups.setdefault(strength, []).append(parameters[name])

    @torch.no_grad()
    def add_gradients(self) -> None:
        for strength, weights in self.groups.items():
            reached = [weight for weight in weights if weight.grad is not None]
            if reached:
                torch._foreach_add_([w.grad for w in reached], reached, alpha=2 * strength)


def strengths(l2: float | dict[str, float], network: nn.Module) -> dict[str, float]:
    """Strength by name, of the weights of two or more dimensions that ``l2`` reaches: all of
    them, or those that a pattern matches, by the first that does.

    Raises `FieldError` for a pattern that matches none.
    """
    names = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
    if not isinstance(l2, dict):
        return dict.fromkeys(names, l2)
    for pattern in l2:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise FieldError(
                f"l2: the pattern {pattern!r} matches no weight of two or more dimensions of the "
                f"network. {_some(pattern, names)}",
                ("l2", pattern),
            )
    found = {}
    for name in names:
        pattern = next((p for p in l2 if fnmatchcase(name, p)), None)
        if pattern is not None:
            found[name] = l2[pattern]
    return found


def _some(pattern: str, names: list[str]) -> str:
    near = get_close_matches(pattern, names, n=3, cutoff=0.5)
    if near:
        return f"Near it: {', '.join(near)}."
    shown = names if len(names) <= 8 else [*names[:4], "...", *names[-4:]]
    return f"Its weights: {', '.join(shown)}."
