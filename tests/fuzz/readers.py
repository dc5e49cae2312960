"""Feeds damaged files to raysearch's readers, in a process with little memory and time.

    python tests/fuzz/readers.py WORK [--seed 0] [--only READER:INDEX]

WORK holds whole files (`test_readers.py` makes them). Each mutation must be read, or refused by
an error of raysearch's own. The last line says how many of each; the first failure ends it with
the mutation, which ``--only`` repeats. ``WORK/now`` always names the one under way, so that even
a crash of the interpreter can be told.
"""

import argparse
import json
import resource
import signal
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mutations import mutate

SECONDS = 5
"""Of computing, for one file: a busy machine is no hang."""
MEMORY = 400 * 2**20
"""On top of what is taken once everything is imported."""


class Reader(NamedTuple):
    """``read(path)`` of damaged copies of the files ``names``, ``count`` in all."""

    count: int
    names: list[str]
    read: Callable[[Path], object]
    text: bool = False


def readers(work: Path) -> dict[str, Reader]:
    import timm  # noqa: F401  which takes seconds, so not while a reader is timed
    from safetensors.torch import load_file

    from raysearch.ensemble import assembly, graphfile, manifest
    from raysearch.probabilities import read_probabilities
    from raysearch.space.loading import load_space
    from raysearch.train.trial import TrialRecord

    weights = {name: list(t.shape) for name, t in load_file(work / "model.safetensors").items()}

    def read_record(path: Path) -> None:
        record = TrialRecord.from_json(manifest.read_json(path), str(path))
        assembly.shapes_of(record, path)

    pictures = sorted(path.name for path in work.glob("picture.*"))
    return {
        "ensemble.json": Reader(
            2000, ["ensemble.json"], lambda path: manifest.read_manifest(path.parent), True
        ),
        "SHA256SUMS": Reader(
            500, ["SHA256SUMS"], lambda path: manifest.verify_sums(path.parent), True
        ),
        "config.json": Reader(500, ["config.json"], read_record, True),
        "safetensors": Reader(
            2000, ["model.safetensors"], lambda path: assembly.read_weights(path, weights)
        ),
        "onnx": Reader(1000, ["model.onnx"], graphfile.check_graph_file),
        "probabilities": Reader(1500, ["validation.arrow"], lambda p: use(read_probabilities(p))),
        "manifest.json": Reader(800, ["manifest.json"], read_shards, True),
        "shard": Reader(1200, ["train-00000.arrow"], read_shards),
        "image": Reader(3000, pictures, read_picture),
        "zip": Reader(1200, ["pictures.zip"], read_zip),
        "yaml": Reader(300, ["space.yaml"], load_space, True),
    }


def read_picture(path: Path) -> None:
    """As an import does, header first, and as `raysearch predict`."""
    from raysearch.data.images import BadImage, decode, read_header
    from raysearch.errors import DataError

    try:
        read_header(path.read_bytes())
        decode(path.read_bytes(), (24, 24), 3)
    except BadImage as error:
        raise DataError(str(error)) from None


def read_zip(path: Path) -> None:
    """A damaged member is named and left out, so that only the rest can be wrong."""
    from raysearch.ensemble.inputs import read_images

    list(read_images([path], (1, 24, 24), lambda name, reason: None))


def use(probabilities) -> None:
    """Touch every value, as the library does."""
    for probs_VK in probabilities.candidates.values():
        probs_VK.sum()


def read_shards(path: Path) -> None:
    from raysearch.data.shards import open_shards

    shards = open_shards(path.parent, verify=False)
    for name in shards.splits:
        split = shards.split(name)
        split.images_NCHW.sum(), split.labels_N.sum(), split.digests_N16.sum(), len(split.sources)


def reseal(path: Path) -> None:
    """Let a shard's manifest say the size that the damaged file has."""
    manifest = path.with_name("manifest.json")
    values = json.loads(manifest.read_text())
    values["splits"]["train"]["shards"][0]["bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(values))


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def out_of_time(*_) -> None:
    raise TimeoutError(f"more than {SECONDS} s for one file")


def attempt(work: Path, name: str, reader: Reader, index: int, seed: int) -> str:
    """Read one damaged file; "read", "refused", or why neither happened."""
    from raysearch.errors import RaysearchError

    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
    path = work / reader.names[index % len(reader.names)]
    original = path.read_bytes()
    manifest = work / "manifest.json"
    sealed = manifest.read_bytes()
    damaged, what = mutate(original, rng, reader.text)
    path.write_bytes(damaged)
    if name == "shard":
        reseal(path)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path)
        return "read"
    except RaysearchError:
        return "refused"
    except BaseException:
        return f"{path.name}: {what}\n{traceback.format_exc()}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.write_bytes(original)
        manifest.write_bytes(sealed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="READER:INDEX")
    options = parser.parse_args()
    signal.signal(signal.SIGPROF, out_of_time)
    found = readers(options.work)
    if options.only:
        name, index = options.only.rsplit(":", 1)
        print(attempt(options.work, name, found[name], int(index), options.seed))
        return
    for reader in found.values():
        reader.read(options.work / reader.names[0])  # imports everything, and must succeed
    limit_memory()
    now = open(options.work / "now", "w")
    counts = {name: {"read": 0, "refused": 0} for name in found}
    for name, reader in found.items():
        for index in range(reader.count):
            now.seek(0)
            now.write(f"{name}:{index}          ")
            now.flush()
            result = attempt(options.work, name, reader, index, options.seed)
            if result not in counts[name]:
                sys.exit(f"seed {options.seed}, --only {name}:{index}: {result}")
            counts[name][result] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
