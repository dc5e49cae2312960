"""Trials that sleep, report epochs and leave small files: for measuring the search around them."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPACE = """
description: stubs
search: {{trials: {trials}, epochs: {epochs}, sampler: {sampler}, scheduler: none}}
train:
  model: {{name: mlp, hidden: [16]}}
  lr: {{float: [0.001, 0.1], log: true}}
"""


def make_stub(
    files: dict[str, bytes], run: str, seconds: float
) -> Callable[[dict[str, Any]], None]:
    """What a trial of ``seconds`` does, without training. A closure, so that it travels to
    processes that have neither this file nor torch."""

    def stub(config: dict[str, Any]) -> None:
        import os
        import socket
        import time
        from pathlib import Path

        from ray import tune

        number, epochs = config["trial"], config["train"]["epochs"]
        begin, pause = time.monotonic(), seconds / epochs
        folder = Path(run) / "trials" / f"{number:04d}"
        (folder / "best").mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data.replace(b'"trial": -1', b'"trial": %d' % number))
        for epoch in range(1, epochs + 1):
            time.sleep(max(0.0, begin + epoch * pause - time.monotonic()))
            row = {
                "trial": number,
                "epoch": epoch,
                "epochs": epochs,
                "validation_log_loss": 2 + config["train"]["lr"] - epoch / 100,
                "validation_accuracy": 0.2,
                "images_per_second": 1000.0,
                "seconds": pause,
                "process": f"{socket.gethostname()} {os.getpid()}",
            }
            tune.report(row)

    return stub


def stub_files(shards: Path, space: Any, epochs: int) -> dict[str, bytes]:
    """Of a finished trial -1, which a stub calls by its own number: a record, a status, weights of
    1 kB, and random probabilities of two candidates, so that an ensemble is selected from them."""
    import numpy as np

    from raysearch.data.dataset import load_dataset
    from raysearch.probabilities import Probabilities, write_probabilities
    from raysearch.train.trial import Execution, make_record

    dataset = load_dataset(shards, images_on="host")
    probs_VK = np.random.default_rng(0).dirichlet(
        np.ones(len(dataset.classes)), len(dataset.validation)
    )
    candidates = {name: probs_VK.astype(np.float16) for name in ("ema", "ema_mirror")}
    probabilities = Probabilities(
        candidates=candidates,
        split="validation",
        digest=dataset.validation.digest,
        classes=dataset.classes,
        epoch=epochs,
        precision=dict.fromkeys(candidates, "fp32"),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_probabilities(Path(folder) / "validation.arrow", probabilities)
        arrow = (Path(folder) / "validation.arrow").read_bytes()
    config = space.build({"lr": 0.01}, epochs=epochs, seed=0)
    record = make_record(-1, config, dataset, 1000, Execution())
    status = {"status": "completed", "epochs": epochs, "error": ""}
    return {
        "config.json": json.dumps(record.to_json()).encode(),
        "best/model.safetensors": bytes(1000),
        "validation.arrow": arrow,
        "status.json": json.dumps(status).encode(),
    }


class Clock:
    """Seconds spent in methods, by what they are for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, what: str, owner: Any, *methods: str) -> None:
        for name in methods:
            setattr(owner, name, self._timed(what, getattr(owner, name)))

    def _timed(self, what: str, method: Callable) -> Callable:
        self.seconds.setdefault(what, 0.0)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[what] += time.perf_counter() - begin

        return timed
