"""Figures of one seed's results: discovery, training, regions, consensus."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mc3.paper.plots.style import DASHED, DOTTED, GREY, NO, PAGE, YES, figure, legend, line_styles, panels, styled, wrap

NO_LOSS = "no consensus loss"


@styled
def precision_recall(curves: pd.DataFrame, prevalence: dict[str, float]) -> Figure:
    """Figure 5, a panel a pair, its `prevalence` (= Random) a line. `curves`: pair, method, recall, precision."""
    methods = curves["method"].unique()
    page = figure(PAGE, 2.4 + 0.13 * np.ceil((len(methods) + 1) / 5))
    lowest = min(curves.loc[curves["recall"] > 0.03, "precision"].min(), *prevalence.values())
    for ax, pair, part in panels(page, curves, "pair", "precision", sharey=True):
        _lines(ax, part, line_styles(methods), "recall", "precision")
        ax.axhline(prevalence[pair], color=GREY, linewidth=0.8, linestyle=DOTTED, label="Random")
        ax.set(title=f"{pair} (prevalence {prevalence[pair]:.3f})", xlim=(0, 1), xlabel="recall")
        ax.set_ylim(max(0, np.floor(lowest * 20 - 0.5) / 20), 1.005)
    legend(page, "lower center", [*methods, "Random"], ncols=5, handlelength=3)
    return page


@styled
def training(curves: pd.DataFrame) -> Figure:
    """Validation results by epoch. `curves`: method, metric, step, value; one panel a metric."""
    page = figure(PAGE, 2.6)
    methods = curves["method"].unique()
    for ax, metric, part in panels(page, curves, "metric", "validation clips"):
        _lines(ax, part, line_styles(methods), "step", "value", marker="o", markersize=2.2)
        ax.set(title=metric, xlabel="training step, the align stage included")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend(page, "lower center", methods, ncols=5, handlelength=3)
    return page


@styled
def regions(table: pd.DataFrame, zero: pd.DataFrame) -> Figure:
    """Figure 2 measured. `table`: checkpoint, pair, region, q05 to q95, mean (a dot). `zero` as in `consensus`."""
    page = figure(PAGE, 2.5)
    checkpoints, where = table["checkpoint"].unique(), table["region"].unique()
    n, styles = len(checkpoints), line_styles(checkpoints)
    for ax, pair, part in panels(page, table, "pair", "cosine similarity", sharey=True):
        for k, checkpoint in enumerate(checkpoints):
            rows = part[part["checkpoint"] == checkpoint].set_index("region").reindex(where)
            colour, x = styles[checkpoint]["color"], np.arange(len(where)) + (k - (n - 1) / 2) * 0.8 / n
            ax.vlines(x, rows["q05"], rows["q95"], color=colour, linewidth=0.7)
            ax.bar(x, rows["q75"] - rows["q25"], 0.68 / n, rows["q25"], color=colour, label=checkpoint)
            ax.hlines(rows["median"], x - 0.34 / n, x + 0.34 / n, color="white", linewidth=0.9)
            ax.plot(x, rows["mean"], "o", markersize=2.2, color="white", markeredgecolor="black", markeredgewidth=0.4)
            if pair == "audio-video":
                text = table[(table["checkpoint"] == checkpoint) & (table["pair"] == "audio-text")]
                target = np.interp(text.set_index("region")["mean"].reindex(where), zero["al"], zero["av"])
                ax.hlines(target, x - 0.4 / n, x + 0.4 / n, color="black", linewidth=0.9, label=NO_LOSS)
        ax.set(title=pair, xlabel="region of Figure 2", xticks=range(len(where)), xticklabels=where)
        ax.grid(axis="x", visible=False)
    legend(page, "upper center", [*checkpoints, NO_LOSS], ncols=min(n + 1, 5))
    return page


@styled
def consensus(points: pd.DataFrame, zero: pd.DataFrame) -> Figure:
    """Figure 3 measured. `points`: checkpoint (a panel), av, al, region. `zero`: the curve without consensus loss."""
    count = points["checkpoint"].nunique()
    columns = min(count, 4)
    rows = -(-count // columns)
    page = figure(PAGE, rows * (PAGE / columns + 0.55) + 0.17)
    similarities = points[["av", "al"]].to_numpy()
    ends = float(similarities.min()) - 0.03, float(similarities.max()) + 0.03
    along = {"columns": columns, "sharex": True, "sharey": True}
    for ax, checkpoint, part in panels(page, points, "checkpoint", "audio-video similarity", **along):
        inside = part["region"] == "I"
        for side, c, label in ((part[~inside], NO, "regions II-IV"), (part[inside], YES, "region I (all three agree)")):
            ax.scatter(side["al"], side["av"], s=3, color=c, alpha=0.35, linewidths=0, rasterized=True, label=label)
            ax.plot(side["al"].mean(), side["av"].mean(), "o", color=c, markeredgecolor="white", markersize=6)
        ax.plot(zero["al"], zero["av"], color="black", linewidth=0.7, linestyle=DASHED, label=NO_LOSS)
        gap = (part["av"] - part["al"]).abs().mean()
        ax.set_title(f"{wrap(checkpoint.split(' (')[0], 20, 1)}\nmean gap {gap:.3f}")
        ax.set(xlim=ends, ylim=ends, xlabel="audio-text similarity", aspect="equal")
    legend(page, "lower center", ncols=3, markerscale=3)
    return page


def _lines(ax: Axes, points: pd.DataFrame, styles: dict[str, dict[str, Any]], x: str, y: str, **look: Any) -> None:
    for method, style in styles.items():
        part = points[points["method"] == method]
        if len(part):
            ax.plot(part[x], part[y], label=method, **look, **style)
