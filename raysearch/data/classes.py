"""A choice among the classes of the data, and what can be wrong with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysearch.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from raysearch.data.shards import Shards


class ClassError(ConfigError):
    """The name at ``position`` of a list of classes is at fault."""

    def __init__(self, message: str, position: int):
        super().__init__(message)
        self.position = position


def check_names(classes: Sequence[str], known: Sequence[str]) -> None:
    """Raises `ClassError` for a name that is not ``known``, or that is given twice."""
    for position, name in enumerate(classes):
        if name not in known:
            hint = did_you_mean(name, known)
            message = f"classes: the data has no class {name!r}{hint}. It has: {', '.join(known)}."
            raise ClassError(message, position)
        if name in classes[:position]:
            raise ClassError(f"classes: {name!r} is named twice.", position)


def check_filled(shards: "Shards") -> None:
    """Raises `ClassError` for a class without images to learn from, or to validate on."""
    for split in ("train", "validation"):
        counts = shards.manifest["splits"][split]["class_counts"]
        for position, name in enumerate(shards.classes):
            if not counts[name]:
                message = (
                    f"classes: {name!r} has no image in the split {split!r} of {shards.path}. "
                    "Leave it out, or import data that has it in both train and validation."
                )
                raise ClassError(message, position)
