"""What the commands on an exported ensemble share."""

import sys
from pathlib import Path
from typing import Annotated

import typer

ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="Folder of an exported ensemble.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def log(line: str) -> None:
    print(line, file=sys.stderr)


def plain(text: str) -> str:
    """``text`` as rich prints it literally, whatever brackets a file or class name has."""
    from rich.markup import escape

    return escape(text)
