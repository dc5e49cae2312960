"""``raysearch distill``: one small network that learns from an ensemble."""

import json
from pathlib import Path
from typing import Annotated

import typer

from raysearch.cli.common import JsonOption

Source = Annotated[
    str,
    typer.Argument(metavar="RUN|ARTIFACT", help="Folder or URI of a run, or an ensemble's folder."),
]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML of the student's training; that of the heaviest member without."),
]


def register(app: typer.Typer) -> None:
    app.command()(distill)


def distill(
    source: Source,
    data: Annotated[
        Path | None, typer.Option(help="Folder of imported data; a run's own without.")
    ] = None,
    config: Config = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new run; SOURCE-distilled without.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the configuration's.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.1, max=100, help="Of both networks' probabilities.")
    ] = 2.0,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the loss that is against the ensemble.")
    ] = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Train one network on an ensemble's probabilities and export it."""
    from dataclasses import replace

    from rich.console import Console

    from raysearch.configfile import load_train_config
    from raysearch.ensemble import distill as distilling
    from raysearch.space import resolve_config
    from raysearch.storage.locations import is_uri
    from raysearch.storage.runs import open_place
    from raysearch.train.device import default_device

    train = load_train_config(resolve_config(config)) if config else None
    path = open_place(source).path if is_uri(source) else Path(source).resolve()
    lesson = distilling.prepare(path, data, train, epochs)
    lesson = replace(lesson, temperature=temperature, share=share)
    beside = Path("results") if is_uri(source) else path.parent
    folder = out or beside / f"{path.name}-distilled"
    console = Console(stderr=True)
    report, teacher = distilling.distill(lesson, folder, default_device(), console)
    if as_json:
        print(json.dumps(report.to_json() | {"teacher": teacher, "path": str(report.path)}))
        return
    from raysearch.report.terminal import print_distilled

    print_distilled(report.to_json(), teacher, Console(highlight=False))
    print(report.path)
