"""The command line: one thin command per stage; heavy imports happen inside the commands.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the work failed,
2 the input cannot be used, 130 interrupted.
"""

import errno
import sys
import warnings

import typer

from raysearch.errors import Interrupted, RaysearchError
from raysearch.files import is_disk_full

app = typer.Typer(
    name="raysearch",
    help="From a labelled pile of small images to a verified ensemble, in one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _register() -> None:
    from raysearch.cli import (
        artifact,
        cluster,
        data,
        distill,
        doctor,
        ensemble,
        predict,
        report,
        run,
        space,
        train,
    )

    app.add_typer(data.app, name="data")
    app.add_typer(space.app, name="space")
    run.register(app)
    train.register(app)
    cluster.register(app)
    ensemble.register(app)
    distill.register(app)
    artifact.register(app)
    predict.register(app)
    report.register(app)
    doctor.register(app)


def main() -> None:
    """Entry point of the ``raysearch`` command."""
    _register()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about images that we name ourselves
    try:
        app()
    except (KeyboardInterrupt, Interrupted) as end:
        print(str(end) or "interrupted", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
    except RaysearchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        words, code = _refused(error)
        print(f"error: {words}", file=sys.stderr)
        sys.exit(code)
    except ModuleNotFoundError as error:
        print(f"error: {_missing_package(error)}", file=sys.stderr)
        sys.exit(1)


def _refused(error: OSError) -> tuple[str, int]:
    """What to say, and the exit code, where the system refuses to write; raises ``error`` again
    where it is something else."""
    place = f": {error.filename}" if error.filename else ""
    if is_disk_full(error):
        return (
            f"The disk is full{place}. What is written is whole; free some space, and the same "
            "command, or `raysearch resume` for a search, goes on.",
            1,
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.strerror}{place}. Name a folder that you may write to, or allow it.", 2
    raise error


def _missing_package(error: ModuleNotFoundError) -> str:
    """What to install; raises ``error`` again where a module of our own is missing."""
    name = (error.name or "").split(".")[0]
    if name in ("", "raysearch"):
        raise error
    extra = {"onnxruntime": "predict", "cv2": "faces", "aiohttp": "cluster"}.get(name, "train")
    return (
        f"This command needs the package {name!r}, which is not installed. "
        f"Install it with `pip install '.[{extra}]'` in the checkout of raysearch."
    )
