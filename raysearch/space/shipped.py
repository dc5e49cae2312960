"""Files by name: spaces and baselines that come with raysearch, in the checkout or installed."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from raysearch.errors import ConfigError, did_you_mean

FOLDER = "search_spaces"
BASELINES = "baselines"


def shipped_spaces() -> dict[str, Path]:
    """Name to file of every space that comes with raysearch, by name."""
    return {path.stem: path for path in _shipped(FOLDER)}


def shipped_baselines() -> dict[str, Path]:
    """``baselines/<name>`` to file of every documented training run that comes with raysearch."""
    return {f"{BASELINES}/{path.stem}": path for path in _shipped(f"{FOLDER}/{BASELINES}")}


def _shipped(folder: str) -> list[Path]:
    checkout = Path(__file__).parents[2] / folder
    return sorted(checkout.glob("*.yaml")) or _installed(folder)


def _installed(folder: str) -> list[Path]:
    """The distribution's data files: where they lie depends on how it was installed."""
    try:
        files = importlib.metadata.files("raysearch") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return sorted(
        Path(str(file.locate())).resolve()
        for file in files
        if file.parent.as_posix().endswith(f"/{folder}") and file.suffix == ".yaml"
    )


def resolve_space(space: Path | str) -> Path:
    """The file that ``space`` names: a path, or the name of a shipped space.

    A folder ``search_spaces`` in the current one comes before what is shipped. Raises
    `ConfigError` where there is no such file.
    """
    return _resolve(space, "search space", shipped_spaces())


def resolve_config(config: Path | str) -> Path:
    """The file of a training run that ``config`` names: ``baselines/<name>``, which is looked up as
    `resolve_space` does, or else a path, which may lead nowhere."""
    if Path(config).parent != Path(BASELINES):
        return Path(config)
    return _resolve(config, "baseline", shipped_baselines())


def _resolve(given: Path | str, what: str, shipped: Mapping[str, Path]) -> Path:
    if Path(given).is_file():
        return Path(given)
    name = str(given)
    own = Path(FOLDER) / f"{name}.yaml"
    if own.is_file():
        return own
    if name in shipped:
        return shipped[name]
    raise ConfigError(
        f"There is no {what} {name!r}{did_you_mean(name, shipped)}. Give the path of a "
        f"YAML file or one of: {', '.join(shipped) or 'none found'}."
    )
