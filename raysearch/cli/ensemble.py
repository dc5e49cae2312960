"""``raysearch ensemble``: select from what a run has so far, and export it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysearch.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from raysearch.ensemble.build import EnsembleReport


def register(app: typer.Typer) -> None:
    app.command()(ensemble)


def ensemble(
    run: Annotated[Path, typer.Argument(help="Folder of the run, finished or not.")],
    objective: Annotated[
        str, typer.Option(help="What to select for: log_loss, accuracy or macro_f1.")
    ] = "log_loss",
    max_members: Annotated[
        int | None, typer.Option(min=1, help="Distinct candidates at most.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Select the best weighted ensemble of a run's trials and export it to RUN/ensemble."""
    from rich.console import Console

    from raysearch.ensemble.build import build_ensemble
    from raysearch.ensemble.selection import OBJECTIVES
    from raysearch.files import write_json

    if objective not in OBJECTIVES:
        raise ConfigError(
            f"--objective must be one of {', '.join(OBJECTIVES)}, but got {objective!r}."
        )
    stderr = Console(stderr=True)
    report = build_ensemble(
        run,
        objective=objective,
        max_members=max_members,
        on_progress=lambda line: stderr.print(line, highlight=False, markup=False),
    )
    write_json(run / "ensemble_report.json", report.to_json())
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        print_report(report)


def print_report(report: "EnsembleReport") -> None:
    """Members, the honest estimate first, what it has to beat, and where the artifact is."""
    from rich.console import Console

    stdout = Console()
    nested, validation = report.nested, report.validation
    stdout.print(_member_table(report))
    stdout.print(
        f"[bold]accuracy {_percent(nested['accuracy'])} ± {_percent(nested['accuracy_se'])}, "
        f"log loss {nested['log_loss']:.4f} ± {nested['log_loss_se']:.4f}[/bold] "
        "(nested cross-validation, ± one standard error)",
        highlight=False,
    )
    stdout.print(
        f"[dim]on the images it was selected on, optimistic: {_percent(validation['accuracy'])}, "
        f"{validation['log_loss']:.4f}; macro F1 {_percent(validation['macro_f1'])}, "
        f"calibration error {validation['ece']:.4f}[/dim]",
        highlight=False,
    )
    stdout.print(_baseline_table(report))
    for line in _skipped_lines(report.skipped):
        stdout.print(line, highlight=False, markup=False)
    stdout.print(str(report.path), highlight=False, markup=False, soft_wrap=True)


def _member_table(report: "EnsembleReport") -> "Table":
    from rich.table import Table

    table = Table(title=f"Ensemble selected for {report.objective}")
    table.add_column("trial")
    table.add_column("candidate")
    for name in ("weight", "parameters", "in folds"):
        table.add_column(name, justify="right")
    for member in report.members:
        table.add_row(
            f"{member['trial']:04d}",
            member["candidate"],
            f"{member['weight']:.3f}",
            f"{member['params']:,}",
            f"{100 * member['stability']:.0f} %",
        )
    return table


def _baseline_table(report: "EnsembleReport") -> "Table":
    from rich.table import Table

    table = Table(title="On the images of the selection")
    table.add_column("combination")
    table.add_column("accuracy", justify="right")
    table.add_column("log loss", justify="right")
    rows = {"ensemble": report.validation, "best single": report.best_single}
    rows |= {name.replace("_", " "): scores for name, scores in report.baselines.items()}
    for name, scores in rows.items():
        table.add_row(name, _percent(scores["accuracy"]), f"{scores['log_loss']:.4f}")
    return table


def _skipped_lines(skipped: dict[str, str]) -> list[str]:
    """One line a reason: how many trials or candidates it left out, and the first of them."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"left out {len(names)} ({', '.join(names[:4] + ['...'] * (len(names) > 4))}): {reason}"
        for reason, names in by_reason.items()
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
