"""`Dimension`: one thing that a search varies, its range, and when it applies."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["choice", "int", "float", "value"]
KINDS = ("choice", "int", "float", "value")
Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class Condition:
    """Holds where the field at ``path`` has one of ``values``; not where it has none."""

    path: str
    values: tuple[Scalar, ...]

    def holds(self, settings: dict[str, Any]) -> bool:
        return self.path in settings and is_among(settings[self.path], self.values)

    def __str__(self) -> str:
        return f"{self.path}={'|'.join(as_text(value) for value in self.values)}"


@dataclass(frozen=True)
class Dimension:
    """One field of a `TrainConfig` and what it can be."""

    path: str
    """The field, dotted: ``model.width``."""
    name: str
    """Unique in its space: the path, or ``path@condition`` for one of several alternatives."""
    kind: Kind
    choices: tuple[Scalar, ...] = ()
    """Of a choice, what a sampler picks from: a list is here as its JSON text."""
    meanings: tuple[Any, ...] = ()
    """Of a choice, what each of ``choices`` sets the field to."""
    low: int | float | None = None
    high: int | float | None = None
    """Bounds of an int or float, both included."""
    log: bool = False
    """Drawn evenly on a logarithmic scale."""
    step: int | float | None = None
    """Only ``low``, ``low + step``, ... up to ``high``, which is one of them."""
    value: Any = None
    """Of a conditional constant (kind ``value``); a sampler never sees it."""
    when: tuple[Condition, ...] = ()
    """All must hold for the dimension to apply."""

    def is_active(self, settings: dict[str, Any]) -> bool:
        """``settings``: values of the fields that come before, by dotted path."""
        return all(condition.holds(settings) for condition in self.when)

    def decode(self, value: Scalar) -> Any:
        """What the field is set to when a sampler picks ``value``."""
        if self.kind == "choice":
            return self.meanings[self.choices.index(value)]
        return min(max(value, self.low), self.high)

    def draw(self, rng: np.random.Generator) -> Scalar:
        """A value at random: evenly over the choices, or the range (its logarithm, with log)."""
        if self.kind == "choice":
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.step or (self.kind == "int" and not self.log):
            step = self.step or 1
            steps = int(rng.integers(round((self.high - self.low) / step) + 1))
            return min(self.low + steps * step, self.high)
        if self.kind == "int":
            drawn = round(
                math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            )
        elif self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = rng.uniform(self.low, self.high)
        return min(max(drawn, self.low), self.high)

    def encode(self, setting: Any) -> Scalar:
        """The sampler's value for a field's ``setting``. Raises `ValueError` with the range."""
        for value, meaning in zip(self.choices, self.meanings, strict=True):
            if is_same(meaning, setting):
                return value
        number = isinstance(setting, (int, float)) and not isinstance(setting, bool)
        if self.kind == "int" and number and float(setting).is_integer():
            setting = int(setting)
        elif self.kind == "float" and number:
            setting = float(setting)
        if not self.contains(setting):
            raise ValueError(f"it must be {self.range_text()}")
        return setting

    def contains(self, value: Any) -> bool:
        """Whether a sampler may pick ``value``."""
        if self.kind == "choice":
            return is_among(value, self.choices)
        wanted = int if self.kind == "int" else (int, float)
        if self.low is None or isinstance(value, bool) or not isinstance(value, wanted):
            return False
        slack = 1e-9 * (self.high - self.low)  # a sampler's sum of steps may round past an end
        if not self.low - slack <= value <= self.high + slack:
            return False
        steps = (value - self.low) / self.step if self.step else 0
        return abs(steps - round(steps)) < 1e-6

    def corners(self) -> tuple[Scalar, ...]:
        """Values that stand for all: every choice; of a range both ends and one in between."""
        if self.kind == "choice":
            return self.choices
        if self.step or self.kind == "int":
            return tuple(dict.fromkeys((self.low, self.low + (self.step or 1), self.high)))
        # The golden section: no whole number for any round bounds, so that a float given to
        # a field of whole numbers is noticed.
        return (self.low, self.low + 0.381966011250105 * (self.high - self.low), self.high)

    def range_text(self) -> str:
        """``one of vgg, mlp`` or ``from 0.01 to 0.3, log``."""
        if self.kind == "value":
            return as_text(self.value)
        if self.kind == "choice":
            return f"one of {', '.join(as_text(choice) for choice in self.choices)}"
        step = f", step {as_text(self.step)}" if self.step else ""
        return (
            f"from {as_text(self.low)} to {as_text(self.high)}{', log' if self.log else ''}{step}"
        )

    def when_text(self) -> str:
        """``model.name=vgg, optimizer=sgd``; empty for a dimension that always applies."""
        return ", ".join(str(condition) for condition in self.when)

    def to_json(self) -> dict[str, Any]:
        """Only what this kind has; equal dictionaries mean equal dimensions."""
        values: dict[str, Any] = {"path": self.path, "name": self.name, "kind": self.kind}
        if self.kind == "choice":
            values["choices"] = list(self.meanings)
        elif self.kind == "value":
            values["value"] = self.value
        else:
            values |= {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return values | {"when": {c.path: list(c.values) for c in self.when}}


def as_text(value: Any) -> str:
    """As YAML would write it: ``true``, ``null``, ``0.05``, ``[512, 128]``; text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def is_same(left: Any, right: Any) -> bool:
    """Equality in which ``true`` is not 1; 1 and 1.0 are the same."""
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-12)
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def is_among(value: Any, values: tuple) -> bool:
    return any(is_same(value, other) for other in values)
