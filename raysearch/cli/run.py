"""Commands that make and read runs: tune, train, ensemble, resume, status."""

import typer


def register(app: typer.Typer) -> None:
    pass
