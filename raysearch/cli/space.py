"""``raysearch space``: look at a search space, or check it, before anything starts."""

import json
from typing import Annotated

import typer

app = typer.Typer(help="Search spaces: check one, or show what it searches.", no_args_is_help=True)

File = Annotated[
    str,
    typer.Argument(metavar="SPACE", help="A YAML file, or the name of a shipped space: demo."),
]


@app.command()
def check(space: File) -> None:
    """Check a space as `tune` does: fields, ranges, conditions, networks.

    Prints one line. A fault is named with file, line and column, and the exit code is 2.
    """
    from raysearch.space import load_space

    loaded = load_space(space)
    search = loaded.search
    parts = [
        _count(len(loaded.searched), "dimension"),
        _count(len(loaded.known), "known configuration"),
        f"{_count(search.trials, 'trial')} of up to {_count(search.epochs, 'epoch')}",
    ]
    typer.echo(f"{loaded.path}: ok, {', '.join(parts)}")


@app.command()
def show(
    space: File,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what a space searches: every field, its range, and when it applies."""
    from raysearch.space import load_space

    loaded = load_space(space)
    if as_json:
        typer.echo(json.dumps(loaded.to_json(), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("field", "range", "when", title=escape(loaded.description) or None)
    for row in loaded.describe():
        table.add_row(*(escape(row[column]) for column in ("field", "range", "when")))
    console = Console()
    console.print(table)
    settings = loaded.search.model_dump(exclude_none=True)
    line = "  ".join(f"{name}={value}" for name, value in settings.items())
    console.print(f"search: {line}", highlight=False)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
