"""Time an exported ensemble in ONNX Runtime, as `raysearch predict` runs it, beside PyTorch.

    python benchmarks/predict.py ARTIFACT [--images 256] [--out FILE]

Both get the same random uint8 images in memory, on all cores, 64 or 1 at a time; `decode` is what
comes before, from PNG files of that size in memory. All ways run in turn, five times; the table
holds medians.
"""

import argparse
import io
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from conditions import conditions, write_table
from PIL import Image

from raysearch.data.images import decode
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.predictor import Predictor

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("results/predict.csv"))
    options = parser.parse_args()
    before = conditions("onnxruntime", "torch", "pillow", "numpy")
    ways = make_ways(options.artifact, options.images)
    seconds: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):
        for way, (run, _) in ways.items():
            begin = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - begin)
    rows = []
    for (name, batch), times in seconds.items():
        count = ways[name, batch][1]
        row = {"way": name, "batch": batch, "images": count}
        row["images_per_second"] = round(count / median(times[1:]), 1)  # the first warms up
        rows.append({**row, "rounds": ROUNDS, **before})
        print(f"{name:>8}, {batch:>2} at a time: {row['images_per_second']:>9,} images/s")
    write_table(options.out, rows)


def make_ways(folder: Path, images: int) -> dict:
    """(name, batch) to what runs, and over how many images."""
    artifact = load_artifact(folder)
    channels, *size = artifact.shape
    rng = np.random.default_rng(0)
    images_NCHW = rng.integers(0, 256, (images, *artifact.shape), dtype=np.uint8)
    files = [png_of(image) for image in images_NCHW]
    ways = {("decode", 1): (lambda: [decode(file, size, channels) for file in files], images)}
    for batch, part_NCHW in ((64, images_NCHW), (1, images_NCHW[: max(1, images // 8)])):
        for name, backend in (("onnx", "onnx"), ("pytorch", "torch")):
            predictor = Predictor(artifact, backend, batch)
            run = partial(predictor.predict_probs, part_NCHW)
            ways[name, batch] = (run, len(part_NCHW))
    return ways


def png_of(image_CHW: np.ndarray) -> bytes:
    file = io.BytesIO()
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
