"""Spaces by name: those that come with raysearch, in the checkout or installed beside it."""

import importlib.metadata
from pathlib import Path

from raysearch.errors import ConfigError, did_you_mean

FOLDER = "search_spaces"


def shipped_spaces() -> dict[str, Path]:
    """Name to file of every space that comes with raysearch, by name."""
    checkout = Path(__file__).parents[2] / FOLDER
    files = sorted(checkout.glob("*.yaml")) or _installed()
    return {path.stem: path for path in files}


def _installed() -> list[Path]:
    """The distribution's data files: where they lie depends on how it was installed."""
    try:
        files = importlib.metadata.files("raysearch") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return sorted(
        Path(str(file.locate())).resolve()
        for file in files
        if file.parent.name == FOLDER and file.suffix == ".yaml"
    )


def resolve_space(space: Path | str) -> Path:
    """The file that ``space`` names: a path, or the name of a shipped space.

    A folder ``search_spaces`` in the current one comes before what is shipped. Raises
    `ConfigError` where there is no such file.
    """
    if Path(space).is_file():
        return Path(space)
    name = str(space)
    own = Path(FOLDER) / f"{name}.yaml"
    if own.is_file():
        return own
    shipped = shipped_spaces()
    if name in shipped:
        return shipped[name]
    raise ConfigError(
        f"There is no search space {name!r}{did_you_mean(name, shipped)}. Give the path of a "
        f"YAML file or one of: {', '.join(shipped) or 'none found'}."
    )
