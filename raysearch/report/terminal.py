"""What a finished command prints on stdout for a person."""

from typing import Any

from rich.console import Console
from rich.table import Table

from raysearch.report.tables import leaderboard

SHOWN = 10


def print_summary(summary: dict[str, Any]) -> None:
    """Leaderboard, ensemble beside its baselines, and the path of each thing that was made."""
    console = Console(highlight=False)
    run = summary["run"]
    board = leaderboard(run)
    table = Table(title=f"Leaderboard: {len(board)} trials, best first", title_justify="left")
    for name in ("trial", "network", "status", "epochs", "log loss", "accuracy", "parameters"):
        table.add_column(name, justify="left" if name in ("network", "status") else "right")
    for row in board.head(SHOWN).itertuples():
        table.add_row(
            str(row.trial),
            row.model,
            row.status,
            str(row.epochs),
            f"{row.validation_log_loss:.4f}",
            f"{100 * row.validation_accuracy:.2f} %",
            f"{row.parameters:,}",
        )
    console.print(table)
    print_ensemble(summary["ensemble"], console)
    if summary["synthetic"]:
        console.print(
            "The data is synthetic: these scores say that everything works, and nothing else."
        )
    for label, name in (
        ("run", ""),
        ("leaderboard", "trials.csv"),
        ("artifact", "ensemble"),
        ("report", "report.html"),
    ):
        console.print(f"{label:<12} {run}/{name}".rstrip("/"), soft_wrap=True)


def print_ensemble(report: dict[str, Any], console: Console) -> None:
    """The nested estimate is the headline; the selection's own score is named optimistic."""
    nested, own = report["nested"], report["validation"]
    table = Table(title="Ensemble on validation", title_justify="left")
    for name in ("", "accuracy", "log loss"):
        table.add_column(name, justify="left" if not name else "right")

    def add(name: str, scores: dict[str, float], style: str | None = None) -> None:
        accuracy = f"{100 * scores['accuracy']:.2f} %"
        if "accuracy_se" in scores:
            accuracy = f"{accuracy} ± {100 * scores['accuracy_se']:.2f}"
        table.add_row(name, accuracy, f"{scores['log_loss']:.4f}", style=style)

    add("ensemble, nested estimate", nested, "bold")
    add("ensemble, as selected (optimistic)", own)
    add("best single candidate", report["best_single"])
    for name, scores in report["baselines"].items():
        add(name.replace("_", " "), scores, "dim")
    console.print(table)
    members = ", ".join(
        f"{m['weight']:.2f} x trial {m['trial']} {m['candidate']}" for m in report["members"]
    )
    console.print(f"members: {members}")


def print_plan(plan: dict[str, Any]) -> None:
    """What `tune` would do, as a table."""
    console = Console(highlight=False)
    cost = plan["estimate"]
    budget = plan["time_budget_seconds"]
    rows = {
        "space": plan["space"],
        "data": f"{plan['data']} ({plan['train_images']:,} training images)",
        "trials": f"{plan['trials']}, {plan['concurrent']} at a time ({plan['executor']})",
        "per trial": f"{plan['workers']} worker(s), {plan['threads']} thread(s), "
        f"{plan['resources']['gpu']:g} GPU each",
        "epochs": f"{plan['epochs']} a trial, at most {plan['epochs_in_all']} in all",
        "images": f"at most {cost['images']:,}",
        "time": f"at most about {duration(cost['seconds'])} of training"
        + (f", cut off by the budget of {duration(budget)}" if budget else ""),
        "disk": f"at most about {cost['disk_bytes'] / 1e6:,.0f} MB "
        f"({plan['disk_free_bytes'] / 1e9:,.0f} GB free)",
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
