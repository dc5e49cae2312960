"""What an ONNX file may not hold, found in its bytes before ONNX Runtime sees them.

A graph may name files anywhere on the disk as its weights, and may loop without end; an export
does neither. The format is protobuf; field numbers are those of onnx.proto (IR version 10).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from raysearch.errors import ArtifactError

GRAPH_BYTES = 2**31
"""Protobuf's own limit."""
_DEPTH = 32

_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message to its fields that hold a message which can hold what is looked for."""

_OPERATOR = 4
_EXTERNAL_DATA = 13
_KEPT_OUTSIDE = (14, 1)
"""A tensor's field `data_location` with the value EXTERNAL."""
_ENDLESS = (b"Loop", b"Scan")


def check_graph_file(path: Path) -> None:
    """Raises `ArtifactError` for weights in other files, loops, and what is no ONNX model."""
    try:
        size = path.stat().st_size
        if not 0 < size < GRAPH_BYTES:
            raise ValueError(f"{size:,} bytes, where 1 to {GRAPH_BYTES - 1:,} can be read")
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reason = _forbidden(memoryview(data), "model", 0)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not an ONNX model: {error}.") from None
    if reason:
        raise ArtifactError(f"{path} {reason}, which no export does.")


def _forbidden(message: memoryview, kind: str, depth: int) -> str:
    """The first forbidden thing in ``message``, in words, or ""."""
    if depth > _DEPTH:
        raise ValueError(f"messages are nested more than {_DEPTH} deep")
    for field, value in _fields(message):
        if kind == "tensor" and (field == _EXTERNAL_DATA or (field, value) == _KEPT_OUTSIDE):
            return "keeps weights in other files"
        if kind == "node" and field == _OPERATOR and value in _ENDLESS:
            return f"holds the operator {bytes(value).decode()}"
        part = _PARTS[kind].get(field)
        if part and isinstance(value, memoryview):
            if reason := _forbidden(value, part, depth + 1):
                return reason
    return ""


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field; a number or, where it has a length, its bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
        elif wire in (1, 5):
            value, at = 0, at + (8 if wire == 1 else 4)
        elif wire == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"a field of the unknown kind {wire}")
        if at > len(message) or not field:
            raise ValueError("a field leads beyond its message")
        yield field, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number is cut off or too long")
