"""`SearchConfig`: how to search, the ``search:`` part of a space."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raysearch.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class SearchConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trials: Annotated[int, Field(ge=1)] = 20
    """Configurations to try."""
    epochs: Annotated[int, Field(ge=1)] = 20
    """Epochs of a trial that is not stopped early."""
    time_budget: Annotated[float, Field(gt=0)] | None = None
    """Wall time of the whole command in seconds (in a file ``90s``, ``60m``, ``1.5h``)."""
    trial_timeout: Annotated[float, Field(gt=0)] | None = None
    """Longest time in seconds from one epoch's end to the next (in a file ``10m``); a trial that
    takes longer hangs, and is killed."""
    keep: Annotated[int, Field(ge=1)] = 20
    """Trials whose weights are kept: members of the best ensemble so far, then the lowest log
    losses. Probabilities are kept of all."""
    max_disk: Annotated[int, Field(gt=0)] | None = None
    """Bytes that the run's folder may take (in a file ``20GB``)."""
    objective: tuple[Literal["log_loss", "params"], ...] = ("log_loss",)
    """What to have little of: validation log loss, and parameters too where both are given. The
    ensemble is selected for log loss either way."""
    sampler: Literal["tpe", "random", "gp", "nsga2"] = "tpe"
    """Optuna's multivariate TPE, independent random draws, a Gaussian process (needs scipy), or
    NSGA-II, a genetic algorithm for two objectives in populations of 20."""
    scheduler: Literal["asha", "median", "pbt", "none"] = "asha"
    """Asynchronous successive halving over epochs, the median stopping rule, population-based
    training, or every trial to its end."""
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """No trial is stopped before; ASHA's first rung, and how often pbt compares."""
    population: Annotated[int, Field(ge=4)] = 10
    """Of pbt: trials that begin anew; the others, up to `trials`, take the place of poor ones."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """At each of ASHA's rungs one in so many trials goes on."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the sampler and of every trial's training."""

    @field_validator("time_budget", "trial_timeout", mode="before")
    @classmethod
    def _parse_duration(cls, value: Any) -> Any:
        return parse_duration(value) if isinstance(value, str) else value

    @field_validator("max_disk", mode="before")
    @classmethod
    def _parse_size(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _objective_fits(self) -> "SearchConfig":
        if self.objective not in (("log_loss",), ("log_loss", "params")):
            raise ValueError("objective must be log_loss or [log_loss, params]")
        two = len(self.objective) == 2
        if two and self.scheduler != "none":
            raise ValueError(
                f"scheduler {self.scheduler} stops trials by their log loss alone, small networks "
                "first; objective [log_loss, params] needs scheduler: none"
            )
        if two != (self.sampler == "nsga2") and self.sampler != "random":
            raise ValueError(
                f"sampler {self.sampler} is for {'one objective' if two else 'two'}; "
                "objective [log_loss, params] takes nsga2 or random, log_loss the others"
            )
        return self

    @model_validator(mode="after")
    def _first_rung_within_epochs(self) -> "SearchConfig":
        if self.scheduler == "asha" and self.grace_epochs > self.epochs:
            raise ValueError(
                f"grace_epochs ({self.grace_epochs}) must not exceed epochs ({self.epochs})"
            )
        return self

    def replaced(self, **changes: Any) -> "SearchConfig":
        """With those of ``changes`` that are not None; fewer epochs lower ``grace_epochs`` too.

        Raises pydantic's `ValidationError`.
        """
        values = self.model_dump() | {k: v for k, v in changes.items() if v is not None}
        values["grace_epochs"] = min(values["grace_epochs"], max(1, values["epochs"]))
        return SearchConfig.model_validate(values)


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m`` or ``1.5h``. Raises `ConfigError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text)
    if not match or float(match[1]) == 0:
        raise ConfigError(
            f"A duration is a number above 0 and a unit, such as 90s, 30m or 1.5h, not {text!r}."
        )
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes of ``20GB`` or ``1.5GiB``. Raises `ConfigError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MGT]i?B)\s*", text)
    if not match or float(match[1]) == 0:
        raise ConfigError(
            f"A size is a number above 0 and a unit, such as 500MB, 20GB or 1.5GiB, not {text!r}."
        )
    return int(float(match[1]) * _BYTES[match[2]])
