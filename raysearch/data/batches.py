"""One shard file: an Arrow record batch in and out, over NumPy's memory, without pandas."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysearch.errors import DataError

REMEDY = "Delete the folder and run `raysearch data import` again."


def write_batch(
    path: Path,
    images_NCHW: np.ndarray,
    labels_N: np.ndarray,
    sources: Sequence[str],
    digests_N16: np.ndarray,
) -> None:
    shape = images_NCHW.shape[1:]
    pixels = pa.FixedSizeListArray.from_arrays(
        _array(pa.uint8(), images_NCHW), type=pa.list_(pa.uint8(), int(np.prod(shape)))
    )
    columns = {
        "image": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), pixels),
        "label": _array(pa.int16(), labels_N.astype(np.int16)),
        "source": _strings(sources),
        "digest": _array(pa.binary(16), digests_N16, len(digests_N16)),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_batch(path: Path, shape: Sequence[int]) -> pa.RecordBatch:
    """The one batch of a shard of images of ``shape`` (C, H, W), its structure checked: offsets
    that lead out of the file would end the process when they are followed.

    Raises `DataError`.
    """
    kinds = {
        "image": pa.fixed_shape_tensor(pa.uint8(), shape),
        "label": pa.int16(),
        "source": pa.string(),
        "digest": pa.binary(16),
    }
    try:
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        found = dict(zip(batch.schema.names, batch.schema.types, strict=True))
        if found != kinds or any(column.null_count for column in batch.columns):
            raise ValueError("other columns than a shard has, or missing values")
        batch.validate(full=True)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a whole shard ({error}). {REMEDY}") from None
    return batch


def values_of(column: pa.Array, dtype: type | str) -> np.ndarray:
    """NumPy over Arrow's memory. (`to_numpy` would import pandas.)"""
    return np.frombuffer(column.buffers()[1], dtype)[column.offset :][: len(column)]


def _array(kind: pa.DataType, values: np.ndarray, length: int | None = None) -> pa.Array:
    """Arrow over NumPy's memory. (`pa.array` would import pandas, which takes most of a second.)"""
    buffer = pa.py_buffer(np.ascontiguousarray(values).reshape(-1))
    return pa.Array.from_buffers(kind, values.size if length is None else length, [None, buffer])


def _strings(values: Sequence[str]) -> pa.StringArray:
    encoded = [value.encode("utf-8", "backslashreplace") for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)
