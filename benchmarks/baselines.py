"""The documented baselines on real data, for some minutes each, beside their documented figures.

    python benchmarks/baselines.py --data DIR [--minutes 10] [--out FILE] [CONFIG ...]

Without files, all of P1 to P4 in `search_spaces/baselines/`. Each is one `raysearch train` process
with ``--threads`` threads, stopped after ``--minutes`` where its epochs take longer. A file that
goes on from another's weights takes them from that one's run here. Where ``--without-hub`` is
given, what starts from ImageNet weights is trained from scratch instead, and left out where all
but the head would be frozen.

A row: the file, what its README says of it, and what was reached here: epochs, seconds of
training, accuracy on the validation split in the epoch with the lowest log loss, which is the one
that is kept, and in the best epoch. Rows of the same file are replaced.
"""

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from conditions import conditions, write_table

from raysearch.train.curve import read_metrics
from raysearch.train.trial import TrialFolder

FOLDER = Path(__file__).parent.parent / "search_spaces" / "baselines"
ROW = re.compile(r"\| \[`(\w[\w.-]*)`\]\(.*?\) \| (.*?) \| .*? \| .*? \| (.*?) \|")


def documented() -> dict[str, tuple[str, str]]:
    """File stem to system and accuracy, from the table in the README beside the files."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    return {stem: (system, accuracy.replace("\\*", "*")) for stem, system, accuracy in rows}


def adapted(file: Path, runs: Path, without_hub: bool) -> dict:
    """The configuration as it runs here."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "init_from" in values:
        values["init_from"] = str(runs / Path(values["init_from"]).stem)
    if without_hub and values.pop("pretrained", None):
        values.pop("freeze_depth", None)
    return values


def train(values: dict, stem: str, options: argparse.Namespace) -> TrialFolder:
    """Run it for its epochs or the minutes, whichever end first."""
    folder = options.runs / stem
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(values, file)
    command = ["train", file.name, "--data", str(options.data), "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "raysearch", *command],
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
        stdout=subprocess.DEVNULL,
        # A job in a shell's background inherits that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        process.wait(timeout=60 * options.minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
    Path(file.name).unlink()
    return TrialFolder(folder)


def row_of(stem: str, files: TrialFolder, note: str) -> dict:
    system, accuracy = documented()[stem]
    rows = read_metrics(files.metrics)
    kept = min(rows, key=lambda row: row["validation_log_loss"])
    return {
        "file": stem,
        "system": system,
        "parameters": files.read_record().parameters,
        "epochs": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "validation_accuracy": round(kept["validation_accuracy"], 4),
        "best_epoch_accuracy": round(max(row["validation_accuracy"] for row in rows), 4),
        "train_accuracy_at_end": round(rows[-1]["train_accuracy"], 4),
        "documented_accuracy": accuracy,
        "ended": files.read_status()["status"],
        "note": note,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-hub", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("results/baselines"))
    parser.add_argument("--out", type=Path, default=Path("results/baselines.csv"))
    options = parser.parse_args()
    for file in options.files or sorted(FOLDER.glob("p[1-4]*.yaml")):
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
        scratch = options.without_hub and "pretrained" in given
        if scratch and given.get("freeze_depth"):
            print(f"{file.stem}: left out, it needs ImageNet weights", file=sys.stderr)
            continue
        under = conditions("torch", "timm") | {"threads": options.threads}
        files = train(adapted(file, options.runs, options.without_hub), file.stem, options)
        if not files.metrics.exists():
            print(f"{file.stem}: no epoch ended, see {files.path}", file=sys.stderr)
            continue
        row = row_of(file.stem, files, "from scratch: no ImageNet weights at hand" * scratch)
        save(options.out, row | under)
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""))


def save(path: Path, row: dict) -> None:
    others = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            others = [old for old in csv.DictReader(file) if old["file"] != row["file"]]
    write_table(path, sorted([*others, row], key=lambda r: r["file"]))


if __name__ == "__main__":
    main()
