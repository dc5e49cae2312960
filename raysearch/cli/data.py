"""``raysearch data``: import, check, show and synthesize data."""

import typer

app = typer.Typer(help="Import, check and look at image data.", no_args_is_help=True)
