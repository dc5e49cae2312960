"""Import of FER2013 beside the loop that is usually written, in fresh interleaved processes.

    python benchmarks/import.py fer2013.zip [--runs 5] [--out results/import.csv]

Jobs: `archive` (the image archive into shards), `archive-loop` (open, decode, stack: nothing is
written), `table` (a full-size fer2013.csv of 35,887 rows into shards), `table-parse` (the same
table to arrays in memory, which is all that the loops do), `table-loop` (`pandas.read_csv`, then
`np.array(pixels.split())` a row) and `table-int-loop` (the same with `int` of every pixel, as most
notebooks have it); ratios are to `table-loop`, the faster of the two. The table is written from
the archive's images; training images stand in for the private test images. Seconds are of the
work, without interpreter start and imports; `process_seconds` is with both; `cpu_seconds` is the
work's on all cores together, which a busy machine changes less. Peak memory is the process's
maximum resident set and, for each process that it forks, that of the largest: an upper bound, since
they share pages.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from conditions import conditions, write_table

PEERS = {"archive": "archive-loop", "table": "table-loop", "table-parse": "table-loop"}
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
JOBS = ("archive", "archive-loop", "table", "table-parse", "table-loop", "table-int-loop")


def import_archive(source: Path, out: Path) -> Callable[[], int]:
    from raysearch.data.importing import import_data

    return lambda: sum(import_data([str(source)], out).images.values())


def parse_table(source: Path, out: Path) -> Callable[[], int]:
    import numpy as np

    from raysearch.data.sources import open_source

    def work() -> int:
        ((_, reader),) = open_source(source)
        batches = list(reader.read((1, 48, 48)))
        labels = [label for batch in batches for label in batch.labels]
        return len(np.concatenate([batch.images_NCHW for batch in batches])) and len(labels)

    return work


def loop_table(source: Path, out: Path) -> Callable[[], int]:
    import numpy as np
    import pandas as pd

    def work() -> int:
        table = pd.read_csv(source)
        rows = [np.array(p.split(), dtype=np.uint8).reshape(48, 48) for p in table["pixels"]]
        images, labels = np.stack(rows), table["emotion"].to_numpy()
        return len(images) and len(labels)

    return work


def int_loop_table(source: Path, out: Path) -> Callable[[], int]:
    import numpy as np
    import pandas as pd

    def work() -> int:
        table = pd.read_csv(source)
        faces = []
        for pixels in table["pixels"].tolist():
            face = [int(pixel) for pixel in pixels.split(" ")]
            faces.append(np.asarray(face).reshape(48, 48).astype("uint8"))
        images, labels = np.stack(faces), table["emotion"].to_numpy()
        return len(images) and len(labels)

    return work


def loop_archive(source: Path, out: Path) -> Callable[[], int]:
    import zipfile

    import numpy as np
    from PIL import Image

    def work() -> int:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            return len(np.stack([np.asarray(Image.open(archive.open(n))) for n in names]))

    return work


PREPARE = {
    "archive": import_archive,
    "table": import_archive,
    "table-parse": parse_table,
    "table-loop": loop_table,
    "table-int-loop": int_loop_table,
    "archive-loop": loop_archive,
}


def run_job(job: str, source: Path) -> None:
    """In the child: do one job, print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        work = PREPARE[job](source, Path(folder) / "data")
        started, cpu = time.perf_counter(), cpu_seconds()
        images = work()
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    own, others = (resource.getrusage(who).ru_maxrss for who in WHO)
    peak = (own + others * len(os.sched_getaffinity(0))) / 1024
    result = {"images": images, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}
    print(json.dumps(result))


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in WHO]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def spawn(job: str, source: Path) -> dict:
    started = time.perf_counter()
    command = [sys.executable, __file__, str(source), "--job", job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) | {"process_seconds": time.perf_counter() - started}


def write_csv(archive: Path, folder: Path) -> Path:
    """A fer2013.csv of the usual 35,887 rows from the archive's images."""
    from raysearch.data.importing import import_data
    from raysearch.data.shards import open_shards

    import_data([str(archive)], folder / "fer")
    shards = open_shards(folder / "fer")
    train, public = shards.split("train"), shards.split("validation")
    parts = [(train, "Training", len(train)), (public, "PublicTest", len(public))]
    path = folder / "fer2013.csv"
    with open(path, "w", encoding="ascii") as file:
        file.write("emotion,pixels,Usage\n")
        for split, usage, count in [*parts, (train, "PrivateTest", 3589)]:
            for image, label in zip(split.images_NCHW[:count], split.labels_N, strict=False):
                file.write(f"{label},{' '.join(map(str, image.reshape(-1)))},{usage}\n")
    return path


def summarize(results: dict[str, list[dict]]) -> list[dict]:
    """One row a job: medians, and the median over rounds of the loop's time over the job's."""
    rows = []
    for job, runs in results.items():
        peer = results[PEERS[job]] if job in PEERS else None
        ratios = [p["seconds"] / r["seconds"] for p, r in zip(peer or [], runs, strict=False)]
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rows.append(
            {
                "job": job,
                "images": runs[0]["images"],
                "runs": len(runs),
                "seconds": round(median["seconds"], 2),
                "cpu_seconds": round(median["cpu_seconds"], 2),
                "process_seconds": round(median["process_seconds"], 2),
                "peak_mib": round(max(run["peak_mib"] for run in runs)),
                "times_faster_than_loop": round(statistics.median(ratios), 1) if ratios else "",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/import.csv"))
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(arguments.job, arguments.archive)
        return
    known = conditions("numpy", "pandas", "pyarrow", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        table = write_csv(arguments.archive, Path(folder))
        results: dict[str, list[dict]] = {job: [] for job in JOBS}
        for _ in range(arguments.runs):
            for job in JOBS:
                source = table if job.startswith("table") else arguments.archive
                results[job].append(spawn(job, source))
    rows = [known | row for row in summarize(results)]
    write_table(arguments.out, rows)
    for row in rows:
        print(", ".join(f"{key} {row[key]}" for key in list(row)[len(known) :]))


if __name__ == "__main__":
    main()
