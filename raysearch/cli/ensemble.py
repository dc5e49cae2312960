"""``raysearch ensemble``: select from what a run has so far, and export it."""

import json
from typing import Annotated

import typer

from raysearch.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command()(ensemble)


def ensemble(
    run: Annotated[str, typer.Argument(help="Folder or URI of the run, finished or not.")],
    objective: Annotated[
        str, typer.Option(help="What to select for: log_loss, accuracy or macro_f1.")
    ] = "log_loss",
    max_members: Annotated[
        int | None, typer.Option(min=1, help="Distinct candidates at most.")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Parameters of all members at most, e.g. 800k or 5M.")
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Milliseconds for one image at most, on this machine's CPU."),
    ] = None,
    shifts: Annotated[
        bool,
        typer.Option(
            "--shifts",
            help="See images in ten views too (5 positions, mirrored): ten passes a network.",
        ),
    ] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train the selected members again, on train + validation."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Select the best weighted ensemble of a run's trials and export it to RUN/ensemble."""
    from rich.console import Console

    from raysearch.ensemble.build import build_ensemble
    from raysearch.ensemble.cost import Budget, parse_count
    from raysearch.ensemble.selection import OBJECTIVES
    from raysearch.files import write_json
    from raysearch.report.runfiles import ENSEMBLE_REPORT
    from raysearch.storage.runs import changed_place

    if objective not in OBJECTIVES:
        raise ConfigError(
            f"--objective must be one of {', '.join(OBJECTIVES)}, but got {objective!r}."
        )
    stderr = Console(stderr=True)
    budget = Budget(parse_count(max_params) if max_params else None, max_latency_ms)
    with changed_place(run) as folder:
        report = build_ensemble(
            folder,
            objective=objective,
            max_members=max_members,
            budget=budget,
            shifts=shifts,
            refit=refit,
            on_progress=lambda line: stderr.print(line, highlight=False, markup=False),
        )
        write_json(folder / ENSEMBLE_REPORT, report.to_json())
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        from raysearch.report.terminal import print_ensemble

        print_ensemble(report.to_json(), Console(highlight=False))
        print(report.path)
