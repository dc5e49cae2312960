"""Weights to start from, fitted to a network that is not quite the one they were trained in.

Everything but the head must fit, or nothing is taken. Three differences are bridged:

- Channels. The first convolution's kernels are summed over red, green and blue (timm's
  `adapt_input_conv`), so that a gray image gives what it gave as three equal channels.
- The small stem (`raysearch.models.backbone`). It lets the network see an image as if it were
  enlarged four times, so a first convolution becomes exactly what its kernel does to an image
  enlarged four times by bilinear interpolation: 3x3 for kernels of up to 9x9. Vision
  transformers' patches and positions are resampled by timm (Beyer et al., "FlexiViT", 2023,
  section 3.4).
- Classes. A head of another number of classes stays as it was initialized.

Images are standardized with the statistics of the data at hand, not with ImageNet's of its three
colours: what the network gets has mean 0 and deviation 1, as it had where it was trained.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raysearch.config import ModelConfig
from raysearch.errors import ConfigError, RunError
from raysearch.models.freeze import head_names
from raysearch.models.weights import Misfit, Weights, compare, find_file, read_weights

HUB = "hub"
_TIMM = "timm/"
_ENLARGED = 4
"""How much larger the small stem makes an image seem."""
_COLOURS = 4
"""More channels than this are not colours, but the pixels that a stem has put into channels."""


@dataclass(frozen=True)
class Fitted:
    """``tensors`` that a network of ``total`` tensors can load, and why not the others."""

    tensors: dict[str, Tensor]
    total: int
    misfit: Misfit
    note: str = ""

    def __str__(self) -> str:
        why = "; ".join(filter(None, [self.note, str(self.misfit)]))
        return f"{len(self.tensors)} of {self.total} tensors{f': {why}' if why else ''}"


def check_pretrained(pretrained: str, model: ModelConfig) -> None:
    """Raises `ConfigError` where it is known without reading weights, or asking a hub, that
    there are none."""
    if pretrained != HUB:
        _check_architecture(find_file(Path(pretrained)), model)
        return
    from timm.models import is_model_pretrained

    if not model.name.startswith(_TIMM):
        raise ConfigError(
            f"pretrained: hub has weights of timm's networks alone, not of {model.name!r}; "
            "name a file of weights."
        )
    name = model.name.removeprefix(_TIMM)
    if not is_model_pretrained(name):
        raise ConfigError(
            f"timm has no pretrained weights of {name!r}; name a file of weights, or another "
            "network (timm.list_models(pretrained=True) lists those that have some)."
        )


def _check_architecture(file: Path, model: ModelConfig) -> None:
    """timm's folders say in config.json which network they are of."""
    try:
        values = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        found = str(values["architecture"]).split(".")[0]
    except (OSError, ValueError, KeyError, TypeError):
        return
    wanted = model.name.removeprefix(_TIMM).split(".")[0]
    if found != wanted:
        raise ConfigError(f"{file.parent} holds weights of {found!r}, not of {model.name!r}.")


def read_pretrained(pretrained: str, model: ModelConfig) -> Weights:
    """The weights that ``pretrained`` names, as they were published.

    Raises `ConfigError` for what is no file of weights, `RunError` where the hub gives none.
    """
    check_pretrained(pretrained, model)
    if pretrained != HUB:
        return read_weights(find_file(Path(pretrained)).resolve())
    import safetensors.torch
    import timm

    name = model.name.removeprefix(_TIMM)
    try:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever its client raises for a hub that does not answer
        why = str(error).strip().split("\n")[0]
        raise RunError(
            f"timm's weights of {name!r} did not come from the hub ({type(error).__name__}: "
            f"{why}). Without a network, fetch the file elsewhere and name it: "
            "pretrained: FILE.safetensors."
        ) from None
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    digest = hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
    cfg = network.pretrained_cfg
    return Weights(tensors, f"hub:{cfg.get('hf_hub_id') or cfg.get('url') or name}", digest)


def fit_pretrained(
    weights: Weights, model: ModelConfig, channels: int, image_size: int, network: nn.Module
) -> Fitted:
    """``weights`` in the shapes of ``network``, which was built from the other arguments.

    Raises `ConfigError` with the names that do not fit, where any but the head's do not.
    """
    head = head_names(network)
    misfit = compare(weights.tensors, network)
    tensors = weights.tensors
    if misfit.without(head) and model.name.startswith(_TIMM):
        name, stem = model.name.removeprefix(_TIMM), model.options.get("stem", "small")
        first = _first_convolutions(name)
        try:
            with torch.random.fork_rng(devices=[]):
                donor = _donor(weights.tensors, name, stem, channels, image_size)
        except Exception as error:  # timm's loaders raise anything for tensors they do not know
            # The first convolution and the head could have been made to fit, so they come last.
            raise _refusal(weights, model, misfit.without(head | first) or misfit) from error
        tensors = _with_small_kernels(donor.state_dict(), first, network)
        head |= head_names(donor)
        misfit = compare(tensors, network)
    if misfit.without(head):
        raise _refusal(weights, model, misfit.without(head))
    return take_fitting(tensors, network)


def take_fitting(tensors: Mapping[str, Tensor], network: nn.Module) -> Fitted:
    """Those of ``tensors`` whose name and shape ``network`` has too."""
    misfit = compare(tensors, network)
    needed = network.state_dict()
    taken = {n: t for n, t in tensors.items() if n in needed and n not in misfit.shapes}
    return Fitted(taken, len(needed), misfit)


def _refusal(weights: Weights, model: ModelConfig, misfit: Misfit) -> ConfigError:
    return ConfigError(
        f"{weights.source} does not fit the network {model.name!r} with its options: {misfit}. "
        "Give weights of this network, or name the network that they are of."
    )


def _donor(
    tensors: Mapping[str, Tensor], name: str, stem: str, channels: int, image_size: int
) -> nn.Module:
    """timm's own network for ``channels``, with ``tensors`` loaded by timm's own rules, strictly.

    timm is strict where the number of classes is the weights' own, and forgives all that is
    missing where it is not.
    """
    import timm

    from raysearch.models.backbone import native_backbone

    cfg = timm.get_pretrained_cfg(name)
    classes = cfg.num_classes
    if cfg.classifier:
        last = cfg.classifier if isinstance(cfg.classifier, str) else cfg.classifier[0]
        classes = len(tensors[f"{last}.weight"]) if f"{last}.weight" in tensors else 0
    overlay: dict[str, Any] = {"state_dict": dict(tensors), "num_classes": classes}
    overlay |= {"label_offset": 0, "custom_load": False, "source": None}
    for conv in _first_convolutions(name):
        colours = tensors[conv].shape[1] if conv in tensors else cfg.input_size[0]
        if colours <= _COLOURS:
            overlay["input_size"] = (colours, *cfg.input_size[1:])
    loading = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    return native_backbone(channels, classes, image_size, name=name, stem=stem, **loading)


def _first_convolutions(name: str) -> set[str]:
    import timm

    first = timm.get_pretrained_cfg(name).first_conv or ()
    return {f"{conv}.weight" for conv in ((first,) if isinstance(first, str) else first)}


def _with_small_kernels(
    tensors: dict[str, Tensor], names: set[str], network: nn.Module
) -> dict[str, Tensor]:
    needed = network.state_dict()
    resized = {
        name: small_kernel(tensors[name])
        for name in names & tensors.keys() & needed.keys()
        if tensors[name].ndim == 4 and tensors[name].shape[2:] != needed[name].shape[2:] == (3, 3)
    }
    return tensors | resized


def small_kernel(weight_OIJK: Tensor) -> Tensor:
    """``[O, I, 3, 3]``: what a kernel does to an image enlarged four times, on the image itself.

    Each tap falls between two pixels, and counts for them as near as it is to each.
    """
    side = weight_OIJK.shape[2]
    taps_J = ((torch.arange(side) - (side - 1) / 2) / _ENLARGED).clamp(-1, 1)
    shares_J3 = (1 - (taps_J[:, None] - torch.tensor([-1.0, 0.0, 1.0])).abs()).clamp_min(0)
    shares_J3 = shares_J3.to(weight_OIJK.dtype)
    return torch.einsum("oijk,ja,kb->oiab", weight_OIJK, shares_J3, shares_J3)
