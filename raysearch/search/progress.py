"""What a person sees while the search runs: one live table, or plain lines where there is no
terminal. Everything goes to stderr; stdout is for results."""

import time
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from raysearch.data.shards import Shards
from raysearch.ensemble.live import LiveEnsemble, LiveScore
from raysearch.search.failures import Failures
from raysearch.train.trial import TrialFolder, trial_name

SHOWN = 12


class Progress(tune.Callback):
    """Follows the trials: a row each, the best so far, the ensemble of those that ended, and the
    status file of those that end."""

    def __init__(
        self,
        run: Path,
        shards: Shards,
        trials: int,
        console: Console,
        deadline: float | None,
        failures: Failures,
    ):
        self.run, self.total, self.console, self.deadline = run, trials, console, deadline
        self.failures = failures
        self.ensemble = LiveEnsemble(run, shards, self._show_ensemble)
        self.started = time.monotonic()
        self.rows: dict[int, dict[str, Any]] = {}
        self.trained = 0.0  # seconds of all epochs of all trials, in parts of a GPU if packed
        self.live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; a terminal cannot be

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live = Live(console=self.console, get_renderable=self._table, refresh_per_second=2)
            self.live.start()
        self.ensemble.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ensemble.close()
        if self.live:
            self.live.stop()

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self._row(trial)["state"] = "running"

    def _row(self, trial: Any) -> dict[str, Any]:
        train = trial.config["train"]
        about = {"model": train["model"]["name"], "epochs": train["epochs"]}
        row = {"epoch": 0, "loss": None, "accuracy": None} | about
        return self.rows.setdefault(trial.config["trial"], row)

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        row = self.rows[result["trial"]]
        if "status" in result or result["epoch"] <= row["epoch"]:  # told again after a loss
            return
        row["epoch"] = int(result["epoch"])
        self.trained += result["seconds"] * trial.config.get("gpus", 1.0)
        loss, accuracy = result["validation_log_loss"], result["validation_accuracy"]
        row |= {"loss": loss, "accuracy": accuracy, "speed": result["images_per_second"]}
        if not self.live:
            self._say(
                f"trial {result['trial']:>3}  epoch {row['epoch']:>3}/{row['epochs']}  "
                f"log loss {loss:.4f}  accuracy {100 * accuracy:5.2f} %  "
                f"{result['images_per_second']:,.0f} images/s"
            )

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        number = trial.config["trial"]
        state, error = self.failures.ends[number]
        self._row(trial)["state"] = state  # also of one whose process never started
        self.write_status(number, error)
        self.ensemble.trial_ended(self._folder(number))
        if not self.live:
            why = f": {error}" if error else ""
            self._say(f"trial {number:>3}  {state} after {self.rows[number]['epoch']} epochs{why}")

    on_trial_error = on_trial_complete

    def write_status(self, number: int, error: str = "") -> None:
        """A trial cannot say itself that it was stopped; whoever stopped it says so."""
        files = self._folder(number)
        written, state = files.read_status(), self.rows[number]["state"]
        if written["status"] != state and (error or files.path.is_dir()):
            files.write_status(state, written["epochs"], error)

    @property
    def running(self) -> list[int]:
        return [number for number, row in self.rows.items() if row["state"] == "running"]

    def close(self) -> None:
        """After the search: what still runs was interrupted, and worker processes that ran an
        epoch ahead of their stop have no say in it."""
        for number in self.running:
            self.rows[number]["state"] = "interrupted"
        for number in self.rows:
            _, error = self.failures.ends.get(number, ("", ""))
            self.write_status(number, error)

    def _folder(self, number: int) -> TrialFolder:
        return TrialFolder(self.run / trial_name(number))

    def _show_ensemble(self, score: LiveScore) -> None:
        if not self.live:
            self._say(str(score))

    def _say(self, line: str) -> None:
        clock = _clock(time.monotonic() - self.started)
        self.console.print(f"[{clock}] {line}", highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        done = sum(row["state"] not in ("running",) for row in self.rows.values())
        left = "" if self.deadline is None else f", {_clock(self.deadline - time.monotonic())} left"
        elapsed = _clock(time.monotonic() - self.started)
        table = Table(
            title=f"{done} of {self.total} trials, {elapsed}{left}",
            title_justify="left",
            caption=str(self.ensemble.latest or ""),
            caption_justify="left",
        )
        for name in ("trial", "state", "network", "epoch", "log loss", "accuracy", "images/s"):
            table.add_column(name, justify="left" if name in ("state", "network") else "right")
        running = self.running
        ended = [n for n, row in self.rows.items() if row["state"] != "running"]
        ended.sort(key=lambda n: self.rows[n]["loss"] or float("inf"))
        for number in (running + ended)[:SHOWN]:
            row = self.rows[number]
            loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
            accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %"
            speed = f"{row['speed']:,.0f}" if row["state"] == "running" and "speed" in row else ""
            epoch = f"{row['epoch']}/{row['epochs']}"
            table.add_row(str(number), row["state"], row["model"], epoch, loss, accuracy, speed)
        return table


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
