"""Figures by verb, action group or class of sound: Table 1's rates, Figure 4's long tail, EPIC-Sounds' classes."""

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mc3.paper.plots.style import COLUMN, GREY, MARKERS, PAGE, PALETTE, figure, legend, styled, wrap

CLEAR_BLUE = ListedColormap([(*to_rgb(PALETTE[1]), alpha) for alpha in np.linspace(0, 1, 256)])  # on any page's colour


@styled
def sounding_rates(table: pd.DataFrame) -> Figure:
    """Table 1 as bars. `table`: verb, sounding_rate, paper (may be missing), n, in the order drawn (first on top)."""
    bars = figure(COLUMN, 0.17 * len(table) + 0.75)
    ax = bars.subplots()
    y = np.arange(len(table))
    ax.barh(y, table["sounding_rate"], height=0.62, color=PALETTE[1], label="measured here")
    if table["paper"].notna().any():
        ax.plot(table["paper"], y, "D", color=PALETTE[0], markersize=4, label="paper", clip_on=False)
    for k, (rate, n) in enumerate(zip(table["sounding_rate"], table["n"], strict=True)):
        x, colour = (0.012, "white") if rate > 0.12 else (rate + 0.045, GREY)
        ax.text(x, k, f"n={n}", va="center", color=colour, fontsize=5.5)
    ax.set_yticks(y, table["verb"])
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share of clips whose action sounds")
    ax.grid(axis="y", visible=False)
    legend(bars, "upper center", ncols=2)
    return bars


@styled
def long_tail(counts: pd.DataFrame, named: int = 9) -> Figure:
    """Figure 4. `counts`: action_group, count, most frequent first; `named` groups along the curve get their name."""
    tail = figure(COLUMN, 2.2)
    ax = tail.subplots()
    rank = np.arange(1, len(counts) + 1)
    ax.fill_between(rank, counts["count"], step="mid", color=PALETTE[1], alpha=0.85, linewidth=0)
    top = counts["count"].max()
    ax.set(xlim=(0.5, len(counts) + 0.5), ylim=(0, top * 1.06), ylabel="sounding clips")
    ax.set_xlabel("action groups (verb + noun), by frequency")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    marks = np.unique(np.linspace(0, 0.92 * (len(counts) - 1), named).round().astype(int))
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0}
    for k, row in enumerate(marks):
        name, count = counts[["action_group", "count"]].iloc[row]
        high = max(count, top * (0.93 - 0.80 * k / max(len(marks) - 1, 1)))
        side = "left" if k < 0.6 * len(marks) else "center" if k < len(marks) - 1 else "right"
        text = (rank[row] + len(counts) * 0.02, high)
        ax.annotate(wrap(name, 24, 1), (rank[row], count), text, fontsize=6, va="center", ha=side, arrowprops=leader)
    return tail


@styled
def per_class(table: pd.DataFrame) -> Figure:
    """EPIC-Sounds recall by class, most frequent first. `table`: class_id, name, n, probe, recall; a row each."""
    probes = list(dict.fromkeys(table["probe"]))
    by_probe = table[table["n"] > 0].pivot(index=["class_id", "name", "n"], columns="probe", values="recall")[probes]
    classes = by_probe.reset_index().sort_values(["n", "class_id"], ascending=[False, True])
    page = figure(PAGE, 3.1)
    ax, below = page.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    x = np.arange(len(classes))
    for k, probe in enumerate(probes):
        ax.plot(x, classes[probe], MARKERS[k % len(MARKERS)], markersize=3.4, color=PALETTE[k % len(PALETTE)],
                label=probe, markeredgewidth=0.3, markeredgecolor="white", clip_on=False)  # fmt: skip
    ax.vlines(x, classes[probes].min(axis=1), classes[probes].max(axis=1), color="#C8C8C8", linewidth=0.7, zorder=0)
    ax.set(ylim=(-0.03, 1.03), ylabel="recall", xlim=(-0.7, len(classes) - 0.3))
    ax.grid(axis="x", visible=False)
    below.bar(x, classes["n"], color=PALETTE[1], width=0.7)
    below.set(yscale="log", ylabel="clips")
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    below.yaxis.set_minor_formatter(StrMethodFormatter(""))
    below.grid(axis="x", visible=False)
    below.set_xticks(x, classes["name"], rotation=90, fontsize=5.5)
    legend(page, "upper center", ncols=min(3, len(probes)))
    return page


@styled
def confusion(table: pd.DataFrame) -> Figure:
    """EPIC-Sounds confusions. `table`: a row a true class; class_id, name, n, then shares by predicted class."""
    numbers = table.columns.drop(["class_id", "name", "n"])
    names = dict(zip(table["class_id"].astype(str), table["name"], strict=True))
    page = figure(PAGE, PAGE * (0.2 + 0.72 * len(table) / len(numbers)))
    ax = page.subplots()
    image = ax.imshow(table[numbers], cmap=CLEAR_BLUE, vmin=0, vmax=1, interpolation="none", aspect="auto")
    rows = [f"{wrap(name, 32, 1)}  {n}" for name, n in zip(table["name"], table["n"], strict=True)]
    columns = [wrap(names.get(number, f"class {number}"), 32, 1) for number in numbers]
    ax.set_yticks(np.arange(len(rows)), rows, fontsize=5)
    ax.set_xticks(np.arange(len(columns)), columns, rotation=90, fontsize=5)
    ax.set(ylabel="true class, and its events", xlabel="predicted class")
    ax.grid(False)
    ax.spines[:].set(visible=True, color=GREY)
    bar = page.colorbar(image, ax=ax, shrink=0.5, pad=0.01, aspect=30, label="share of the class's events")
    bar.outline.set_visible(False)
    return page
