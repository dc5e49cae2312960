"""Commands on an exported ensemble: evaluate, predict, export."""

import typer


def register(app: typer.Typer) -> None:
    pass
