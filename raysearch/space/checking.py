"""Does everything that a space can propose make a valid configuration?

Under every combination of conditions, configurations are built in which one dimension at a time
takes each of its corners; the network of each is made on torch's meta device, without weights.
"""

from typing import Any

from pydantic import ValidationError

from raysearch.config import TrainConfig, describe
from raysearch.errors import ConfigError, FieldError
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
        if "model.name" not in base:
            raise _missing_name(draft, world)
        _check(draft, world, base, None, checked_models)
        for dimension in free:
            for setting in _corner_settings(dimension)[1:]:
                key = (dimension.name, as_text(setting), base["model.name"])
                if key not in tried:
                    tried.add(key)
                    varied = base | {dimension.path: setting}
                    _check(draft, world, varied, dimension, checked_models)


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
    checked_models: set[str],
) -> None:
    try:
        train = TrainConfig.model_validate(nested(settings))
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
        raise _error(draft, world, loc, f"{describe(error, TrainConfig)}") from None
    patterns = tuple(train.l2) if isinstance(train.l2, dict) else ()
    key = f"{train.model.model_dump_json()} {train.image_size} {train.optimizer} {patterns}"
    if key in checked_models:
        return
    checked_models.add(key)
    _check_model(draft, world, train, varied)


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
