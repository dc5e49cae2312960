"""Does everything that a space can propose make a valid configuration?

Under every combination of conditions, configurations are built in which one dimension at a time
takes each of its corners; the network of each is made on torch's meta device, without weights,
and frozen as deep as the space can ask for. What they start from must be there.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raysearch.config import TrainConfig, describe
from raysearch.errors import ConfigError, FieldError
from raysearch.space.conditions import World
from raysearch.space.dimensions import Dimension, as_text
from raysearch.space.parsing import Draft
from raysearch.space.searchspace import nested

_BEGINNING = ("pretrained", "init_from", "freeze_depth")


@dataclass
class Checked:
    """What was found to be right, so that it is not checked again."""

    folder: Path
    """That paths start at."""
    look: bool
    """Whether what configurations start from must be there."""
    configurations: dict[str, TrainConfig] = field(default_factory=dict)
    """One of each network, optimizer, pattern of penalties and beginning."""


def check_configurations(
    draft: Draft, worlds: list[World], folder: Path, look: bool
) -> tuple[TrainConfig, ...]:
    """One of each network with each of the beginnings that it can have, its paths absolute.

    Raises `ConfigError` where the culprit stands.
    """
    tried: set[tuple] = set()
    checked = Checked(folder, look)
    for world in worlds:
        base = dict(world.settings)
        free = [d for d in world.active if d.path not in base]
        for dimension in free:
            base[dimension.path] = _corner_settings(dimension)[0]
        if "model.name" not in base:
            raise _missing_name(draft, world)
        _check(draft, world, base, None, checked)
        for dimension in free:
            for setting in _corner_settings(dimension)[1:]:
                key = (dimension.name, as_text(setting), base["model.name"])
                if key not in tried:
                    tried.add(key)
                    varied = base | {dimension.path: setting}
                    _check(draft, world, varied, dimension, checked)
    return tuple(checked.configurations.values())


def _missing_name(draft: Draft, world: World) -> ConfigError:
    deciding = [f"{k}={as_text(v)}" for k, v in world.settings.items() if k not in draft.constants]
    where = f" where {', '.join(deciding)}" if deciding else ""
    message = f"model.name is missing{where}: a network's name, such as vgg."
    if "model.name" in draft.places:
        return draft.error("model.name", message)
    others = [path for path in draft.places if path.startswith("model.")]
    return (
        draft.error(others[0], message, key=True) if others else _error(draft, world, (), message)
    )


def _corner_settings(dimension: Dimension) -> list[Any]:
    if dimension.kind == "value":
        return [dimension.value]
    return [dimension.decode(corner) for corner in dimension.corners()]


def _check(
    draft: Draft,
    world: World,
    settings: dict[str, Any],
    varied: Dimension | None,
    checked: Checked,
) -> None:
    _validated(draft, world, settings)
    for beginning in _beginnings(draft, world):
        train = _validated(draft, world, settings | beginning)
        patterns = tuple(train.l2) if isinstance(train.l2, dict) else ()
        key = f"{train.model.model_dump_json()} {train.image_size} {train.optimizer} {patterns}"
        key += str(beginning)
        if key not in checked.configurations:
            _check_model(draft, world, train, varied)
            checked.configurations[key] = _check_start(draft, world, train, checked)


def _validated(draft: Draft, world: World, settings: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(nested(settings))
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
        raise _error(draft, world, loc, f"{describe(error, TrainConfig)}") from None


def _beginnings(draft: Draft, world: World) -> list[dict[str, Any]]:
    """Every combination of what training can start from, frozen as deep as it can be."""
    fields = {path: _possible(draft, world, path) for path in _BEGINNING}
    fields = {path: values for path, values in fields.items() if values}
    return [dict(zip(fields, values, strict=True)) for values in product(*fields.values())]


def _possible(draft: Draft, world: World, path: str) -> list[Any]:
    """Values of a field in ``world``: all of a choice, of a range of whole numbers the largest."""
    dimension = next((d for d in world.active if d.path == path), None)
    fixed = [world.settings[path]] if path in world.settings else []
    if dimension is None or (fixed and dimension.kind != "int"):
        return fixed
    if dimension.kind != "int":
        return _corner_settings(dimension)[: None if dimension.kind == "choice" else 1]
    named = {v for d in draft.dimensions for c in d.when if c.path == path for v in c.values}
    if fixed and fixed[0] in named:
        return fixed
    values = range(dimension.low, dimension.high + 1, dimension.step or 1)
    return [max(value for value in values if value not in named)]


def _check_model(draft: Draft, world: World, train: TrainConfig, varied: Dimension | None) -> None:
    from raysearch.models.registry import check_model, faulty_option
    from raysearch.train.checking import check_recipe

    try:
        check_recipe(train, check_model(train.model, train.image_size))
    except FieldError as error:
        name, *more = error.field
        raise _error(draft, world, (name,), str(error), *more, key=bool(more)) from None
    except ConfigError as error:
        option = faulty_option(train.model, train.image_size)
        path = f"model.{option}" if option else varied.path if varied else "model.name"
        raise _error(draft, world, path.split("."), str(error), key=option is not None) from None


def _check_start(draft: Draft, world: World, train: TrainConfig, checked: Checked) -> TrainConfig:
    from raysearch.train.start import check_start, resolve_start

    train = resolve_start(train, checked.folder)
    try:
        if checked.look:
            check_start(train)
    except FieldError as error:
        raise _error(draft, world, error.field, str(error)) from None
    return train


def _error(
    draft: Draft, world: World, loc, message: str, *more: str, key: bool = False
) -> ConfigError:
    """``loc``: a field's path; the error points at whatever sets that field in ``world``, and
    ``more`` into it."""
    path = ".".join(str(part) for part in loc)
    for dimension in world.active:
        if dimension.path == path:
            return draft.error(dimension.name, message, *more, key=key)
    if path in draft.places:
        return draft.error(path, message, *more, key=key)
    return draft.document.error(("train",), message, key=True)
