"""From a training configuration back to the values of a space's dimensions."""

from typing import Any

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.space.dimensions import Dimension, Scalar, as_text
from raysearch.space.searchspace import SearchSpace


def values_of(space: SearchSpace, train: TrainConfig) -> dict[str, Scalar]:
    """The sampler's values, by dimension name, that stand for ``train``, whatever its epochs and
    seed. Raises `ConfigError` with the field that lies outside of ``space``."""
    fields = _flat(train.model_dump(mode="json"))

    def pick(dimension: Dimension) -> Scalar:
        setting = fields.get(dimension.path)
        try:
            return dimension.encode(setting)
        except ValueError as fault:
            raise ConfigError(f"{dimension.path} is {as_text(setting)}, but {fault}") from None

    values = space.propose(pick)
    built = _flat(space.build(values, epochs=train.epochs, seed=train.seed).model_dump(mode="json"))
    for path in dict.fromkeys([*built, *fields]):
        if built.get(path) != fields.get(path):
            was, always = as_text(fields.get(path)), as_text(built.get(path))
            raise ConfigError(f"{path} is {was}, but there it is always {always}")
    return values


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
