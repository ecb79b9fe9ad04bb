"""Figures of sweeps, from the tables of `mc3.paper.measure`: the study of worlds, ablations, tuning, objectives."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mc3.paper.plots.style import DOTTED, GREY, PAGE, PALETTE, figure, styled
from mc3.paper.tables import header, label, pair_name

RATES = {
    "on_screen": "on-screen source",
    "off_screen": "off-screen source",
    "unseen": "actions not seen",
    "sounding": "sounding rate, × Table 1",
    "signal_db": "louder actions, dB",
    "misnarrated": "wrong narrations",
    "videos": "training videos",
}
"""Axis labels of the study's rates."""
LOOKS = {"av": ("o", PALETTE[0]), "al": ("s", PALETTE[1])}
USUAL = "as generated"  # the world with the profile's own rates


def gaps(table: pd.DataFrame) -> dict[str, str]:
    """The methods that a study's table has gaps of ("av_mc3_gap"), by name, with their labels less brackets."""
    names = [match[1] for column in table if (match := re.fullmatch(r"av_(\w+)_gap", str(column)))]
    return {name: label(name).split(" (")[0] for name in names}


@styled
def study(table: pd.DataFrame) -> Figure:
    """Gap curves over one rate at a time, and heat maps of rates that were varied together.

    `table`: world ("on_screen 0.7", or two such with a comma), a column a rate, seed, and for each method
    {pair}_{method}_gap with _low and _high; the first method is drawn strongest. A small mark is a seed with its 95 %
    interval over videos, a line the mean over seeds; a cell of a heat map is the mean over seeds.
    """
    base = table[table["world"] == USUAL]
    varied = {world: world.split(", ") for world in table["world"].unique() if world != USUAL}
    axes = list(dict.fromkeys(words[0].split(" ")[0] for words in varied.values() if len(words) == 1))
    pairs = list(dict.fromkeys(tuple(w.split(" ")[0] for w in words) for words in varied.values() if len(words) == 2))
    columns = 4
    rows = -(-len(axes) // columns)
    page = figure(PAGE, 1.7 * (rows + bool(pairs)) + 0.5)
    parts: Any = page.subfigures(2, 1, height_ratios=(rows, 1.15 if pairs else 0.01))
    upper, lower = parts
    grid = upper.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, axes, strict=False):
        single = table["world"].map(lambda world, name=name: world.startswith(f"{name} ") and ", " not in world)
        _curve(ax, pd.concat([base, table[single]]), name)
    for ax in grid[len(axes) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel("ROC gap to w/o consensus")
    if axes:
        upper.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    if pairs:
        strongest = next(iter(gaps(table)))
        limit = float(table[[f"{pair}_{strongest}_gap" for pair in LOOKS]].abs().max().max())
        maps = lower.subplots(1, 2 * len(pairs), squeeze=False)[0]
        rates = list(table.columns[1 : list(table.columns).index("seed")])
        for at, pair in enumerate(pairs):
            others = [name for name in rates if name not in pair]
            here = table[(table[others] == base[others].iloc[0]).all(axis=1)]
            for ax, metric in zip(maps[2 * at : 2 * at + 2], LOOKS, strict=True):
                _heat(ax, here, pair, metric, strongest, limit)
    return page


@styled
def study_regions(table: pd.DataFrame) -> Figure:
    """How well audio-video similarity separates region I from each other region, before and after refinement.

    `table`: world, checkpoint, pair, region, roc; a row a seed. One panel a region, a row a world, a mark a
    checkpoint: the mean over seeds.
    """
    here = table[(table["pair"] == pair_name("av")) & (table["region"] != "I")]
    worlds, shown = list(dict.fromkeys(here["world"])), sorted(here["region"].unique())
    checkpoints = list(dict.fromkeys(here["checkpoint"]))
    page = figure(PAGE, 0.16 * len(worlds) + 1.0)
    axes = page.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    y, colours = np.arange(len(worlds)), (GREY, PALETTE[1], PALETTE[0], PALETTE[2])
    for ax, region in zip(axes, shown, strict=True):
        mean = here[here["region"] == region].groupby(["world", "checkpoint"])["roc"].mean().unstack().reindex(worlds)
        for checkpoint, marker, colour in zip(checkpoints, "os^D", colours, strict=False):
            ax.plot(mean[checkpoint], y, marker, color=colour, markersize=3, label=checkpoint)
        ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=DOTTED)
        ax.set(title=f"I against {region}")
    page.supxlabel("ROC of audio-video similarity")
    axes[0].set_yticks(y, worlds)
    axes[0].set_ylim(len(worlds) - 0.5, -0.5)
    page.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(checkpoints))
    return page


@styled
def ablations(table: pd.DataFrame) -> Figure:
    """Test ROCs by setting, a panel an ablation on one scale, with a dotted line at the profile's own setting.

    `table`: group (the ablation), setting, profile, av_roc, al_roc and their _std over seeds, drawn as a bar; NaN of
    one seed.
    """
    values = table[["av_roc", "al_roc"]]
    span = (values.min(axis=None) - 0.01, values.max(axis=None) + 0.01)
    groups = [(name, part) for name, part in table.groupby("group", sort=False)]
    columns = 2
    rows = -(-len(groups) // columns)
    heights = [max(len(part) for _, part in groups[columns * row : columns * (row + 1)]) + 3 for row in range(rows)]
    page = figure(PAGE, 0.135 * sum(heights) + 0.5)
    grid = page.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel()
    for ax, (name, part) in zip(grid, groups, strict=False):
        for pair, (_, colour) in LOOKS.items():
            usual = part.loc[part["profile"], f"{pair}_roc"]
            if len(usual):
                ax.axvline(usual.iloc[0], color=colour, linewidth=0.7, linestyle=DOTTED)
            _means(ax, part, f"{pair}_roc", pair, "full")
        ax.set_yticks(range(len(part)), part["setting"])
        ax.set(title=name, xlim=span, ylim=(len(part) - 0.5, -0.5))
    for ax in grid[len(groups) :]:
        ax.set_visible(False)
    page.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return page


@styled
def selection(table: pd.DataFrame) -> Figure:
    """Validation ROCs of every trial, a row a method, the chosen trials filled; one panel a pair of modalities.

    `table`: label, selection, validation_av_roc, validation_al_roc and their _std over seeds, drawn as a bar; chosen,
    without which the trial with the highest `selection` is filled.
    """
    labels = list(dict.fromkeys(table["label"]))
    chosen = table["chosen"] if "chosen" in table else table["selection"] == table["selection"].max()
    page = figure(PAGE, 0.2 * len(labels) + 0.9)
    axes = page.subplots(1, 2, sharey=True)
    for ax, pair in zip(axes, LOOKS, strict=True):
        for part, fill in ((table[~chosen], "none"), (table[chosen], "full")):
            _means(ax, part, f"validation_{pair}_roc", pair, fill, part["label"].map(labels.index))
        ax.set(title=f"{header(pair)} ROC, validation", ylim=(len(labels) - 0.5, -0.5))
    axes[0].set_yticks(range(len(labels)), labels)
    return page


def study_cells(worlds: pd.DataFrame) -> pd.DataFrame:
    """A study's worlds as text, with their gaps to the control and the intervals."""
    prevalence = worlds["prevalence"].map("{:.2f}".format)
    shown = pd.DataFrame({"World": worlds["world"], "Seeds": worlds["seeds"], "Prevalence": prevalence})
    for name, words in gaps(worlds).items():
        for pair in LOOKS:
            ends = (f"{pair}_{name}_gap{end}" for end in ("", "_low", "_high"))
            value, low, high = (worlds[column].map("{:+.3f}".format) for column in ends)
            shown[f"{words}, {header(pair)} ROC"] = value + " [" + low + ", " + high + "]"
    return shown


def _means(ax: Axes, table: pd.DataFrame, column: str, pair: str, fill: Any, rows: Any = None) -> None:
    """A mark a row of `table` at its mean over seeds, with a bar of a standard deviation where there is one."""
    y = np.arange(len(table)) if rows is None else np.asarray(rows)
    marker, colour = LOOKS[pair]
    spread = table[f"{column}_std"]
    ax.hlines(y, table[column] - spread, table[column] + spread, color=colour, linewidth=0.7)
    ax.plot(table[column], y, marker, color=colour, fillstyle=fill, markersize=4, label=f"{header(pair)} ROC")


def _curve(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    reach = float(rows[name].max() - rows[name].min()) or 1.0
    for shift, pair in ((-0.012, "av"), (0.012, "al")):
        marker, colour = LOOKS[pair]
        x = rows[name] + shift * reach
        for k, (method, words) in enumerate(gaps(rows).items()):
            gap = f"{pair}_{method}_gap"
            if k == 0:
                ax.vlines(x, rows[f"{gap}_low"], rows[f"{gap}_high"], color=colour, linewidth=0.6, alpha=0.6)
                ax.plot(x, rows[gap], marker, color=colour, markersize=2.2)
            mean = rows.groupby(name)[gap].mean()
            dashes: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 0.9} if k else {}
            ax.plot(mean.index, mean, color=colour, label=f"{header(pair)}, {words}", **dashes)
    ax.set_xlabel(RATES.get(name, name))


def _heat(ax: Axes, rows: pd.DataFrame, rates: tuple[str, ...], pair: str, method: str, limit: float) -> None:
    (x, y), gap = rates, f"{pair}_{method}_gap"
    cells = rows.pivot_table(index=y, columns=x, values=gap, aggfunc="mean").sort_index(ascending=False)
    ax.imshow(cells, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(cells.to_numpy()):
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 * limit else "black"
            ax.text(column, row, f"{value:+.3f}", ha="center", va="center", fontsize=5.5, color=ink)
    ax.set_xticks(range(cells.shape[1]), [f"{v:g}" for v in cells.columns])
    ax.set_yticks(range(cells.shape[0]), [f"{v:g}" for v in cells.index])
    ax.set(xlabel=RATES.get(x, x), ylabel=RATES.get(y, y), title=f"{header(pair)} gap, {gaps(rows)[method]}")
    ax.grid(False)
