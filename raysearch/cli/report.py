"""``raysearch report``: the offline page of a run."""

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    run: Annotated[str, typer.Argument(help="Folder or URI of the run.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write RUN/report.html and RUN/trials.csv from what the run has left so far."""
    from raysearch.report.page import write_report
    from raysearch.report.tables import write_leaderboard
    from raysearch.storage.runs import changed_place

    with changed_place(run) as folder:
        write_leaderboard(folder)
        page = write_report(folder)
    print(json.dumps({"report": str(page)}) if as_json else page)
