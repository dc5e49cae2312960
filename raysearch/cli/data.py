"""``raysearch data``: import, check, show and synthesize data."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raysearch.data.audit import Audit, Row
    from raysearch.data.importing import ImportReport

app = typer.Typer(help="Import, check and look at image data.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn by chance.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of imported data.")]
GROUPS_SHOWN = 3


@app.command("import")
def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="FER2013's table (.csv, .csv.gz, .zip, .tar.gz), or a folder or .zip of class "
            "folders; or one per split: train=a.csv validation=b.csv test=c.csv.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the imported data.")],
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels; by default the images' own (of several the median), at most 224."
        ),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 (gray) or 3 (RGB); by default the images' own.")
    ] = None,
    allow_rejected: Annotated[
        bool, typer.Option("--allow-rejected", help="Go on where over 1 % cannot be used.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Read images and labels, whatever their layout, into a new data folder."""
    from raysearch.data.importing import import_data

    with _progress() as progress:
        report = import_data(
            sources,
            out,
            image_size=image_size,
            channels=channels,
            allow_rejected=allow_rejected,
            seed=seed,
            progress=progress,
        )
    _print_import(report, as_json)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the faces.")],
    images: Annotated[int, typer.Option(help="How many, over all three splits.")] = 3500,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 48,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw synthetic gray faces with seven expressions into a new data folder."""
    from raysearch.data.synthetic import synthesize

    report = synthesize(out, images=images, image_size=image_size, seed=seed)
    _print_import(report, as_json)


@app.command()
def check(folder: Folder, as_json: Json = False) -> None:
    """Find duplicates, leaks between splits, conflicting labels and blank images."""
    from raysearch.data.audit import audit
    from raysearch.data.shards import open_shards

    found = audit(open_shards(folder))
    if as_json:
        print(json.dumps(found.summary()))
        return
    _print_class_counts(found.class_counts)
    _print_findings(found)


@app.command()
def show(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet (PNG) there.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the contact sheet.")] = "train",
    seed: Seed = 0,
) -> None:
    """What a data folder holds; with --out some images of each class as a picture."""
    from raysearch.data.shards import open_shards

    shards = open_shards(folder)
    source = shards.manifest["source"]
    channels, height, width = shards.shape
    print(f"{folder}: {source['found']} from {', '.join(source['names'])}")
    print(f"{width}x{height} pixels, {'gray' if channels == 1 else 'RGB'}")
    print(f"fingerprint {shards.fingerprint}")
    counts = {name: entry["class_counts"] for name, entry in shards.manifest["splits"].items()}
    _print_class_counts(counts)
    if out is not None:
        from raysearch.data.contact_sheet import write_contact_sheet

        write_contact_sheet(shards, split, out, seed)
        _say(f"Wrote {out}.")


@contextmanager
def _progress():
    """A callback for rows done and rows in all, drawn on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(done, total))


def _print_import(report: "ImportReport", as_json: bool) -> None:
    for note in report.notes:
        _say(f"note: {note}")
    if as_json:
        print(json.dumps(report.summary()))
        return
    print(f"Found: {report.found}")
    counts = ", ".join(f"{count:,} {name}" for name, count in report.images.items())
    channels, height, width = report.shape
    color = "gray" if channels == 1 else "RGB"
    print(f"Wrote {report.path}: {counts}; {len(report.classes)} classes; {width}x{height} {color}")
    if report.rejected:
        print(f"Left out: {report.rejected:,}, listed in {report.path / 'rejected.csv'}")
    print(f"Took {report.seconds:.1f} s; fingerprint {report.fingerprint}")


def _print_class_counts(class_counts: dict[str, dict[str, int]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", title="Images")
    for split in class_counts:
        table.add_column(split, justify="right")
    for name in next(iter(class_counts.values())):
        table.add_row(name, *(f"{counts[name]:,}" for counts in class_counts.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(counts.values()):,}" for counts in class_counts.values()))
    Console().print(table)


def _print_findings(found: "Audit") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("finding", title=f"{found.images:,} images, {found.unique_images:,} unique")
    table.add_column("groups", justify="right")
    findings = {
        "exact duplicates": found.duplicates,
        "exact duplicates across splits": found.across_splits,
        "exact duplicates with conflicting labels": found.conflicting,
        "near-duplicates": found.near_duplicates,
        "constant images": [[row] for row in found.constants],
    }
    for name, groups in findings.items():
        table.add_row(name, f"{len(groups):,}")
    Console().print(table)
    for name, groups in findings.items():
        for group in groups[:GROUPS_SHOWN]:
            print(f"{name}: {_describe(group)}")


def _describe(group: list["Row"]) -> str:
    rows = [f"{row.source} ({row.split}, {row.label})" for row in group[:GROUPS_SHOWN]]
    more = len(group) - len(rows)
    return " = ".join(rows) + (f" and {more:,} more" if more else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
