"""Figures of sweeps: the study of generated worlds, ablations, tuning."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mc3 import evaluate, methods
from mc3.paper.plots.style import DOTTED, GREY, PAGE, PALETTE, figure, styled
from mc3.paper.tables import header, pair_name

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
USUAL = "as generated"  # the study's point with the profile's own rates


def gaps(table: pd.DataFrame) -> dict[str, str]:
    """Gap columns of a study's table, less their pair, and the method that each belongs to in print.

    "gap" is the reference row's lead over the same refinement without consensus, "{method}_gap" another row's.
    """
    found = {}
    for column in table:
        if match := re.fullmatch(r"av_((?:(\w+)_)?gap)", str(column)):
            name = match[2] or methods.with_role("reference")
            found[match[1]] = methods.get(name).label.split(" (")[0] if name in methods.METHODS else str(name)
    return found


@styled
def study(table: pd.DataFrame) -> Figure:
    """Gap curves over one rate at a time, and heat maps of rates that were varied together.

    `table`: point, a column a rate, seed, {pair}_gap with its _low and _high, and {pair}_{method}_gap. A small mark is
    a seed with its 95 % interval over videos, the line the mean over seeds, dashed for other methods than the
    reference; a cell of a heat map is the mean over seeds.
    """
    base = table[table["point"] == USUAL]
    varied = {point: point.split(", ") for point in table["point"].unique() if point != USUAL}
    axes = list(dict.fromkeys(words[0].split(" ")[0] for words in varied.values() if len(words) == 1))
    pairs = list(dict.fromkeys(tuple(w.split(" ")[0] for w in words) for words in varied.values() if len(words) == 2))
    columns = 4
    rows = -(-len(axes) // columns)
    page = figure(PAGE, 1.7 * (rows + bool(pairs)) + 0.5)
    parts: Any = page.subfigures(2, 1, height_ratios=(rows, 1.15 if pairs else 0.01))
    upper, lower = parts
    grid = upper.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, axes, strict=False):
        single = table["point"].map(lambda point, name=name: point.startswith(f"{name} ") and ", " not in point)
        _curve(ax, pd.concat([base, table[single]]), name)
    for ax in grid[len(axes) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel("ROC gap to w/o consensus")
    if axes:
        upper.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    if pairs:
        limit = float(table[["av_gap", "al_gap"]].abs().max().max())
        maps = lower.subplots(1, 2 * len(pairs), squeeze=False)[0]
        rates = list(table.columns[1 : list(table.columns).index("seed")])
        for at, pair in enumerate(pairs):
            others = [name for name in rates if name not in pair]
            here = table[(table[others] == base[others].iloc[0]).all(axis=1)]
            for ax, metric in zip(maps[2 * at : 2 * at + 2], LOOKS, strict=True):
                _heat(ax, here, pair, metric, limit)
    return page


@styled
def study_regions(table: pd.DataFrame) -> Figure:
    """How well audio-video similarity separates region I from each other region, before and after refinement.

    `table`: point, checkpoint, pair, region, roc; a row a seed. One panel a region, a row a point, a mark a
    checkpoint: the mean over seeds.
    """
    here = table[(table["pair"] == pair_name("av")) & (table["region"] != "I")]
    points, shown = list(dict.fromkeys(here["point"])), sorted(here["region"].unique())
    checkpoints = list(dict.fromkeys(here["checkpoint"]))
    page = figure(PAGE, 0.16 * len(points) + 1.0)
    axes = page.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    y, colours = np.arange(len(points)), (GREY, PALETTE[1], PALETTE[0], PALETTE[2])
    for ax, region in zip(axes, shown, strict=True):
        mean = here[here["region"] == region].groupby(["point", "checkpoint"])["roc"].mean().unstack().reindex(points)
        for checkpoint, marker, colour in zip(checkpoints, "os^D", colours, strict=False):
            ax.plot(mean[checkpoint], y, marker, color=colour, markersize=3, label=checkpoint)
        ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=DOTTED)
        ax.set(title=f"I against {region}")
    page.supxlabel("ROC of audio-video similarity")
    axes[0].set_yticks(y, points)
    axes[0].set_ylim(len(points) - 0.5, -0.5)
    page.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(checkpoints))
    return page


@styled
def ablations(table: pd.DataFrame) -> Figure:
    """Test ROCs by setting, a panel an ablation on one scale, with a dotted line at the profile's own setting.

    `table`: ablation, setting, profile, seed, av_roc, al_roc. A small mark is a seed, a large one the mean.
    """
    values = table[["av_roc", "al_roc"]]
    span = (values.min(axis=None) - 0.01, values.max(axis=None) + 0.01)
    names = list(dict.fromkeys(table["ablation"]))
    counts = [table.loc[table["ablation"] == name, "setting"].nunique() for name in names]
    columns = 2
    rows = -(-len(names) // columns)
    heights = [max(counts[columns * row : columns * (row + 1)]) + 3 for row in range(rows)]
    page = figure(PAGE, 0.135 * sum(heights) + 0.5)
    grid = page.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel()
    for ax, name in zip(grid, names, strict=False):
        here = table[table["ablation"] == name]
        settings = list(dict.fromkeys(here["setting"]))
        for pair, (marker, colour) in LOOKS.items():
            value = f"{pair}_roc"
            usual = here.loc[here["profile"], value]
            if len(usual):
                ax.axvline(usual.mean(), color=colour, linewidth=0.7, linestyle=DOTTED)
            mean = here.groupby("setting")[value].mean().reindex(settings)
            ax.plot(here[value], here["setting"].map(settings.index), marker, color=colour, markersize=2, alpha=0.5)
            ax.plot(mean, range(len(settings)), marker, color=colour, markersize=4, label=header(value))
        ax.set_yticks(range(len(settings)), settings)
        ax.set(title=name, xlim=span, ylim=(len(settings) - 0.5, -0.5))
    for ax in grid[len(names) :]:
        ax.set_visible(False)
    page.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return page


@styled
def tuning(table: pd.DataFrame) -> Figure:
    """Every trial of every method on validation, the chosen one filled; one panel a pair of modalities.

    `table`: label, chosen, validation_av_roc, validation_al_roc.
    """
    labels = list(dict.fromkeys(table["label"]))
    page = figure(PAGE, 0.2 * len(labels) + 0.9)
    axes = page.subplots(1, 2, sharey=True)
    for ax, (pair, (marker, colour)) in zip(axes, LOOKS.items(), strict=True):
        for chosen, fill in ((False, "none"), (True, colour)):
            part = table[table["chosen"] == chosen]
            x, y = part[f"validation_{pair}_roc"], part["label"].map(labels.index)
            ax.plot(x, y, marker, color=colour, markerfacecolor=fill, markersize=4)
        ax.set(title=f"{header(pair)} ROC, validation", ylim=(len(labels) - 0.5, -0.5))
    axes[0].set_yticks(range(len(labels)), labels)
    return page


def study_cells(points: pd.DataFrame) -> pd.DataFrame:
    """`study_points.csv` as text: each world with its gaps to w/o consensus and their intervals."""
    prevalence = points["prevalence"].map("{:.2f}".format)
    shown = pd.DataFrame({"World": points["point"], "Seeds": points["seeds"], "Prevalence": prevalence})
    for column, name in gaps(points).items():
        for pair in evaluate.DISCOVERY:
            value, low, high = (points[f"{pair}_{column}{end}"].map("{:+.3f}".format) for end in ("", "_low", "_high"))
            shown[f"{name}, {header(pair)} ROC"] = value + " [" + low + ", " + high + "]"
    return shown


def _curve(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    reach = float(rows[name].max() - rows[name].min()) or 1.0
    for shift, pair in ((-0.012, "av"), (0.012, "al")):
        marker, colour = LOOKS[pair]
        x = rows[name] + shift * reach
        ax.vlines(x, rows[f"{pair}_gap_low"], rows[f"{pair}_gap_high"], color=colour, linewidth=0.6, alpha=0.6)
        ax.plot(x, rows[f"{pair}_gap"], marker, color=colour, markersize=2.2)
        for column, method in gaps(rows).items():
            mean = rows.groupby(name)[f"{pair}_{column}"].mean()
            dashes: dict[str, Any] = {} if column == "gap" else {"linestyle": (0, (3, 2)), "linewidth": 0.9}
            ax.plot(mean.index, mean, color=colour, label=f"{header(pair)}, {method}", **dashes)
    ax.set_xlabel(RATES.get(name, name))


def _heat(ax: Axes, rows: pd.DataFrame, rates: tuple[str, ...], pair: str, limit: float) -> None:
    x, y = rates
    cells = rows.pivot_table(index=y, columns=x, values=f"{pair}_gap", aggfunc="mean").sort_index(ascending=False)
    ax.imshow(cells, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(cells.to_numpy()):
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 * limit else "black"
            ax.text(column, row, f"{value:+.3f}", ha="center", va="center", fontsize=5.5, color=ink)
    ax.set_xticks(range(cells.shape[1]), [f"{v:g}" for v in cells.columns])
    ax.set_yticks(range(cells.shape[0]), [f"{v:g}" for v in cells.index])
    ax.set(xlabel=RATES.get(x, x), ylabel=RATES.get(y, y), title=f"{header(pair)} gap, {gaps(rows)['gap']}")
    ax.grid(False)
