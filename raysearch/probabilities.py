"""The prediction library's file: what each candidate of a trial said about a split.

An uncompressed Arrow IPC file, one row an image in split order, one column
``fixed_size_list<float16>[K]`` a candidate, in memory-mappable form. Schema metadata (JSON
under the key ``raysearch``): ``split``, ``digest`` (of the split that the rows belong to),
``classes``, ``epoch``, ``precision`` ({candidate: "bf16" | "fp32"}: how it was computed).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysearch.errors import ArtifactError
from raysearch.files import atomic_path

_KEY = b"raysearch"


@dataclass(frozen=True)
class Probabilities:
    """``candidates``: name to ``probs_VK``, float16, rows summing to 1 within rounding."""

    candidates: dict[str, np.ndarray]
    split: str
    digest: str
    classes: tuple[str, ...]
    epoch: int
    precision: dict[str, str]


def write_probabilities(path: Path | str, probabilities: Probabilities) -> None:
    """Write atomically: the file is whole, or what was there before."""
    columns, names = [], []
    for name, probs_VK in probabilities.candidates.items():
        flat = pa.array(np.ascontiguousarray(probs_VK, dtype=np.float16).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, probs_VK.shape[1]))
        names.append(name)
    meta = {
        "split": probabilities.split,
        "digest": probabilities.digest,
        "classes": list(probabilities.classes),
        "epoch": probabilities.epoch,
        "precision": probabilities.precision,
    }
    table = pa.table(columns, names=names).replace_schema_metadata({_KEY: json.dumps(meta)})
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def read_probabilities(path: Path | str) -> Probabilities:
    """Raises `ArtifactError` for anything that is not a whole file of this format."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
        meta = json.loads(table.schema.metadata[_KEY])
        classes = tuple(meta["classes"])
        candidates = {
            name: table[name].combine_chunks().flatten().to_numpy().reshape(-1, len(classes))
            for name in table.column_names
        }
        return Probabilities(
            candidates,
            meta["split"],
            meta["digest"],
            classes,
            int(meta["epoch"]),
            dict(meta["precision"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{path} is not a whole probability file ({error}). "
            "Delete it; `raysearch resume` makes it again."
        ) from None
