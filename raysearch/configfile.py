"""`load_train_config`: a training run from a YAML file, with errors that say where."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from raysearch.config import TrainConfig, describe
from raysearch.data.classes import ClassError
from raysearch.errors import ConfigError, FieldError
from raysearch.yamlfile import Document, load_yaml


def load_train_config(path: Path | str, begun: tuple[Path, ...] = ()) -> TrainConfig:
    """The `TrainConfig` whose fields are in the YAML file ``path``, its paths absolute.

    Raises `ConfigError` with file, line and column; a network's name, its options, whether it can
    be built for ``image_size``, whether it can be trained so and whether what it starts from is
    there are checked too. ``begun``: the files whose runs begin with this one's weights.
    """
    from raysearch.models.registry import check_model, faulty_option
    from raysearch.train.checking import check_recipe

    document = load_yaml(path)
    try:
        train = TrainConfig.model_validate(document.values)
    except ValidationError as error:
        first = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        message = describe(error, TrainConfig)
        raise document.error(first["loc"], message, key=unknown) from None
    try:
        check_recipe(train, check_model(train.model, train.image_size))
    except FieldError as error:
        raise document.error(error.field, str(error), key=len(error.field) > 1) from None
    except ConfigError as error:
        option = faulty_option(train.model, train.image_size)
        place = ("model", option or "name")
        raise document.error(place, str(error), key=option is not None) from None
    return _check_start(document, train, (*begun, Path(path).resolve()))


def _check_start(document: Document, train: TrainConfig, begun: tuple[Path, ...]) -> TrainConfig:
    from raysearch.train.start import check_start, is_configuration, resolve_start

    train = resolve_start(train, Path(document.file).parent)
    first = Path(train.init_from) if is_configuration(train.init_from) else None
    if first in begun:
        circle = " -> ".join(str(file) for file in (*begun[begun.index(first) :], first))
        raise document.error(("init_from",), f"init_from goes in a circle: {circle}.")
    if first and first.exists():
        load_train_config(first, begun)
        return train
    try:
        check_start(train)
    except FieldError as error:
        raise document.error(error.field, str(error)) from None
    return train


@contextmanager
def classes_located(document: Document, *above: str) -> Iterator[None]:
    """Say where in ``document`` the class stands that the data turns out not to have.

    ``above``: the sections that hold ``classes``.
    """
    try:
        yield
    except ClassError as error:
        raise document.error((*above, "classes", error.position), str(error)) from None
