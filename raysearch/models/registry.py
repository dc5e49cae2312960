"""From a network's name to the network.

Every builder has the signature ``builder(channels, classes, image_size, **options)`` and returns
a module from normalized images ``[N, C, S, S]`` float to logits ``[N, K]`` float. Builders live
in modules of their own and are imported on use: timm alone takes seconds.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from raysearch.config import ModelConfig
from raysearch.errors import ConfigError, did_you_mean

BUILDERS = {
    "vgg": "raysearch.models.vgg:vgg",
    "resnet": "raysearch.models.resnet:resnet",
    "se_resnet": "raysearch.models.preact:se_resnet",
    "wide_resnet": "raysearch.models.preact:wide_resnet",
    "cnn": "raysearch.models.cnn:cnn",
    "mlp": "raysearch.models.mlp:mlp",
    "dcnn": "raysearch.models.dcnn:dcnn",
    "hog_dcnn": "raysearch.models.dcnn:hog_dcnn",
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
    option = unknown_option(model)
    if option:
        known = _option_names(model.name)
        raise ConfigError(
            f"The network {model.name!r} has no option {option!r}"
            f"{did_you_mean(option, known)}. Its options: {', '.join(known) or 'none'}."
        )
    return _builder(model.name)(channels, classes, image_size, **_valid_options(model))


def _valid_options(model: ModelConfig) -> dict[str, Any]:
    """The options as the builder's annotations want them, or `ConfigError`."""
    parameters = inspect.signature(_builder(model.name)).parameters
    valid = {}
    for option, value in model.options.items():
        try:
            valid[option] = TypeAdapter(parameters[option].annotation).validate_python(value)
        except ValidationError as error:
            rule = error.errors()[0]["msg"]
            raise ConfigError(
                f"The network {model.name!r}: {option}: {rule}, but got {value!r}."
            ) from None
    return valid


def unknown_option(model: ModelConfig) -> str | None:
    """The first of ``model``'s options that its builder does not take.

    Raises `ConfigError` for an unknown network.
    """
    known = _option_names(model.name)
    return next((option for option in model.options if option not in known), None)


def check_model(
    model: ModelConfig, image_size: int, channels: int = 1, classes: int = 7
) -> nn.Module:
    """The network, for its structure: most have no weights. Raises `ConfigError` where
    `build_model` would fail."""
    try:
        with torch.device("meta"):
            return build_model(model, channels, classes, image_size)
    except Exception:
        # Meta tensors have no values, which some backbones compute with: only a failure
        # with real ones counts.
        return _check_by_building(model, image_size, channels, classes)


def faulty_option(model: ModelConfig, image_size: int) -> str | None:
    """The option to blame where `check_model` fails: one that is unknown, or without which the
    network can be built. None where no single one is."""
    if model.name.startswith(_TIMM) or model.name in BUILDERS:
        unknown = unknown_option(model)
        if unknown:
            return unknown
    for option in model.options:
        rest = {name: value for name, value in model.options.items() if name != option}
        try:
            check_model(ModelConfig(name=model.name, **rest), image_size)
        except ConfigError:
            continue
        return option
    return None


def _check_by_building(
    model: ModelConfig, image_size: int, channels: int, classes: int
) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return build_model(model, channels, classes, image_size)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The network {model.name!r} cannot be built with {model.options} for images of side "
            f"{image_size} ({type(error).__name__}: {error})."
        ) from error


def _option_names(name: str) -> list[str]:
    """A builder's options: all after channels, classes and image_size, and timm's own name."""
    parameters = list(inspect.signature(_builder(name)).parameters)[3:]
    return [parameter for parameter in parameters if parameter != "name"]


def _builder(name: str) -> Callable[..., nn.Module]:
    if name.startswith(_TIMM):
        from raysearch.models.backbone import backbone

        return functools.partial(backbone, name=name.removeprefix(_TIMM))
    if name not in BUILDERS:
        import timm

        nearest = [_TIMM + name] if timm.is_model(name) else BUILDERS
        raise ConfigError(
            f"There is no network {name!r}{did_you_mean(name, nearest)}. "
            f"Known: {', '.join(BUILDERS)}, and timm/<name> for any timm backbone."
        )
    module, function = BUILDERS[name].split(":")
    return getattr(importlib.import_module(module), function)


def count_parameters(module: nn.Module) -> int:
    """All parameters, frozen ones too: what the network costs wherever it runs."""
    return sum(p.numel() for p in module.parameters())
