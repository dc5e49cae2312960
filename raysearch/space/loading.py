"""`load_space`: read a file, check it as a whole, hand out a `SearchSpace`."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raysearch.config import describe
from raysearch.errors import ConfigError, did_you_mean
from raysearch.space.checking import check_configurations
from raysearch.space.conditions import in_order, worlds
from raysearch.space.known import known_values
from raysearch.space.parsing import parse_train
from raysearch.space.searchspace import SearchSpace
from raysearch.space.settings import SearchConfig, parse_duration, parse_size
from raysearch.space.shipped import resolve_space
from raysearch.yamlfile import Document, load_yaml

_SECTIONS = ("description", "search", "train", "known")
_WITH_UNITS = {
    "time_budget": (parse_duration, "90s, 60m or 1.5h"),
    "trial_timeout": (parse_duration, "90s, 60m or 1.5h"),
    "max_disk": (parse_size, "500MB or 20GB"),
}


def load_space(space: Path | str, *, folder: Path | None = None, look: bool = True) -> SearchSpace:
    """The space in the file ``space``, or the shipped one of that name, checked.

    A checked space builds a valid `TrainConfig`, whose network can be built and frozen, from every
    choice and from both ends of every range, under every combination of conditions. Raises
    `ConfigError` with file, line and column.

    Args:
        folder: that paths in the space start at; the file's own where left out.
        look: whether the weights that training starts from must be there.
    """
    document = load_yaml(resolve_space(space))
    _check_sections(document)
    draft = parse_train(document)
    dimensions = in_order(draft)
    folder = folder or Path(document.file).resolve().parent
    starts = check_configurations(draft, worlds(draft, dimensions), folder, look)
    known = _known(document)
    return SearchSpace(
        path=Path(document.file),
        description=document.values.get("description") or "",
        search=_search(document),
        dimensions=dimensions,
        constants=draft.constants,
        known=known,
        known_values=known_values(draft, dimensions, known),
        source_text=document.text,
        folder=folder,
        starts=starts,
    )


def _check_sections(document: Document) -> None:
    for name in document.values:
        if name not in _SECTIONS:
            hint = did_you_mean(name, _SECTIONS)
            message = f"unknown section {name!r}{hint}. Known: {', '.join(_SECTIONS)}."
            raise document.error((name,), message, key=True)
    if "train" not in document.values:
        raise document.error((), "the section train is missing: the fields of a training run.")
    if not isinstance(document.values.get("description", ""), str | None):
        raise document.error(("description",), "description must be text.")


def _search(document: Document) -> SearchConfig:
    values = document.values.get("search")
    if values is None:
        return SearchConfig()
    if not isinstance(values, dict):
        raise document.error(("search",), "search must be a mapping of setting to value.")
    for name, (parse, examples) in _WITH_UNITS.items():
        if isinstance(values.get(name), int | float):
            raise document.error(("search", name), f"{name} needs a unit, such as {examples}.")
        if isinstance(values.get(name), str):
            try:
                parse(values[name])
            except ConfigError as error:
                raise document.error(("search", name), str(error)) from None
    try:
        return SearchConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        message = f"search: {describe(error, SearchConfig)}"
        raise document.error(("search", *first["loc"]), message, key=unknown) from None


def _known(document: Document) -> tuple[dict[str, Any], ...]:
    entries = document.values.get("known")
    if entries is None:
        return ()
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        message = "known is a list of mappings, such as - {model.name: vgg, lr: 0.1}."
        raise document.error(("known",), message)
    return tuple(entries)
