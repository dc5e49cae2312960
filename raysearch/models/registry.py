"""From a network's name to the network.

Every builder has the signature ``builder(channels, classes, image_size, **options)`` and returns
a module from normalized images ``[N, C, S, S]`` float to logits ``[N, K]`` float. Builders live
in modules of their own and are imported on use: timm alone takes seconds.
"""

import importlib
import inspect
from collections.abc import Callable

from torch import nn

from raysearch.config import ModelConfig
from raysearch.errors import ConfigError, did_you_mean

BUILDERS = {
    "vgg": "raysearch.models.vgg:vgg",
    "mlp": "raysearch.models.mlp:mlp",
    "dexpression": "raysearch.models.dexpression:dexpression",
    "mini_xception": "raysearch.models.xception:mini_xception",
    "tiny_xception": "raysearch.models.xception:tiny_xception",
}
"""``timm/<name>`` besides: any backbone of timm."""

_TIMM = "timm/"


def build_model(model: ModelConfig, channels: int, classes: int, image_size: int) -> nn.Module:
    """The network of ``model``, freshly initialized from torch's global generator.

    Raises `ConfigError` for an unknown network or option, or an image too small for it.
    """
    if model.name.startswith(_TIMM):
        from raysearch.models.backbone import backbone

        name = model.name.removeprefix(_TIMM)
        _check_options(model, backbone, reserved=("name",))
        return backbone(channels, classes, image_size, name=name, **model.options)
    builder = _builder(model.name)
    _check_options(model, builder)
    return builder(channels, classes, image_size, **model.options)


def _builder(name: str) -> Callable[..., nn.Module]:
    if name not in BUILDERS:
        raise ConfigError(
            f"There is no network {name!r}{did_you_mean(name, BUILDERS)}. "
            f"Known: {', '.join(BUILDERS)}, and timm/<name> for any timm backbone."
        )
    module, function = BUILDERS[name].split(":")
    return getattr(importlib.import_module(module), function)


def _check_options(model: ModelConfig, builder: Callable, reserved: tuple[str, ...] = ()) -> None:
    parameters = list(inspect.signature(builder).parameters)[3:]
    known = [name for name in parameters if name not in reserved]
    for option in model.options:
        if option not in known:
            raise ConfigError(
                f"The network {model.name!r} has no option {option!r}"
                f"{did_you_mean(option, known)}. Its options: {', '.join(known) or 'none'}."
            )


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
