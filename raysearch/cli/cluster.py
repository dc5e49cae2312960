"""``raysearch cluster``: check a cluster's file, bring the cluster up, take it down. ``raysearch
attach``, and what ``raysearch tune --cluster`` does instead of searching here."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from raysearch.cli.run import gpus
from raysearch.errors import ConfigError

app = typer.Typer(help="Clusters for `tune --cluster`: check, up, down.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file for `ray up`: cluster.yaml.")]
OF_THE_LAPTOP = ("space", "data", "name", "storage", "cluster", "detach", "down", "dry_run")
"""Parameters of `tune` that do not go to the head as they are."""


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="cluster")
    root.command()(attach)


@app.command()
def check(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Find what is wrong with a cluster's file, offline, and make what it sends to the nodes.

    One line for each fault, with the key's path; the exit code is then 2.
    """
    from raysearch.search.launch.checks import check as find_faults
    from raysearch.search.launch.clusterfile import load_cluster_file
    from raysearch.search.launch.handout import hand_out
    from raysearch.search.launch.kuberay import usage

    loaded = load_cluster_file(file)
    faults = find_faults(loaded)
    made = [] if faults or loaded.is_kuberay else hand_out(loaded)
    if as_json:
        found = [fault.to_json(loaded) for fault in faults]
        print(json.dumps({"file": str(file), "ok": not faults, "faults": found}))
    else:
        for fault in faults:
            print(fault.text(loaded))
        if loaded.is_kuberay:
            print(f"{file}: {'' if faults else 'ok, '}{usage(loaded)}")
        elif not faults:
            print(f"{file}: ok, {_summary(loaded)}")
    for path in made:
        print(f"made {path}, which the file sends to the nodes", file=sys.stderr)
    if faults:
        raise typer.Exit(2)


@app.command()
def up(file: File) -> None:
    """Bring a cluster up, or leave it as it is where it runs."""
    from raysearch.search.launch.bringup import bring_up
    from raysearch.search.launch.launch import load_launchable, say
    from raysearch.search.launch.tunnel import Tunnel

    loaded = load_launchable(file)
    with Tunnel(loaded) as tunnel:
        bring_up(loaded, tunnel, say)


@app.command()
def down(file: File) -> None:
    """Take a cluster down, its workers too. Runs stay where they are stored."""
    from raysearch.search.launch.bringup import take_down
    from raysearch.search.launch.launch import load_launchable, say

    take_down(load_launchable(file, checked=False), say)


def attach(
    file: File,
    job: Annotated[str | None, typer.Argument(help="The search; the newest, if not told.")] = None,
    down: Annotated[bool, typer.Option("--down", help="Then take the cluster down.")] = False,
) -> None:
    """Follow a search on a cluster, fetch its run when it ends, return its exit code."""
    from raysearch.search.launch import launch

    raise typer.Exit(launch.attach(file, job, down))


def tune_there(context: typer.Context) -> int:
    """`tune` with ``--cluster``: the exit code. Options that say nothing about this machine go to
    the head as they were given."""
    from raysearch.search.launch.checks import Demand
    from raysearch.search.launch.launch import Request, tune_on_cluster

    given = context.params
    if given["cluster"] is None:
        raise ConfigError("--detach and --down are for a search on a cluster: --cluster FILE.")

    def is_told(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    storage = given["storage"] if is_told("storage") else None
    wanted = gpus(given["gpus_per_trial"])
    wanted_gpus = wanted if isinstance(wanted, float) else None
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if is_told(name) and name not in OF_THE_LAPTOP:
            words += [parameter.opts[0]]
            words += [] if given[name] is True else [str(given[name])]
    return tune_on_cluster(
        Request(
            cluster=Path(given["cluster"]),
            space=given["space"],
            data=given["data"],
            name=given["name"],
            options=tuple(words),
            demand=Demand(wanted_gpus, given["workers_per_trial"], storage),
            detach=given["detach"],
            down=given["down"],
            dry_run=given["dry_run"],
            as_json=given["as_json"],
        )
    )


def _summary(loaded) -> str:
    return (
        f"provider {loaded.provider}, at most {loaded.max_workers} workers, "
        f"runs in {loaded.storage or 'no place that it names'}"
    )
