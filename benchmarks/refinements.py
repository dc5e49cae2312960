"""Do soups of a trial's checkpoints, and weights by class, improve a selected ensemble?

    python benchmarks/refinements.py --data DIR [--trials 6] [--epochs 8] [--images 8000]
    python benchmarks/refinements.py                       (synthetic libraries, weights alone)

With ``--data``, small networks are trained on some of its training images; what every epoch leaves
is kept, and a soup is made of each trial's checkpoints: the mean of their weights, with
BatchNorm's statistics taken anew from training images. Uniform ones of the last epochs (of the
last 1: with new statistics and nothing more), and the greedy one: a checkpoint joins where that
lowers the soup's validation log loss, the best one first (Wortsman et al., "Model soups", 2022,
recipe 1). That is chosen on all validation images, the folds' held-out ones too, which flatters it.
Training's own new statistics (`raysearch.train.statistics`) are switched off.

Weights by class: each member's probability of class k has a weight of its own for k, fitted by
gradient from the weights that were selected, toward which it is pulled with ``strength``.

Every row is the nested estimate, and its difference by image from that of plain selection, with
standard error. Folds are equal for all rows; ``draws`` of them are averaged.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from conditions import conditions, write_table
from selection import make_library
from torch import Tensor, nn

from raysearch import metrics
from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset, TensorSplit, load_dataset
from raysearch.data.shards import open_shards
from raysearch.ensemble.calibration import calibrate, fit_temperature, sharpen
from raysearch.ensemble.estimate import Ensemble, fit_ensemble, grouped_folds
from raysearch.ensemble.library import group_equal
from raysearch.train import loop
from raysearch.train.loop import EpochEnd, fit

STRENGTHS = (0.0, 0.01, 0.1)
LAST = (1, 2, 4)

Predict = Callable[[np.ndarray, Ensemble, np.ndarray, np.ndarray], np.ndarray]


def as_selected(fitted_NVK, ensemble: Ensemble, labels_V, held_NVK) -> np.ndarray:
    return ensemble.predict(held_NVK)


def by_class(strength: float) -> Predict:
    """Weights ``[M, K]`` in place of ``[M]``, of least log loss plus ``strength`` times the
    Kullback-Leibler divergence of the selected weights from each class's."""

    def predict(fitted_NVK, ensemble: Ensemble, labels_V, held_NVK) -> np.ndarray:
        members = np.flatnonzero(ensemble.selection.weights_N)
        temperature_M = ensemble.temperature_N[members]
        calibrated = [calibrate(p[members], temperature_M) for p in (fitted_NVK, held_NVK)]
        fitted_MVK, held_MVK = (torch.from_numpy(p).double() for p in calibrated)
        weights_M1 = torch.from_numpy(ensemble.selection.weights_N[members])[:, None]
        labels = torch.from_numpy(labels_V)
        scores_MK = weights_M1.log().repeat(1, fitted_MVK.shape[2]).requires_grad_()
        optimizer = torch.optim.LBFGS([scores_MK], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            weights_MK = scores_MK.softmax(0)
            probs_VK = mixed(fitted_MVK, weights_MK)
            pull = (weights_M1 * (weights_M1.log() - weights_MK.log())).sum(0).mean()
            value = nn.functional.nll_loss(probs_VK.log(), labels) + strength * pull
            value.backward()
            return value

        optimizer.step(loss)
        weights_MK = scores_MK.detach().softmax(0)
        found = [mixed(p, weights_MK).numpy().astype(np.float32) for p in (fitted_MVK, held_MVK)]
        return sharpen(found[1], fit_temperature(found[0], labels_V))

    return predict


def mixed(probs_MVK: Tensor, weights_MK: Tensor) -> Tensor:
    sums_VK = (weights_MK[:, None] * probs_MVK).sum(0).clamp_min(1e-7)
    return sums_VK / sums_VK.sum(1, keepdim=True)


def held_out(probs_NVK, labels_V, groups_V, predict: Predict, draws: int) -> np.ndarray:
    """``[2, V]``: right or not and log loss of each image when held out, means over ``draws``."""
    total = np.zeros((2, len(labels_V)))
    for seed in range(draws):
        fold_V = grouped_folds(labels_V, groups_V, 5, np.random.default_rng(seed))
        for fold in range(5):
            held = fold_V == fold
            fitted_NVK = np.ascontiguousarray(probs_NVK[:, ~held])
            ensemble = fit_ensemble(fitted_NVK, labels_V[~held])
            held_NVK = np.ascontiguousarray(probs_NVK[:, held])
            probs_VK = predict(fitted_NVK, ensemble, labels_V[~held], held_NVK)
            total[0, held] += metrics.predictions(probs_VK) == labels_V[held]
            total[1, held] += metrics.log_losses(probs_VK, labels_V[held])
    return total / draws


class Kept:
    """What each epoch of a trial leaves: averaged and unaveraged weights with their scores."""

    def __init__(self, labels_V: np.ndarray):
        self.labels_V = labels_V
        self.checkpoints: list[tuple[float, str, dict[str, Tensor]]] = []
        self.best: dict[str, np.ndarray] = {}
        self.lowest = np.inf

    def __call__(self, end: EpochEnd) -> None:
        training = self.training = end.training
        for name, network in (("ema", training.average.network), ("raw", training.network)):
            probs_VK = end.probs_VK if name == "ema" else training.validation_probs(network, False)
            state = {key: value.clone() for key, value in network.state_dict().items()}
            loss = metrics.log_loss(probs_VK, self.labels_V)
            self.checkpoints.append((loss, name, state))
        if end.metrics["validation_log_loss"] < self.lowest:
            self.lowest = end.metrics["validation_log_loss"]
            self.best = self.views("ema", training.average.network)
            if end.metrics["epoch"] == training.config.epochs:
                self.best |= self.views("raw", training.network)

    def views(self, name: str, network: nn.Module) -> dict[str, np.ndarray]:
        predict = self.training.validation_probs
        return {name: predict(network, False), f"{name}_mirror": predict(network, True)}

    def soup(self, states: list[dict[str, Tensor]]) -> nn.Module:
        network = copy.deepcopy(self.training.network)
        mean = {key: sum(s[key] for s in states) / len(states) for key in states[0]}
        network.load_state_dict({k: v.to(states[0][k].dtype) for k, v in mean.items()})
        renew_statistics(network, self.training)
        return network

    def uniform(self, name: str, last: int) -> dict[str, np.ndarray]:
        states = [state for _, kind, state in self.checkpoints if kind == name][-last:]
        return self.views(f"last_{last}_{name}", self.soup(states))

    def greedy(self) -> tuple[dict[str, np.ndarray], int]:
        """The soup's probabilities, and of how many checkpoints it is."""
        lowest, states = np.inf, []
        for _, _, state in sorted(self.checkpoints, key=lambda one: one[0]):
            network = self.soup([*states, state])
            loss = metrics.log_loss(self.training.validation_probs(network, False), self.labels_V)
            if loss < lowest:
                lowest, states, best = loss, [*states, state], network
        return self.views("greedy", best), len(states)


@torch.no_grad()
def renew_statistics(network: nn.Module, training) -> None:
    """BatchNorm's running statistics, as plain means over 16 batches of training images."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    images = training.dataset.train.images_NCHW
    for start in range(0, min(len(images), 16 * 128), 128):
        x = training.preprocess(images[start : start + 128])
        network(x.contiguous(memory_format=torch.channels_last))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def configurations(trials: int, epochs: int) -> list[TrainConfig]:
    rng = np.random.default_rng(0)
    found = []
    for seed in range(trials):
        model = {
            "name": "vgg",
            "width": int(rng.choice([8, 12, 16])),
            "depth": int(rng.choice([5, 6])),
            "dropout": float(rng.uniform(0, 0.2)),
        }
        values = {
            "model": model,
            "image_size": 24,
            "epochs": epochs,
            "batch_size": 64,
            "lr": float(10 ** rng.uniform(-1.3, -0.7)),
            "weight_decay": float(10 ** rng.uniform(-3, -2)),
            "label_smoothing": float(rng.uniform(0, 0.1)),
            "augment": {"mirror": 0.5, "shift": 0.08, "rotate": 8},
            "seed": seed,
        }
        found.append(TrainConfig.model_validate(values))
    return found


def part_of(dataset: Dataset, images: int) -> Dataset:
    rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:images]
    train = dataset.train
    part = TensorSplit(train.images_NCHW[rows], train.labels_N[rows], train.digest)
    return Dataset(**{**vars(dataset), "train": part})


def train_library(data: Path, trials: int, epochs: int, images: int) -> dict[str, list]:
    """Probabilities of the trials' usual candidates, and those of each kind of soup."""
    loop.renew_statistics = lambda training, network: None
    dataset = part_of(load_dataset(data, images_on="device"), images)
    libraries: dict[str, list] = {"usual": [], "greedy soups": []}
    for config in configurations(trials, epochs):
        kept = Kept(dataset.validation.labels_N.numpy())
        fit(config, dataset, kept)
        libraries["usual"] += kept.best.values()
        for name in ("ema", "raw"):
            for last in LAST:
                soups = libraries.setdefault(f"means of the last {last} epochs, {name}", [])
                soups += kept.uniform(name, last).values()
        soups, size = kept.greedy()
        libraries["greedy soups"] += soups.values()
        labels_V = dataset.validation.labels_N.numpy()
        lowest = min(loss for loss, _, _ in kept.checkpoints)
        loss = metrics.log_loss(soups["greedy"], labels_V)
        line = f"best checkpoint {lowest:.4f}, greedy soup of {size}: {loss:.4f}"
        print(f"{config.model.options}: {line}", flush=True)
    return libraries


def compare(about: str, ways: dict[str, tuple], labels_V, groups_V, draws: int) -> list[dict]:
    """``ways``: name to (probs_NVK, predict). The first is what the others are compared with."""
    rows, base = [], None
    for name, (probs_NVK, predict) in ways.items():
        found = held_out(probs_NVK, labels_V, groups_V, predict, draws)
        base = found if base is None else base
        difference = found - base
        error = difference.std(axis=1, ddof=1) / np.sqrt(len(labels_V))
        rows.append(
            {
                "library": about,
                "candidates": len(probs_NVK),
                "images": len(labels_V),
                "draws": draws,
                "way": name,
                "nested_accuracy": round(float(found[0].mean()), 5),
                "accuracy_gain": round(float(difference[0].mean()), 5),
                "accuracy_gain_se": round(float(error[0]), 5),
                "nested_log_loss": round(float(found[1].mean()), 5),
                "log_loss_gain": round(float(-difference[1].mean()), 5),
                "log_loss_gain_se": round(float(error[1]), 5),
            }
        )
        print(rows[-1], flush=True)
    return rows


def weight_ways(probs_NVK) -> dict[str, tuple]:
    plain = {"as selected": (probs_NVK, as_selected)}
    return plain | {f"by class, strength {s:g}": (probs_NVK, by_class(s)) for s in STRENGTHS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of imported data")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=8000, help="of the training split")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    about = conditions("numpy", "torch")
    rows = []
    if options.data:
        libraries = train_library(options.data, options.trials, options.epochs, options.images)
        validation = open_shards(options.data, verify=False).split("validation")
        labels_V, groups_V = (
            validation.labels_N.astype(np.int64),
            group_equal(validation.digests_N16),
        )
        usual = libraries.pop("usual")
        ways = weight_ways(np.stack(usual))
        ways |= {f"and {name}": (np.stack(usual + p), as_selected) for name, p in libraries.items()}
        name = f"{options.data.resolve().name.split('.')[0]}, {options.trials} trials"
        rows += compare(name, ways, labels_V, groups_V, options.draws)
    else:
        for candidates in (20, 200):
            for images in (700, 3589):
                probs_NVK, labels_V = make_library(candidates, images, seed=candidates)
                name, ways = f"synthetic {candidates}", weight_ways(probs_NVK)
                rows += compare(name, ways, labels_V, np.arange(images), options.draws)
    if options.out:
        write_table(options.out, [row | about for row in rows])


if __name__ == "__main__":
    main()
