"""Does everything that a space can propose make a valid configuration?

Under every combination of conditions, configurations are built in which one dimension at a time
takes each of its corners; the network of each is made on torch's meta device, without weights.
"""

from typing import Any

from raysearch.config import TrainConfig, describe
from raysearch.errors import ConfigError
from raysearch.space.conditions import World
from raysearch.space.dimensions import Dimension, as_text
from raysearch.space.parsing import Draft
from raysearch.space.searchspace import nested


def check_configurations(draft: Draft, worlds: list[World]) -> None:
    """Raises `ConfigError` where the culprit stands."""
    tried: set[tuple] = set()
    checked_models: set[str] = set()
    for world in worlds:
        base = dict(world.settings)
        free = [d for d in world.active if d.path not in base]
        for dimension in free:
            base[dimension.path] = _corner_settings(dimension)[0]
        _check(draft, world, base, None, checked_models)
        for dimension in free:
            for setting in _corner_settings(dimension)[1:]:
                key = (dimension.name, as_text(setting), base["model.name"])
                if key not in tried:
                    tried.add(key)
                    varied = base | {dimension.path: setting}
                    _check(draft, world, varied, dimension, checked_models)


def _corner_settings(dimension: Dimension) -> list[Any]:
    if dimension.kind == "value":
        return [dimension.value]
    return [dimension.decode(corner) for corner in dimension.corners()]


def _check(
    draft: Draft,
    world: World,
    settings: dict[str, Any],
    varied: Dimension | None,
    checked_models: set[str],
) -> None:
    from pydantic import ValidationError

    try:
        train = TrainConfig.model_validate(nested(settings))
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
        raise _error(draft, world, loc, f"{describe(error, TrainConfig)}") from None
    key = f"{train.model.model_dump_json()} {train.image_size}"
    if key in checked_models:
        return
    checked_models.add(key)
    _check_model(draft, world, train, varied)


def _check_model(draft: Draft, world: World, train: TrainConfig, varied: Dimension | None) -> None:
    from raysearch.models.registry import check_model, unknown_option

    try:
        option = unknown_option(train.model)
    except ConfigError as error:
        raise _error(draft, world, ("model", "name"), str(error)) from None
    try:
        check_model(train.model, train.image_size)
    except ConfigError as error:
        if option:
            raise _error(draft, world, ("model", option), str(error), key=True) from None
        path = varied.path.split(".") if varied else ("model", "name")
        raise _error(draft, world, path, str(error)) from None


def _error(draft: Draft, world: World, loc, message: str, key: bool = False) -> ConfigError:
    """``loc``: a field's path; the error points at whatever sets that field in ``world``."""
    path = ".".join(str(part) for part in loc)
    for dimension in world.active:
        if dimension.path == path:
            return draft.error(dimension.name, message, key=key)
    if path in draft.places:
        return draft.error(path, message, key=key)
    return draft.document.error(("train",), message, key=True)
