"""From a space's YAML to dimensions and constants; what one entry alone can get wrong."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import BaseModel

from raysearch.config import ModelConfig, TrainConfig, field_names
from raysearch.errors import did_you_mean
from raysearch.space.dimensions import KINDS, Condition, Dimension, as_text, is_among
from raysearch.yamlfile import Document, Path

_KEYS = {
    "choice": ("choice", "when"),
    "int": ("int", "log", "step", "when"),
    "float": ("float", "log", "step", "when"),
    "value": ("value", "when"),
}
_SAME_FOR_ALL = {"classes": "members of one ensemble must tell the same classes apart"}
"""Fields that are no dimension, and why."""
_MAPPINGS = ("l2",)
"""Fields whose constant may be a mapping."""
_SET_BY_SEARCH = {"epochs": "search.epochs", "seed": "search.seed"}


@dataclass
class Draft:
    """The ``train:`` part, read but not yet checked as a whole."""

    document: Document
    dimensions: list[Dimension] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    """Where each dimension (by name) and each field (by dotted path) is written."""

    def error(self, name: str, message: str, *more: str | int, key: bool = False):
        return self.document.error((*self.places[name], *more), message, key)


def parse_train(document: Document) -> Draft:
    """Dimensions and constants of ``train:`` in the order written. Raises `ConfigError`."""
    draft = Draft(document)
    for path, value, place in _entries(document, document.values["train"], (), ("train",)):
        if path in draft.places:
            first = document.locate(draft.places[path], key=True)
            raise document.error(place, f"{path} is given twice (first in {first}).", key=True)
        draft.places[path] = place
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            draft.dimensions += _alternatives(draft, path, value, place)
        elif isinstance(value, dict) and (_is_dimension(value) or path not in _MAPPINGS):
            dimension = _dimension(document, path, value, place)
            if dimension.kind == "value" and not dimension.when:
                draft.constants[path] = dimension.value
            else:
                draft.dimensions.append(dimension)
        else:
            draft.constants[path] = value
    for dimension in draft.dimensions:
        if dimension.path in _SAME_FOR_ALL:
            message = f"{dimension.path} must be a constant: {_SAME_FOR_ALL[dimension.path]}."
            raise draft.error(dimension.path, message, key=True)
        draft.places.setdefault(dimension.name, draft.places[dimension.path])
    return draft


def _entries(
    document: Document, mapping: Any, above: tuple[str, ...], place: Path
) -> Iterator[tuple[str, Any, Path]]:
    """(dotted path, constant or dimension as written, where) of every field in ``mapping``."""
    if not isinstance(mapping, dict):
        name = ".".join(above) or "train"
        raise document.error(place, f"{name} must be a mapping of field to value.")
    for key, value in mapping.items():
        here, path = (*place, key), (*above, *key.split("."))
        _check_field(document, path, here)
        if path == ("model",) and not _is_section(value):
            path = ("model", "name")
        if len(path) == 1 and _section(path[0]):
            yield from _entries(document, value, path, here)
        else:
            yield ".".join(path), value, here


def _section(name: str) -> type[BaseModel] | None:
    kind = TrainConfig.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and not _is_dimension(value)


def _is_dimension(value: dict) -> bool:
    return any(kind in value for kind in KINDS)


def _check_field(document: Document, path: tuple[str, ...], place: Path) -> None:
    """``path`` must name a field of `TrainConfig`; any option of a model passes for now."""
    if path[0] in _SET_BY_SEARCH:
        message = f"{path[0]} is not set under train but by {_SET_BY_SEARCH[path[0]]}."
        raise document.error(place, message, key=True)
    for depth, name in enumerate(path):
        section = _section(path[0]) if depth else TrainConfig
        if section is ModelConfig and depth == 1:
            continue
        known = field_names(section) if section and depth < 2 else []
        if name not in known:
            inside = ".".join(path[:depth])
            if not known:
                message = f"{inside} has no fields of its own."
            else:
                where = f" in {inside}" if inside else ""
                known = [k for k in known if depth or k not in _SET_BY_SEARCH]
                message = (
                    f"unknown field {name!r}{where}{did_you_mean(name, known)}. "
                    f"Known here: {', '.join(known)}."
                )
            raise document.error(place, message, key=True)


def _alternatives(draft: Draft, path: str, items: list, place: Path) -> list[Dimension]:
    """Several dimensions of one field, of which at most one applies at a time."""
    dimensions = []
    for index, item in enumerate(items):
        here = (*place, index)
        if not isinstance(item, dict):
            message = f"{path}: each alternative is a mapping such as {{value: 1, when: ...}}."
            raise draft.document.error(here, message)
        dimension = _dimension(draft.document, path, item, here, alternative=len(items) > 1)
        if len(items) > 1 and not dimension.when:
            message = f"each of several alternatives of {path} needs a when."
            raise draft.document.error(here, message)
        if dimension.name in draft.places and dimension.name != path:
            message = f"two alternatives of {path} have the same when ({dimension.when_text()})."
            raise draft.document.error((*here, "when"), message, key=True)
        draft.places[dimension.name] = here
        dimensions.append(dimension)
    return dimensions


def _dimension(
    document: Document, path: str, entry: dict, place: Path, alternative: bool = False
) -> Dimension:
    kinds = [kind for kind in KINDS if kind in entry]
    allowed = _KEYS[kinds[0]] if len(kinds) == 1 else (*KINDS, "log", "step", "when")
    for key in entry:
        if key not in allowed and not (key in KINDS and len(kinds) > 1):
            of = f" of {kinds[0]}" if len(kinds) == 1 else ""
            message = (
                f"{path}: unknown key {key!r}{did_you_mean(key, allowed)}. "
                f"Known{of}: {', '.join(allowed)}."
            )
            raise document.error((*place, key), message, key=True)
    if len(kinds) != 1:
        found = ", ".join(kinds) or "none"
        message = f"{path}: a dimension has exactly one of {', '.join(KINDS)}, but got {found}."
        raise document.error(place, message)
    when = _when(document, path, entry, place)
    name = f"{path}@{','.join(str(c) for c in when)}" if alternative and when else path
    kind = kinds[0]
    if kind == "value":
        return Dimension(path, name, kind, value=entry["value"], when=when)
    if kind == "choice":
        choices, meanings = _choices(document, path, entry["choice"], (*place, "choice"))
        return Dimension(path, name, kind, choices, meanings, when=when)
    low, high, log, step = _range(document, path, kind, entry, place)
    return Dimension(path, name, kind, low=low, high=high, log=log, step=step, when=when)


def _choices(document: Document, path: str, items: Any, place: Path) -> tuple[tuple, tuple]:
    if not isinstance(items, list) or not items:
        raise document.error(place, f"{path}: choice is a list of at least one value.")
    choices: list = []
    for index, item in enumerate(items):
        parts = item if isinstance(item, list) else [item]
        if any(isinstance(part, (list, dict)) for part in parts):
            message = f"{path}: each choice is a value or a list of values."
            raise document.error((*place, index), message)
        choice = json.dumps(item) if isinstance(item, list) else item
        if choice in choices:
            message = f"{path}: the choice {as_text(item)} is listed twice."
            raise document.error((*place, index), message)
        choices.append(choice)
    return tuple(choices), tuple(items)


def _range(document: Document, path: str, kind: str, entry: dict, place: Path) -> tuple:
    """low, high, log, step of an int or float dimension."""

    def fail(key: str, message: str) -> NoReturn:
        raise document.error((*place, key), f"{path}: {message}")

    number, wanted = (int, "whole numbers") if kind == "int" else (float, "numbers")
    bounds, log = entry[kind], entry.get("log", False)
    if not isinstance(bounds, list) or len(bounds) != 2:
        fail(kind, f"{kind} is a list of two {wanted}, [low, high], but got {as_text(bounds)}.")
    if not all(_is_number(bound, kind) for bound in bounds):
        fail(kind, f"{kind} takes {wanted}, but got {as_text(bounds)}.")
    low, high = map(number, bounds)
    if low >= high:
        why = " (write a constant for a single value)" if low == high else ""
        fail(kind, f"low < high must hold{why}, but got {as_text(bounds)}.")
    if not isinstance(log, bool):
        fail("log", f"log is true or false, but got {as_text(log)}.")
    if log and low <= 0:
        fail(kind, f"a log scale needs low > 0, but got {as_text(low)}.")
    if "step" not in entry:
        return low, high, log, None
    step = entry["step"]
    if log:
        fail("step", "step and log cannot be combined; list the values as a choice.")
    if not _is_number(step, kind) or step <= 0:
        fail("step", f"step is one of the {wanted} above 0, but got {as_text(step)}.")
    steps = (high - low) / step
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
        fits = low + max(1, int(steps)) * step
        fail("step", f"high must be low plus whole steps, such as {fits:.10g}, not {high:.10g}.")
    return low, high, log, number(step)


def _is_number(value: Any, kind: str) -> bool:
    wanted = int if kind == "int" else (int, float)
    return isinstance(value, wanted) and not isinstance(value, bool)


def _when(document: Document, path: str, entry: dict, place: Path) -> tuple[Condition, ...]:
    if "when" not in entry:
        return ()
    here = (*place, "when")
    if not isinstance(entry["when"], dict) or not entry["when"]:
        message = f"{path}: when is a mapping of fields to values, such as {{model.name: vgg}}."
        raise document.error(here, message)
    conditions = []
    for key, wanted in entry["when"].items():
        values = wanted if isinstance(wanted, list) else [wanted]
        if not values or any(isinstance(value, (list, dict)) for value in values):
            raise document.error(
                (*here, key), f"{path}: when {key} takes a value or a list of values."
            )
        distinct = [v for i, v in enumerate(values) if not is_among(v, tuple(values[:i]))]
        conditions.append(Condition("model.name" if key == "model" else key, tuple(distinct)))
    return tuple(conditions)
