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
    board = leaderboard(summary["folder"])
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
    console.print(f"{100 * summary['utilization']:.0f} % of the search's time was spent training.")
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
    """Members, then the scores: the nested estimate first, the selection's own named optimistic.

    ``report`` is `EnsembleReport.to_json`.
    """
    console.print(_member_table(report))
    console.print(_score_table(report))
    if report.get("refit"):
        console.print(
            "The members were then trained again on train + validation, "
            f"{report['refit']['images']:,} images. The scores are of the selection before that.",
            soft_wrap=True,
        )
    for line in _skipped_lines(report["skipped"]):
        console.print(line, markup=False)


def print_distilled(report: dict[str, Any], teacher: dict[str, Any], console: Console) -> None:
    """A student beside its teacher, each by its nested estimate; ``report`` as `print_ensemble`."""
    table = Table(title="On validation, nested estimates", title_justify="left")
    for name in ("", "networks", "parameters", "accuracy", "log loss"):
        table.add_column(name, justify="right" if name else "left")
    sizes = {"teacher": (teacher["networks"], teacher["params"], teacher["nested"])}
    sizes |= {"student": (1, report["cost"]["params"], report["nested"])}
    for name, (networks, params, nested) in sizes.items():
        scores = ("", "")
        if nested:
            scores = (
                f"{_percent(nested['accuracy'])} ± {100 * nested['accuracy_se']:.2f}",
                f"{nested['log_loss']:.4f} ± {nested['log_loss_se']:.4f}",
            )
        table.add_row(name, str(networks), f"{params:,}", *scores)
    console.print(table)


def _member_table(report: dict[str, Any]) -> Table:
    title = f"Ensemble selected for {report['objective'].replace('_', ' ')}"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("candidate")
    for name in ("weight", "in folds", "parameters", "MB", "MFLOPs", "ms"):
        table.add_column(name, justify="right")
    for member in report["members"]:
        table.add_row(
            str(member["trial"]),
            member["candidate"],
            f"{member['weight']:.3f}",
            f"{100 * member['stability']:.0f} %",
            *_costs(member),
        )
    table.add_section()
    table.add_row("", "all, as exported", "", "", *_costs(report["cost"]))
    return table


def _costs(costs: dict[str, Any]) -> list[str]:
    """Parameters, megabytes, millions of operations and milliseconds of one image."""
    return [
        f"{costs['params']:,}",
        f"{costs['bytes'] / 1e6:.1f}",
        f"{costs['flops'] / 1e6:,.0f}",
        f"{costs['latency_ms']:.2f}",
    ]


def _score_table(report: dict[str, Any]) -> Table:
    table = Table(title="On validation, ± one standard error", title_justify="left")
    for name in ("", "accuracy", "log loss"):
        table.add_column(name, justify="right" if name else "left")
    nested = report["nested"]
    table.add_row(
        "ensemble, nested cross-validation",
        f"{_percent(nested['accuracy'])} ± {100 * nested['accuracy_se']:.2f}",
        f"{nested['log_loss']:.4f} ± {nested['log_loss_se']:.4f}",
        style="bold",
    )
    rows = {"ensemble, as selected (optimistic)": report["validation"]}
    rows |= {"best single candidate": report["best_single"]}
    rows |= {name.replace("_", " "): scores for name, scores in report["baselines"].items()}
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


def print_plan(plan: dict[str, Any]) -> None:
    """What `tune` would do, as a table."""
    console = Console(highlight=False)
    cost = plan["estimate"]
    budget = plan["time_budget_seconds"]
    rows = {
        "space": plan["space"],
        "cluster": plan["cluster"],
        "data": f"{plan['data']} ({plan['train_images']:,} training images)",
        "trials": f"{plan['trials']}, {'up to ' if plan['packed_gpus'] else ''}"
        f"{plan['concurrent']} at a time ({plan['executor']})",
        "per trial": f"{plan['workers']} worker(s), {plan['threads']} thread(s), "
        + (
            f"as much of {plan['packed_gpus']} GPU(s) as its memory takes"
            if plan["packed_gpus"]
            else f"{plan['resources']['gpu']:g} GPU each"
        ),
        "epochs": f"{plan['epochs']} a trial, at most {plan['epochs_in_all']} in all",
        "images": f"at most {cost['images']:,}",
        "time": f"at most about {duration(cost['seconds'])} of training"
        + (f", cut off by the budget of {duration(budget)}" if budget else ""),
        "ending": f"{duration(plan['ending_seconds'])} of the budget are kept for selection, "
        "export and report"
        if budget
        else "",
        "hangs": f"a trial is killed when no epoch ends for {duration(plan['trial_timeout'])}"
        if plan["trial_timeout"]
        else "",
        "disk": f"weights of {plan['keep']} trials"
        + (f", in all at most {plan['max_disk'] / 1e6:,.0f} MB" if plan["max_disk"] else "")
        + f"; at most about {cost['disk_bytes'] / 1e6:,.0f} MB "
        f"({plan['disk_free_bytes'] / 1e9:,.0f} GB free)",
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        if value:
            table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
