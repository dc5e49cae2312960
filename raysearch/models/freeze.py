"""Networks whose first layers do not learn.

Layers are counted in groups. Of timm's networks they are timm's own, finest ones: the stem, then
one group a block. Of ours, a convolution, linear layer or block begins a group, and the norms
after it belong to it. What holds the classifier is the head, which is no group and always learns.
"""

from collections.abc import Iterator
from itertools import chain

from torch import nn

from raysearch.errors import FieldError


def layer_groups(network: nn.Module) -> list[list[str]]:
    """Names of the parameters of each layer group, in the order of the forward pass, without the
    head's."""
    return _groups_and_head(network)[0]


def head_names(network: nn.Module) -> set[str]:
    """Names of the parameters of the head: of the classifier, and of what timm groups with it."""
    return _groups_and_head(network)[1]


def _groups_and_head(network: nn.Module) -> tuple[list[list[str]], set[str]]:
    if not hasattr(network, "group_matcher"):
        *groups, head = _groups_of_layers(network)
        return groups, set(head)
    from timm.models import group_parameters

    grouped = group_parameters(network, network.group_matcher())
    classifier = network.get_classifier()
    classifiers = classifier if isinstance(classifier, tuple) else (classifier,)
    last = {id(p) for module in classifiers for p in module.parameters()}
    named = dict(network.named_parameters())
    groups: list[list[str]] = []
    head: set[str] = set()
    for index in sorted(grouped):
        names = grouped[index]
        if any(id(named[name]) in last for name in names):
            head.update(names)
        else:
            groups.append(names)
    return groups, head


def _groups_of_layers(network: nn.Module) -> list[list[str]]:
    groups: list[list[str]] = []
    for prefix, layer in _layers(network):
        parameters = dict(layer.named_parameters(prefix))
        if not groups or any(p.ndim > 1 for p in parameters.values()):
            groups += [[]] if parameters else []
        if parameters:
            groups[-1] += parameters
    return groups


def _layers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Path and module of the children, those of nested sequences in their place."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def freeze(network: nn.Module, depth: int, name: str = "the network") -> None:
    """Take the first ``depth`` layer groups of ``network`` out of training, in place.

    They get no gradients and no graph is kept of them. `train_mode` keeps their statistics too.
    Raises `FieldError` where there are fewer groups.
    """
    if not depth:
        return
    groups = layer_groups(network)
    if depth > len(groups):
        raise FieldError(
            f"freeze_depth is {depth}, but {name} has {len(groups)} layer groups before its head: "
            f"{len(groups)} at most can be frozen.",
            ("freeze_depth",),
        )
    frozen = set(chain.from_iterable(groups[:depth]))
    for path, parameter in network.named_parameters():
        if path in frozen:
            parameter.requires_grad_(False)


def train_mode(network: nn.Module) -> None:
    """`nn.Module.train`, but frozen layers stay in evaluation mode: the statistics of their norms
    stay as they are, and they drop nothing."""
    network.train()
    for _, module in _frozen_modules(network):
        module.eval()


def frozen_tensors(network: nn.Module) -> set[str]:
    """Names of the parameters and buffers that training leaves as they are."""
    names = {name for name, p in network.named_parameters() if not p.requires_grad}
    for prefix, module in _frozen_modules(network):
        names.update(name for name, _ in module.named_buffers(prefix))
    return names


def _frozen_modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules of whose parameters none learns; of a sequence also those without
    parameters that come before a frozen one, such as dropout between two frozen layers."""
    leading = isinstance(module, nn.Sequential)
    passed: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        parameters = list(child.parameters())
        if not parameters:
            passed += [(path, child)] if leading else []
            continue
        learns = any(p.requires_grad for p in parameters)
        frozen = list(_frozen_modules(child, path)) if learns else [(path, child)]
        yield from (passed if frozen else [])
        yield from frozen
        passed, leading = [], leading and not learns
