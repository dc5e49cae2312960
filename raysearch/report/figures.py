"""Figures as inline SVG that take the page's text colour and font, in light and in dark."""

import io
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from raysearch.report.predictions import Reliability

INK = "#010203"
"""Stands for the page's text colour; no figure uses it for anything else."""
BLUE, ORANGE = "#3d84d6", "#e0802b"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raysearch",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}

Curve = Sequence[tuple[float, float]]


def learning_curves(curves: Sequence[Curve], best: Curve) -> str:
    """Points (epoch, validation log loss) of every trial, and those of the best one on top."""

    def draw(axes: Axes) -> None:
        axes.add_collection(LineCollection(curves, colors=INK, alpha=0.25, linewidths=0.8))
        axes.autoscale_view()
        axes.plot(*zip(*best, strict=True), color=BLUE, linewidth=2, marker="o", markersize=3)
        losses = [loss for curve in curves for _, loss in curve]
        axes.set_ylim(min(losses) * 0.98, _upper(losses))
        axes.set(xlabel="epoch", ylabel="validation log loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(draw, "Validation log loss of every trial by epoch")


def history(trials: Sequence[int], losses: Sequence[float]) -> str:
    """Best validation log loss of each trial, and the lowest up to each."""

    def draw(axes: Axes) -> None:
        axes.scatter(trials, losses, s=16, color=INK, alpha=0.45, linewidths=0, label="a trial")
        lowest = np.minimum.accumulate(losses)
        axes.step(trials, lowest, where="post", color=BLUE, linewidth=2, label="best so far")
        axes.set_ylim(min(losses) * 0.98, _upper(losses))
        axes.set(xlabel="trial", ylabel="validation log loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return _svg(draw, "Best validation log loss of each trial")


def confusion(counts_KK: np.ndarray, classes: Sequence[str]) -> str:
    """Each row's shares as colour and, for up to 20 classes, in percent."""
    shares = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    colours = np.empty((*shares.shape, 4))
    colours[..., :3] = matplotlib.colors.to_rgb(BLUE)
    colours[..., 3] = shares

    def draw(axes: Axes) -> None:
        side = np.arange(len(classes) + 1) - 0.5
        axes.pcolormesh(side, side, colours, linewidth=0)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted", ylabel="label")
        if len(classes) <= 20:
            for (row, column), share in np.ndenumerate(shares):
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=9)

    return _svg(draw, "Confusion matrix in percent of each label", size=(5.4, 4.6))


def reliability_diagram(bins: Reliability) -> str:
    """Accuracy against confidence; a dot's area is its share of the images."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=0.8, linestyle="--")
        area = 400 * bins.images / bins.images.sum() + 8
        axes.plot(bins.confidence, bins.accuracy, color=BLUE, linewidth=1.2)
        axes.scatter(bins.confidence, bins.accuracy, s=area, color=BLUE, alpha=0.7, linewidths=0)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_aspect("equal")

    return _svg(draw, "Reliability diagram", size=(5.4, 4.6))


def front(
    points: Sequence[tuple[float, float]], chosen: tuple[float, float], unit: str, si: str = ""
) -> str:
    """Points (cost, log loss) of ensembles, the line of the best by cost, and the exported one.

    ``unit`` names the cost, ``si`` is the symbol that its prefixes go with.
    """
    in_order = sorted(points)
    lowest = np.minimum.accumulate([loss for _, loss in in_order])

    def draw(axes: Axes) -> None:
        costs = [cost for cost, _ in in_order]
        axes.step(costs, lowest, where="post", color=BLUE, linewidth=1.2)
        axes.scatter(*zip(*points, strict=True), s=22, color=BLUE, linewidths=0, label="budget")
        axes.scatter(*chosen, s=60, color=ORANGE, linewidths=0, label="exported", zorder=3)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter(unit=si, sep=" " if si else ""))
        axes.set(xlabel=unit, ylabel="validation log loss")
        axes.legend()

    return _svg(draw, f"Log loss by {unit}")


def trajectory(losses: Sequence[float]) -> str:
    """Score after each greedy step."""

    def draw(axes: Axes) -> None:
        axes.plot(range(1, len(losses) + 1), losses, color=BLUE, linewidth=1.6)
        axes.set(xlabel="selection step", ylabel="score")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(draw, "Score of the growing ensemble")


def rank_correlations(names: Sequence[str], values: Sequence[float]) -> str:
    """Bars in [-1, 1]; left of 0: larger values came with lower log loss."""

    def draw(axes: Axes) -> None:
        colours = [BLUE if value < 0 else ORANGE for value in values]
        axes.barh(range(len(names)), values, color=colours, height=0.6)
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlim=(-1, 1), xlabel="Spearman's rho with validation log loss")

    height = 1.0 + 0.28 * len(names)
    return _svg(draw, "Rank correlation of settings with log loss", size=(6.4, height))


def _upper(losses: Sequence[float]) -> float:
    """Tukey's upper fence, or the largest loss: a diverged trial must not flatten the others."""
    low, quarter, three_quarters = np.quantile(losses, [0, 0.25, 0.75])
    fence = three_quarters + 1.5 * (three_quarters - quarter)
    return max(min(fence, max(losses)) * 1.02, low * 1.02 + 1e-9)


def _svg(draw: Callable[[Axes], None], title: str, size: tuple[float, float] = (6.4, 3.8)) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
