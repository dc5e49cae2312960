"""Any timm backbone, with a stem fit for small images.

Networks made for 224 pixels reduce an image 32 times: 48 pixels would end as 2 x 2. The small stem
undoes the first fourfold of that, as ResNets are usually changed for CIFAR (He et al., "Deep
Residual Learning for Image Recognition", 2016, section 4.2), so that 48 pixels end as 6 x 6.
"""

from typing import Any, Literal

import timm
import torch
from timm.layers import BlurPool2d
from torch import Tensor, nn

from raysearch.config import Fraction
from raysearch.errors import ConfigError, did_you_mean
from raysearch.models.head import add_hidden
from raysearch.models.layers import Sizes

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)
_PROBE = 96
"""Side of the image that strided layers are found with: large enough for every stem."""


def backbone(
    channels: int,
    classes: int,
    image_size: int,
    *,
    name: str,
    stem: Literal["small", "imagenet"] = "small",
    dropout: Fraction = 0.0,
    drop_path: Fraction = 0.0,
    head_hidden: Sizes = (),
) -> nn.Module:
    """timm's ``name``, freshly initialized: ``[N, C, S, S]`` to logits ``[N, K]``.

    Args:
        stem: small: the image's first fourfold reduction is left out, and a first convolution
            that is larger than 3x3 becomes 3x3; a vision transformer gets patches of a quarter of
            their side instead. imagenet: as timm has it.
        dropout: before the classifier, and after each of ``head_hidden``.
        drop_path: largest probability of skipping a residual branch (stochastic depth).
        head_hidden: units of fully connected layers before the classifier; in a VGG, instead of
            its own two of 4,096.

    Raises `ConfigError` for an unknown name, an option that this network cannot have, or images
    that are too small for it.
    """
    if not timm.is_model(name):
        raise ConfigError(
            f"timm has no backbone {name!r}{did_you_mean(name, timm.list_models())}. "
            "timm.list_models() lists them all."
        )
    hidden = [head_hidden] if isinstance(head_hidden, int) else list(head_hidden)
    options: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
    options["drop_rate"] = 0.0 if hidden else dropout
    if drop_path:
        options["drop_path_rate"] = drop_path
    network = None
    try:
        network, sized = _create(name, image_size, options)
        if stem == "small":
            network = _with_small_stem(network, sized, name, image_size, options)
        if hidden:
            add_hidden(network, name, hidden, dropout)
        _forward(network, channels, image_size)
    except ConfigError:
        raise
    except Exception as error:  # a network may raise anything for a shape it cannot take
        larger = None if network is None or sized else _larger_side(network, channels, image_size)
        raise _refusal(name, stem, image_size, larger, error) from error
    return network


def _create(name: str, image_size: int, options: dict[str, Any]) -> tuple[nn.Module, bool]:
    """The network, and whether it was built for ``image_size`` and takes no other."""
    try:
        return timm.create_model(name, img_size=image_size, **options), True
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, **options), False


def native_backbone(
    channels: int,
    classes: int,
    image_size: int,
    *,
    name: str,
    stem: str,
    **loading: Any,
) -> nn.Module:
    """timm's ``name`` with the image size and patches that `backbone` would give it, but timm's
    own stem. ``loading``: arguments of `timm.create_model` that say which weights it gets."""
    options = {"in_chans": channels, "num_classes": classes, **loading}
    network, sized = _create(name, image_size, options)
    patch = _small_patch(network) if sized and stem == "small" else None
    if patch is None:
        return network
    return _create(name, image_size, {**options, "patch_size": patch})[0]


def _small_patch(network: nn.Module) -> int | None:
    """A quarter of the side of a vision transformer's patches; None of other networks."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if patch is None:
        return None
    return max(1, (patch if isinstance(patch, int) else patch[0]) // 4)


def _refusal(
    name: str, stem: str, image_size: int, larger: int | None, error: Exception
) -> ConfigError:
    if "drop_path_rate" in str(error):
        return ConfigError(
            f"The network 'timm/{name}' has no residual branches to skip: drop_path must be 0."
        )
    remedies = [f"image_size {larger}" if larger else "another image_size"]
    remedies += ["stem: imagenet"] if stem == "small" else []
    return ConfigError(
        f"The network 'timm/{name}' with stem: {stem} cannot take images of {image_size} x "
        f"{image_size} pixels; use {' or '.join(remedies)}. Its own words: {error}"
    )


def _with_small_stem(
    network: nn.Module, sized: bool, name: str, image_size: int, options: dict[str, Any]
) -> nn.Module:
    patch = _small_patch(network) if sized else None
    if patch is not None:
        return _create(name, image_size, {**options, "patch_size": patch})[0]
    strided = _strided_layers(network, options["in_chans"], image_size if sized else _PROBE)
    if not strided:
        raise ConfigError(
            f"The stem of 'timm/{name}' has no strided layer to change; use stem: imagenet."
        )
    for path, layer, reduced in strided:
        if isinstance(layer, _POOLS):
            network.set_submodule(path, nn.Identity())
        else:
            _unstride(layer, reduced)
    return network


def _strided_layers(
    network: nn.Module, channels: int, side: int
) -> list[tuple[str, nn.Module, int]]:
    """Path and layer of all that reduce an image that is still over a quarter of its side, on
    every branch, and how many times it is reduced where it enters them."""
    found = []

    def watch(path: str, layer: nn.Module) -> Any:
        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            width = inputs[0].shape[-1]
            if width > -(-side // 4):
                found.append((path, layer, round(side / width)))

        return layer.register_forward_pre_hook(before)

    handles = [
        watch(path, layer)
        for path, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, *_POOLS)) and _stride(layer) > 1
    ]
    try:
        _forward(network, channels, side)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _stride(layer: nn.Module) -> int:
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]


def _unstride(conv: nn.Conv2d, reduced: int) -> None:
    """Takes the first fourfold out of the stride, in place: timm has convolutions of many classes.

    Even kernels would shift the image by half a pixel, and large ones at full size were made to
    summarize before a large stride: both become 3x3, with the standard deviation of their weights
    scaled as their fan-in asks.
    """
    conv.stride = (max(1, _stride(conv) * reduced // 4),) * 2
    kernel = conv.kernel_size[0]
    if kernel % 2 == 0 or (kernel > 3 and reduced == 1):
        deviation = conv.weight.detach().std() * (kernel / 3)
        conv.weight = nn.Parameter(torch.randn(*conv.weight.shape[:2], 3, 3) * deviation)
        conv.kernel_size, conv.padding = (3, 3), (1, 1)


def _forward(network: nn.Module, channels: int, side: int) -> None:
    """One image through the network in eval mode; raises what the network raises."""
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, channels, side, side))
    network.train()


def _larger_side(network: nn.Module, channels: int, image_size: int) -> int | None:
    """The next multiple of 8 pixels above ``image_size`` that the network takes."""
    for side in range(image_size // 8 * 8 + 8, 257, 8):
        try:
            _forward(network, channels, side)
        except Exception:  # see `backbone`
            continue
        return side
    return None
