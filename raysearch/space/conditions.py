"""Conditions between dimensions: their order, and every combination that they can take.

Only fields that some ``when`` names decide what applies, and only whether they have the values
named. So the combinations ("worlds") of a space are few and can all be visited.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raysearch.errors import did_you_mean
from raysearch.space.dimensions import Dimension, as_text, is_among
from raysearch.space.parsing import Draft

MAX_WORLDS = 5000


@dataclass(frozen=True)
class World:
    """One combination: ``settings`` of all constants and deciding fields, and what applies."""

    settings: dict[str, Any]
    active: tuple[Dimension, ...]


def in_order(draft: Draft) -> tuple[Dimension, ...]:
    """The dimensions, each after those its ``when`` names. Checks every ``when``."""
    by_path: dict[str, list[Dimension]] = {}
    for dimension in draft.dimensions:
        by_path.setdefault(dimension.path, []).append(dimension)
    for dimension in draft.dimensions:
        _check_when(draft, by_path, dimension)
    ordered: list[Dimension] = []
    visited: dict[str, bool] = {}

    def visit(path: str, chain: tuple[str, ...]) -> None:
        if visited.get(path):
            return
        if path in chain:
            circle = " -> ".join((*chain[chain.index(path) :], path))
            raise draft.error(path, f"conditions go in a circle: {circle}.", key=True)
        for dimension in by_path[path]:
            for condition in dimension.when:
                if condition.path in by_path:
                    visit(condition.path, (*chain, path))
        visited[path] = True
        ordered.extend(by_path[path])

    for path in by_path:
        visit(path, ())
    return tuple(ordered)


def _check_when(draft: Draft, by_path: dict[str, list[Dimension]], dimension: Dimension) -> None:
    for condition in dimension.when:
        path = condition.path
        place = ("when", path if _written(draft, dimension, path) else "model")
        if path not in by_path and path not in draft.constants:
            known = [*by_path, *draft.constants]
            message = f"{dimension.path}: when names {path!r}, which this space does not set"
            message += f"{did_you_mean(path, known)}."
            raise draft.error(dimension.name, message, *place, key=True)
        parents = by_path.get(path, [])
        if any(parent.kind == "float" for parent in parents):
            message = f"{dimension.path}: when cannot name {path}, a float."
            raise draft.error(dimension.name, message, *place, key=True)
        for value in condition.values:
            if path in draft.constants:
                possible = is_among(draft.constants[path], (value,))
                has = as_text(draft.constants[path])
            else:
                possible = any(_can_be(parent, value) for parent in parents)
                has = " or ".join(parent.range_text() for parent in parents)
            if not possible:
                message = f"{dimension.path}: {path} is never {as_text(value)}; it is {has}."
                raise draft.error(dimension.name, message, *place)


def _written(draft: Draft, dimension: Dimension, path: str) -> bool:
    entry: Any = draft.document.values
    for part in draft.places[dimension.name]:
        entry = entry[part]
    return path in entry["when"]


def _can_be(dimension: Dimension, value: Any) -> bool:
    if dimension.kind == "value":
        return is_among(dimension.value, (value,))
    if dimension.kind == "choice":
        return is_among(value, dimension.meanings)
    return dimension.contains(value)


def worlds(draft: Draft, dimensions: tuple[Dimension, ...]) -> list[World]:
    """Every combination of conditions. Checks that alternatives never meet and all can apply."""
    named: dict[str, set] = {}
    for dimension in dimensions:
        for condition in dimension.when:
            named.setdefault(condition.path, set()).update(condition.values)
    found: list[World] = []
    for world in _visit(draft, dimensions, named, dict(draft.constants)):
        found.append(world)
        if len(found) > MAX_WORLDS:
            message = f"the conditions have more than {MAX_WORLDS} combinations; use fewer."
            raise draft.document.error(("train",), message, key=True)
    reached = {dimension.name for world in found for dimension in world.active}
    for dimension in dimensions:
        if dimension.name not in reached:
            message = (
                f"{dimension.path} can never apply: no combination has {dimension.when_text()}."
            )
            raise draft.error(dimension.name, message, "when", key=True)
    return found


def _visit(
    draft: Draft,
    dimensions: tuple[Dimension, ...],
    named: dict[str, set],
    settings: dict[str, Any],
    active: tuple[Dimension, ...] = (),
) -> Iterator[World]:
    for index, dimension in enumerate(dimensions):
        if not dimension.is_active(settings):
            continue
        rivals = [other for other in active if other.path == dimension.path]
        if rivals:
            message = (
                f"two alternatives of {dimension.path} can apply at once: when "
                f"{rivals[0].when_text()} and when {dimension.when_text()}."
            )
            raise draft.error(dimension.name, message)
        active = (*active, dimension)
        if dimension.path in named:
            for value in _deciding_values(dimension, named[dimension.path]):
                rest = dimensions[index + 1 :]
                yield from _visit(draft, rest, named, settings | {dimension.path: value}, active)
            return
    yield World(settings, active)


def _deciding_values(dimension: Dimension, named: set) -> list[Any]:
    """Values of which each stands for all that conditions cannot tell apart from it."""
    if dimension.kind == "value":
        return [dimension.value]
    if dimension.kind == "choice":
        return list(dimension.meanings)
    values = [value for value in named if dimension.contains(value)]
    step = dimension.step or 1
    others = range(dimension.low, dimension.high + 1, step)
    return values + [v for v in others if v not in values][:1]
