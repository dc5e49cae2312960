"""Helpers that write small image sets."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def random_png(rng: np.random.Generator, size: int = 8, channels: int = 1) -> bytes:
    shape = (size, size) if channels == 1 else (size, size, channels)
    return encode(rng.integers(0, 256, shape, dtype=np.uint8))


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def table_row(pixels: np.ndarray, label: int, usage: str | None = None) -> str:
    text = " ".join(map(str, pixels.reshape(-1).tolist()))
    return f"{label},{text}" + (f",{usage}" if usage else "")
