"""The ``known:`` configurations, from fields as written to the dimensions of a sampler.

They may be partial, so that whether a condition holds can be open: ``None`` below.
"""

from typing import Any

from raysearch.errors import did_you_mean
from raysearch.space.dimensions import Condition, Dimension, Scalar, as_text, is_among, is_same
from raysearch.space.parsing import Draft

_OPEN = object()
"""The setting of a field that the sampler will fill in."""


def known_values(
    draft: Draft, dimensions: tuple[Dimension, ...], known: tuple[dict[str, Any], ...]
) -> tuple[dict[str, Scalar], ...]:
    """Each of ``known`` by dimension name. Raises `ConfigError` where an entry is at fault."""
    return tuple(_values(draft, dimensions, entry, index) for index, entry in enumerate(known))


def _values(
    draft: Draft, dimensions: tuple[Dimension, ...], entry: dict[str, Any], index: int
) -> dict[str, Scalar]:
    def error(path: str, message: str, key: bool = False):
        written = path if path in entry else "model"
        return draft.document.error(("known", index, written), f"known: {message}", key)

    wanted = {"model.name" if path == "model" else path: v for path, v in entry.items()}
    fields = dict.fromkeys([*(d.path for d in dimensions), *draft.constants])
    for path, value in wanted.items():
        if path not in fields:
            hint = did_you_mean(path, fields)
            raise error(path, f"{path!r} is not set by this space{hint}.", key=True)
        if path in draft.constants and not is_same(draft.constants[path], value):
            is_always = as_text(draft.constants[path])
            raise error(path, f"{path} is always {is_always}, not {as_text(value)}.")
    settings = dict(draft.constants)
    values: dict[str, Scalar] = {}
    for path in dict.fromkeys(d.path for d in dimensions):
        able = [d for d in dimensions if d.path == path and _applies(d, settings) is not False]
        if path not in wanted:
            if able:
                settings[path] = able[0].value if _is_certain(able, settings) else _OPEN
            continue
        if not able:
            raise error(path, f"{path} does not apply to this configuration.", key=True)
        if len(able) > 1:
            parents = ", ".join(dict.fromkeys(c.path for d in able for c in d.when))
            raise error(path, f"{path} has alternatives; give {parents} too.", key=True)
        settings[path] = wanted[path]
        try:
            value = _encode(able[0], wanted[path])
        except ValueError as fault:
            raise error(path, f"{path} is {as_text(wanted[path])}, but {fault}.") from None
        if able[0].kind != "value":
            values[able[0].name] = value
    return values


def _is_certain(able: list[Dimension], settings: dict[str, Any]) -> bool:
    return able[0].kind == "value" and _applies(able[0], settings) is True


def _encode(dimension: Dimension, setting: Any) -> Scalar:
    if dimension.kind == "value" and is_same(dimension.value, setting):
        return setting
    return dimension.encode(setting)


def _applies(dimension: Dimension, settings: dict[str, Any]) -> bool | None:
    states = [_holds(condition, settings) for condition in dimension.when]
    return False if False in states else None if None in states else True


def _holds(condition: Condition, settings: dict[str, Any]) -> bool | None:
    if settings.get(condition.path) is _OPEN:
        return None
    return condition.path in settings and is_among(settings[condition.path], condition.values)
