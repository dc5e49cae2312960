"""``raysearch doctor``: whether this machine can run a search."""

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    storage: Annotated[Path, typer.Option(help="Folder that will hold the runs.")] = Path(
        "results"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check versions, devices, disk, memory and settings; exit 1 if a search cannot run."""
    from raysearch.doctor import BAD, examine

    checks = examine(storage)
    bad = any(check.level == BAD for check in checks)
    if as_json:
        print(json.dumps({"ok": not bad, "checks": [check.to_json() for check in checks]}))
    else:
        for check in checks:
            print(f"{check.level:<5} {check.name:<14} {check.found}")
            if check.remedy:
                print(f"{'':<20} {check.remedy}")
    if bad:
        raise typer.Exit(1)
