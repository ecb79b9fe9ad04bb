"""Figures of results: discovery, training, regions, consensus, maps, overview, differences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mc3.paper.plots.style import (
    DASHED,
    DOTTED,
    GREY,
    MARKERS,
    NO,
    PAGE,
    PALETTE,
    YES,
    bare,
    figure,
    highlighted,
    line_styles,
    styled,
    wrap,
)


@styled
def precision_recall(curves: pd.DataFrame, prevalence: dict[str, float]) -> Figure:
    """Figure 5, one panel a pair, with its prevalence (= Random) as a line.

    Args:
        curves: pair, method, recall, precision; one row a point.
        prevalence: share of positive clips, by pair.
    """
    page = figure(PAGE, 2.75)
    pairs, methods = _values(curves, "pair", "method")
    axes = page.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    lowest = min(curves.loc[curves["recall"] > 0.03, "precision"].min(), *prevalence.values())
    for ax, pair in zip(axes, pairs, strict=True):
        handles |= _lines(ax, curves[curves["pair"] == pair], methods, "recall", "precision")
        handles["Random"] = ax.axhline(prevalence[pair], color=GREY, linewidth=0.8, linestyle=DOTTED)
        ax.set(title=f"{pair} (prevalence {prevalence[pair]:.3f})", xlim=(0, 1), xlabel="recall")
        ax.set_ylim(max(0, np.floor(lowest * 20 - 0.5) / 20), 1.005)
    axes[0].set_ylabel("precision")
    _legend(page, handles, [*methods, "Random"])
    return page


@styled
def training(curves: pd.DataFrame) -> Figure:
    """Validation results by epoch. `curves`: method, metric, step, value; one panel a metric."""
    page = figure(PAGE, 2.6)
    metrics, methods = _values(curves, "metric", "method")
    axes = page.subplots(1, len(metrics), squeeze=False)[0]
    handles: dict[str, Any] = {}
    for ax, metric in zip(axes, metrics, strict=True):
        handles |= _lines(ax, curves[curves["metric"] == metric], methods, "step", "value", marker="o", markersize=2.2)
        ax.set(title=metric, xlabel="training step, the align stage included")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].set_ylabel("validation clips")
    _legend(page, handles, methods)
    return page


@styled
def regions(table: pd.DataFrame) -> Figure:
    """Figure 2 measured: similarity of each modality pair by Venn region and checkpoint, as quartile boxes.

    `table`: checkpoint, pair, region, q05, q25, median, q75, q95, mean. Whiskers are the 5th and 95th
    percentile, the white dot is the mean.
    """
    pairs, checkpoints, where = _values(table, "pair", "checkpoint", "region")
    page = figure(PAGE, 2.5)
    axes = page.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    styles = line_styles(checkpoints)
    handles = []
    for ax, pair in zip(axes, pairs, strict=True):
        for k, checkpoint in enumerate(checkpoints):
            rows = table[(table["pair"] == pair) & (table["checkpoint"] == checkpoint)]
            rows = rows.set_index("region").reindex(where)
            colour, n = styles[checkpoint]["color"], len(checkpoints)
            x = np.arange(len(where)) + (k - (n - 1) / 2) * 0.8 / n
            ax.vlines(x, rows["q05"], rows["q95"], color=colour, linewidth=0.7)
            bars = ax.bar(x, rows["q75"] - rows["q25"], 0.68 / n, rows["q25"], color=colour)
            ax.hlines(rows["median"], x - 0.34 / n, x + 0.34 / n, color="white", linewidth=0.9)
            ax.plot(x, rows["mean"], "o", markersize=2.2, color="white", markeredgecolor="black", markeredgewidth=0.4)
            if ax is axes[0]:
                handles.append(bars)
        ax.set_xticks(np.arange(len(where)), where)
        ax.set(title=pair, xlabel="region of Figure 2")
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("cosine similarity")
    page.legend(handles, checkpoints, loc="outside upper center", ncols=len(checkpoints))
    return page


@styled
def consensus(points: pd.DataFrame) -> Figure:
    """Figure 3 measured: each clip's audio-video against its audio-text similarity, one panel a checkpoint.

    `points`: checkpoint, av, al, region. The consensus loss pulls clips to the diagonal, where both are equal.
    """
    (checkpoints,) = _values(points, "checkpoint")
    page = figure(PAGE, 3.2)
    axes = page.subplots(1, len(checkpoints), sharex=True, sharey=True, squeeze=False)[0]
    similarities = points[["av", "al"]].to_numpy()
    low, high = float(similarities.min()) - 0.03, float(similarities.max()) + 0.03
    for ax, checkpoint in zip(axes, checkpoints, strict=True):
        part = points[points["checkpoint"] == checkpoint]
        inside = part["region"] == "I"
        sides = ((part[~inside], NO), (part[inside], YES))
        handles = [
            ax.scatter(side["al"], side["av"], s=3, color=colour, alpha=0.35, linewidths=0, rasterized=True)
            for side, colour in sides
        ]
        for side, colour in sides:
            ax.plot(side["al"].mean(), side["av"].mean(), "o", color=colour, markeredgecolor="white", markersize=6)
        handles += ax.plot([low, high], [low, high], color="black", linewidth=0.7, linestyle=DASHED)
        gap = (part["av"] - part["al"]).abs().mean()
        ax.set_title(f"{checkpoint.split(' (')[0]}: mean gap {gap:.3f}")
        ax.set(xlim=(low, high), ylim=(low, high), xlabel="audio-text similarity", aspect="equal")
    axes[0].set_ylabel("audio-video similarity")
    labels = ["regions II-IV", "region I (all three agree)", "both similarities equal"]
    page.legend(handles, labels, loc="outside lower center", ncols=3, markerscale=3)
    return page


@styled
def scatter(points: pd.DataFrame, title: str) -> Figure:
    """A map of embeddings. `points`: x, y, group; the legend lists groups by frequency."""
    page = figure(PAGE * 0.75, PAGE * 0.5)
    ax = page.subplots()
    looks = zip(cycle((*PALETTE, GREY)), cycle(MARKERS), strict=False)
    for name, (colour, marker) in zip(points["group"].value_counts().index, looks, strict=False):
        part = points[points["group"] == name]
        ax.scatter(part["x"], part["y"], s=7, color=colour, marker=marker, linewidths=0, alpha=0.75, label=name)
    bare(ax)
    ax.set_title(title)
    page.legend(loc="outside right upper")
    return page


@styled
def overview(table: pd.DataFrame) -> Figure:
    """Every method's result beside the paper's, one panel a metric, as bars from chance (the grey line).

    `table`: method, metric, ours, std (may be missing), paper, random, paper_random, separate_axis (whether the
    metric's level depends so much on the data that the paper's numbers need their own axis, above the panel).
    """
    metrics, methods = _values(table, "metric", "method")
    page = figure(PAGE, 0.21 * len(methods) + 1.05)
    axes = page.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    y = np.arange(len(methods))
    colours = [PALETTE[1] if m == highlighted() else "#8FBCD9" for m in methods]
    for ax, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("method").reindex(methods)
        chance, paper_chance, separate = rows[["random", "paper_random", "separate_axis"]].iloc[0]
        bars = ax.barh(y, rows["ours"] - chance, left=chance, height=0.62, color=colours)
        ax.errorbar(rows["ours"], y, xerr=rows["std"].fillna(0), fmt="none", ecolor="black", elinewidth=0.7)
        ax.axvline(chance, color=GREY, linewidth=0.8)
        above = ax.twiny() if separate else ax
        (diamonds,) = above.plot(rows["paper"], y, "D", color=PALETTE[0], markersize=3.6, clip_on=False)
        if separate:
            above.set_xlim(_limits(rows["paper"], paper_chance))
            above.spines["top"].set(visible=True, color=PALETTE[0])
            above.tick_params(axis="x", colors=PALETTE[0], labelsize=6, pad=1)
            above.xaxis.set_major_locator(MaxNLocator(4))
            above.grid(False)
        ax.set_xlim(_limits(rows["ours"] if separate else rows[["ours", "paper"]].stack(), chance))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(metric)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(y, [wrap(m, 20, 2) for m in methods], linespacing=0.9)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    names = ["measured here", "paper (Ego4D; where there is an axis above, on that one)"]
    page.legend([bars[-1], diamonds], names, loc="outside lower center", ncols=2)
    return page


@styled
def differences(table: pd.DataFrame) -> Figure:
    """The reference row minus each other row, with intervals: blue above 0, orange below, grey where 0 is inside.

    `table`: line (panels of one line of the figure share their rows), panel, label, row (orders labels), difference,
    low, high.
    """
    lines = [part for _, part in table.groupby("line", sort=False)]
    heights = [0.115 * part["label"].nunique() + 0.42 for part in lines]
    page = figure(PAGE, sum(heights) + 0.25, dpi=200)  # laid out as it is saved: hinting widens the long labels
    panels = page.subfigures(len(lines), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, part in zip(panels, lines, strict=True):
        (labels,), (names,) = _values(part.sort_values("row"), "label"), _values(part, "panel")
        axes = panel.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            rows = part[part["panel"] == name].set_index("label").reindex(labels)
            y = np.arange(len(labels))
            colours = np.select([rows["low"] > 0, rows["high"] < 0], [YES, NO], GREY)
            ax.axvline(0, color="black", linewidth=0.7)
            ax.hlines(y, rows["low"], rows["high"], color=colours, linewidth=1.1)
            ax.scatter(rows["difference"], y, s=11, c=colours, linewidths=0, zorder=3)
            ax.set_title(name)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
        axes[0].set_yticks(y, [wrap(label, 32, 1) for label in labels], fontsize=6)
        axes[0].set_ylim(len(labels) - 0.4, -0.6)
    handles = [Line2D([], [], color=c, marker="o", markersize=3.4, linewidth=1.1) for c in (YES, GREY, NO)]
    words = [f"{highlighted()} ahead", "interval includes 0", f"{highlighted()} behind"]
    page.legend(handles, words, loc="outside lower center", ncols=3)
    return page


def _values(table: pd.DataFrame, *columns: str) -> list[list[str]]:
    """The distinct values of each column, in order of appearance."""
    return [list(dict.fromkeys(table[column])) for column in columns]


def _lines(ax: Axes, points: pd.DataFrame, methods: Sequence[str], x: str, y: str, **look: Any) -> dict[str, Line2D]:
    """Draw a line for each method that has points; label -> line."""
    handles = {}
    for method, style in line_styles(methods).items():
        part = points[points["method"] == method]
        if len(part):
            (handles[method],) = ax.plot(part[x], part[y], **look, **style)
    return handles


def _legend(page: Figure, handles: dict[str, Any], order: Sequence[str]) -> None:
    names = [name for name in order if name in handles]
    page.legend([handles[n] for n in names], names, loc="outside lower center", ncols=5, handlelength=3)


def _limits(values: pd.Series, chance: float) -> tuple[float, float]:
    """Limits of an axis that show all `values` and chance."""
    low, high = min(chance, float(values.min())), max(chance, float(values.max()))
    return low - 0.04 * (high - low), high + 0.08 * (high - low)
