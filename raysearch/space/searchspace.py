"""`SearchSpace`: proposals of a sampler become training configurations."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raysearch.config import TrainConfig, parse_train_config
from raysearch.errors import ConfigError, did_you_mean
from raysearch.space.dimensions import Dimension, Scalar, as_text
from raysearch.space.settings import SearchConfig


@dataclass(frozen=True)
class SearchSpace:
    """A checked space. Made by `raysearch.space.load_space`."""

    path: Path
    description: str
    search: SearchConfig
    dimensions: tuple[Dimension, ...]
    """Those that a condition names come before those that it governs."""
    constants: dict[str, Any]
    """Values of fields that never vary, by dotted path."""
    known: tuple[dict[str, Any], ...]
    """Configurations to try first, by dotted path, as written; they may be partial."""
    known_values: tuple[dict[str, Scalar], ...]
    """The same for a sampler: by dimension name, without what the search does not vary."""
    source_text: str
    folder: Path
    """That relative paths of weights start at."""
    starts: tuple[TrainConfig, ...]
    """A configuration of each network with each of the beginnings that it can have."""

    @cached_property
    def searched(self) -> tuple[Dimension, ...]:
        """The dimensions that a sampler sees: all but the conditional constants."""
        return tuple(d for d in self.dimensions if d.kind != "value")

    def propose(self, suggest: Callable[[Dimension], Scalar]) -> dict[str, Scalar]:
        """Ask ``suggest`` for a value of each dimension that applies, parents before children.

        Returns the values by dimension name. Those that do not apply are neither asked for nor
        in the result.
        """
        return self._walk(suggest)[0]

    def settings(self, values: dict[str, Scalar], where: str = "values") -> dict[str, Any]:
        """All fields that ``values`` (by dimension name) set, by dotted path, constants too.

        Raises `ConfigError`, opened by ``where``, for a value missing, unknown or out of range.
        """

        def take(dimension: Dimension) -> Scalar:
            if dimension.name not in values:
                raise ConfigError(f"{where}: {dimension.name} has no value.")
            value = values[dimension.name]
            if not dimension.contains(value):
                raise ConfigError(
                    f"{where}: {dimension.name} must be {dimension.range_text()}, not {value!r}."
                )
            return value

        used, settings = self._walk(take)
        for name in values:
            if name not in used:
                known = [d.name for d in self.searched]
                why = (
                    "does not apply here"
                    if name in known
                    else f"is not a dimension{did_you_mean(name, known)}"
                )
                raise ConfigError(f"{where}: {name} {why}.")
        return settings

    def build(
        self, values: dict[str, Scalar], *, epochs: int, seed: int, where: str = "values"
    ) -> TrainConfig:
        """The configuration that a sampler's ``values`` (by dimension name) stand for.

        Raises `ConfigError`, opened by ``where``, for values that `propose` cannot give.
        """
        settings = self.settings(values, where) | {"epochs": epochs, "seed": seed}
        train = parse_train_config(nested(settings), where)
        if train.pretrained is None and train.init_from is None:
            return train
        from raysearch.train.start import resolve_start

        return resolve_start(train, self.folder)

    def _walk(self, pick: Callable[[Dimension], Scalar]) -> tuple[dict, dict]:
        values: dict[str, Scalar] = {}
        settings = dict(self.constants)
        for dimension in self.dimensions:
            if not dimension.is_active(settings):
                continue
            if dimension.kind == "value":
                settings[dimension.path] = dimension.value
            else:
                values[dimension.name] = pick(dimension)
                settings[dimension.path] = dimension.decode(values[dimension.name])
        return values, settings

    def describe(self) -> list[dict[str, str]]:
        """Rows for a table, constants last: ``field``, ``range`` and ``when``, all text."""
        rows = [(d.path, d.range_text(), d.when_text()) for d in self.dimensions]
        rows += [(path, as_text(value), "") for path, value in self.constants.items()]
        return [dict(zip(("field", "range", "when"), row, strict=True)) for row in rows]

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "description": self.description,
            "fingerprint": self.fingerprint,
            "search": self.search.model_dump(mode="json"),
            "dimensions": [dimension.to_json() for dimension in self.dimensions],
            "constants": self.constants,
            "known": list(self.known),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of what can be proposed: dimensions and constants, whatever their order.

        Not of the ``search:`` part nor of ``known``: those may change between runs of a study.
        """
        parts = self._parts()
        text = json.dumps([parts[name] for name in sorted(parts)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def diff(self, other: "SearchSpace") -> list[str]:
        """What ``other`` adds, removes and changes, a line each; empty for equal fingerprints."""
        old, new = self._parts(), other._parts()
        lines = [f"{name} is removed" for name in old if name not in new]
        lines += [f"{name} is added" for name in new if name not in old]
        for name in old:
            if name in new and old[name] != new[name]:
                lines.append(f"{name} is {_words(new[name])}, was {_words(old[name])}")
        return lines

    def _parts(self) -> dict[str, dict[str, Any]]:
        parts = {dimension.name: dimension.to_json() for dimension in self.dimensions}
        constants = {
            path: {"path": path, "name": path, "kind": "constant", "value": value}
            for path, value in self.constants.items()
        }
        return parts | constants


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """``{"model.name": "vgg"}`` to ``{"model": {"name": "vgg"}}``."""
    values: dict[str, Any] = {}
    for path, value in settings.items():
        *sections, field = path.split(".")
        part = values
        for section in sections:
            part = part.setdefault(section, {})
        part[field] = value
    return values


def _words(part: dict[str, Any]) -> str:
    """A part of `SearchSpace._parts` without its name and what it does not set."""
    left_out = ("path", "name", "kind")
    unset = {"log": False, "step": None, "when": {}}
    shown = {k: v for k, v in part.items() if k not in left_out and v != unset.get(k, ...)}
    return f"{part['kind']} {json.dumps(shown)}"
