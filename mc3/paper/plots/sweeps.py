"""Figures of tables: overview, differences; of sweeps, the study of worlds, ablations, tuning, objectives."""

import re
from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mc3.paper.plots.style import DOTTED, GREY, NO, PAGE, PALETTE, YES, emphasised, figure, legend, panels, styled, wrap
from mc3.paper.tables import header, intervals, label

RATES = {"on_screen": "on-screen source", "off_screen": "off-screen source", "unseen": "actions not seen",
         "sounding": "sounding rate, × Table 1", "signal_db": "louder actions, dB", "misnarrated": "wrong narrations",
         "videos": "training videos"}  # fmt: skip
LOOKS = {"av": ("o", PALETTE[0]), "al": ("s", PALETTE[1])}
USUAL = "as generated"  # the world with the profile's own rates


def gaps(table: pd.DataFrame) -> dict[str, str]:
    """The methods that a study's table has gaps of ("av_mc3_gap"), by name, with their labels less brackets."""
    names = [match[1] for column in table if (match := re.fullmatch(r"av_(\w+)_gap", str(column)))]
    return {name: label(name).split(" (")[0] for name in names}


@styled
def overview(table: pd.DataFrame) -> Figure:
    """Every method beside the paper's, as bars from chance, a panel a metric; `table`: `mc3.paper.tables.overview`."""
    methods = table["method"].unique()
    page = figure(PAGE, 0.21 * len(methods) + 1.05)
    y = np.arange(len(methods))
    colours = [PALETTE[1] if m == emphasised() else "#8FBCD9" for m in methods]
    for ax, metric, part in panels(page, table, "metric", sharey=True):
        rows = part.set_index("method").reindex(methods)
        chance, paper_chance, separate = rows[["random", "paper_random", "separate_axis"]].iloc[0]
        bars = ax.barh(y, rows["ours"] - chance, left=chance, height=0.62, color=colours)
        bars[-1].set_label("measured here")
        ax.errorbar(rows["ours"], y, xerr=rows["std"].fillna(0), fmt="none", ecolor="black", elinewidth=0.7)
        ax.axvline(chance, color=GREY, linewidth=0.8)
        above = ax.twiny() if separate else ax
        above.plot(rows["paper"], y, "D", color=PALETTE[0], markersize=3.6, clip_on=False,
                   label="paper (Ego4D; where there is an axis above, on that one)")  # fmt: skip
        if separate:
            above.set_xlim(_limits(rows["paper"], paper_chance))
            above.spines["top"].set(visible=True, color=PALETTE[0])
            above.tick_params(axis="x", colors=PALETTE[0], labelsize=6, pad=1)
            above.xaxis.set_major_locator(MaxNLocator(4))
            above.grid(False)
        ax.set(title=metric, xlim=_limits(rows["ours"] if separate else rows[["ours", "paper"]].stack(), chance))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y", visible=False)
    page.axes[0].set_yticks(y, [wrap(m, 20, 2) for m in methods], linespacing=0.9)
    page.axes[0].set_ylim(len(methods) - 0.5, -0.5)
    legend(page, "lower center", ncols=2)
    return page


@styled
def differences(table: pd.DataFrame, reference: str = "") -> Figure:
    """The reference row minus others. `table`: line (of panels), panel, label, row (orders), difference, low, high.

    `reference` is its label, by default that of the row which figures emphasise.
    """
    reference = reference or emphasised()
    lines = [part for _, part in table.groupby("line", sort=False)]
    heights = [0.115 * part["label"].nunique() + 0.42 for part in lines]
    page = figure(PAGE, sum(heights) + 0.25, dpi=200)  # laid out as it is saved: hinting widens the long labels
    for line, part in zip(page.subfigures(len(lines), squeeze=False, height_ratios=heights)[:, 0], lines, strict=True):
        labels = part.sort_values("row")["label"].unique()
        y = np.arange(len(labels))
        for ax, name, found in panels(line, part, "panel", sharey=True):
            rows = found.set_index("label").reindex(labels)
            colours = np.select([rows["low"] > 0, rows["high"] < 0], [YES, NO], GREY)
            ax.axvline(0, color="black", linewidth=0.7)
            ax.hlines(y, rows["low"], rows["high"], color=colours, linewidth=1.1)
            ax.scatter(rows["difference"], y, s=11, c=colours, linewidths=0, zorder=3)
            ax.set_title(name)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
        line.axes[0].set_yticks(y, [wrap(label, 32, 1) for label in labels], fontsize=6)
        line.axes[0].set_ylim(len(labels) - 0.4, -0.6)
    handles = [Line2D([], [], color=c, marker="o", markersize=3.4, linewidth=1.1) for c in (YES, GREY, NO)]
    words = [f"{reference} ahead", "interval includes 0", f"{reference} behind"]
    page.legend(handles, words, loc="outside lower center", ncols=3)
    return page


@styled
def study(table: pd.DataFrame) -> Figure:
    """Gap curves over one rate at a time, and heat maps of rates that were varied together.

    `table`: world ("on_screen 0.7", or two such with a comma), a column a rate, seed, and {pair}_{method}_gap with _low
    and _high. A mark is a seed with its 95 % interval over videos; lines and cells of heat maps are means over seeds.
    """
    varied = table["world"].where(table["world"] != USUAL, "").str.replace(r" [-+.\d]+", "", regex=True)
    base, single = table[varied == ""], table[varied.str.fullmatch(r"\w+")]  # varied: "", a rate, or rates with commas
    pairs = [rates.split(", ") for rates in varied.unique() if rates.count(",") == 1]
    rows = -(-varied[single.index].nunique() // 4)
    page = figure(PAGE, 1.7 * (rows + bool(pairs)) + 0.5)
    upper, lower = cast(Any, page.subfigures(2, 1, height_ratios=(rows, 1.15 if pairs else 0.01)))
    for ax, rate, part in panels(upper, single, varied, "ROC gap to w/o consensus", columns=4, sharey=True):
        _curve(ax, pd.concat([base, part]), rate)
    legend(upper, "upper center", ncols=4)
    if pairs:
        strongest = next(iter(gaps(table)))
        limit = float(table[[f"{pair}_{strongest}_gap" for pair in LOOKS]].abs().max().max())
        maps = lower.subplots(1, 2 * len(pairs), squeeze=False)[0]
        rates = list(table.columns[1 : list(table.columns).index("seed")])
        for ax, (pair, metric) in zip(maps, product(pairs, LOOKS), strict=True):
            others = [name for name in rates if name not in pair]
            _heat(ax, table[(table[others] == base[others].iloc[0]).all(axis=1)], pair, metric, strongest, limit)
    return page


@styled
def study_regions(table: pd.DataFrame) -> Figure:
    """Audio-video ROC of region I against each other. `table`: world, checkpoint, pair, region, roc; a row a seed."""
    here = table[(table["pair"] == "audio-video") & (table["region"] != "I")]
    worlds, checkpoints = here["world"].unique(), here["checkpoint"].unique()
    page = figure(PAGE, 0.16 * len(worlds) + 1.0)
    looks = list(zip(checkpoints, "os^D", (GREY, PALETTE[1], PALETTE[0], PALETTE[2]), strict=False))
    for ax, region, part in panels(page, here.sort_values("region", kind="stable"), "region", sharey=True):
        mean = part.groupby(["world", "checkpoint"])["roc"].mean().unstack().reindex(worlds)
        for checkpoint, marker, colour in looks:
            ax.plot(mean[checkpoint], range(len(worlds)), marker, color=colour, markersize=3, label=checkpoint)
        ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=DOTTED)
        ax.set(title=f"I against {region}")
    page.supxlabel("ROC of audio-video similarity")
    page.axes[0].set(yticks=range(len(worlds)), yticklabels=worlds, ylim=(len(worlds) - 0.5, -0.5))
    legend(page, "upper center", ncols=len(checkpoints))
    return page


@styled
def ablations(table: pd.DataFrame) -> Figure:
    """Test ROCs by setting. `table`: group (a panel), setting, profile (dotted), av_roc, al_roc, and _std (a bar)."""
    values = table[["av_roc", "al_roc"]]
    span = (values.min(axis=None) - 0.01, values.max(axis=None) + 0.01)
    sizes = table.groupby("group", sort=False).size()
    heights = [sizes.iloc[k : k + 2].max() + 3 for k in range(0, len(sizes), 2)]
    page = figure(PAGE, 0.135 * sum(heights) + 0.5)
    for ax, name, part in panels(page, table, "group", columns=2, height_ratios=heights):
        for pair, (_, colour) in LOOKS.items():
            for usual in part.loc[part["profile"], f"{pair}_roc"]:
                ax.axvline(usual, color=colour, linewidth=0.7, linestyle=DOTTED)
            _means(ax, part, range(len(part)), f"{pair}_roc", pair, "full")
        ax.set(title=name, xlim=span, ylim=(len(part) - 0.5, -0.5))
        ax.set_yticks(range(len(part)), part["setting"])
    legend(page, "lower center", ncols=2)
    return page


@styled
def selection(table: pd.DataFrame) -> Figure:
    """Validation ROCs of `measure.summary`, a row a method, a panel a pair; chosen trials, or the best, are filled."""
    labels = list(dict.fromkeys(table["label"]))
    chosen = table["chosen"] if "chosen" in table else table["selection"] == table["selection"].max()
    page = figure(PAGE, 0.2 * len(labels) + 0.9)
    axes = page.subplots(1, 2, sharey=True)
    for ax, pair in zip(axes, LOOKS, strict=True):
        for part, fill in ((table[~chosen], "none"), (table[chosen], "full")):
            _means(ax, part, part["label"].map(labels.index), f"validation_{pair}_roc", pair, fill)
        ax.set(title=f"{header(pair)} ROC, validation", ylim=(len(labels) - 0.5, -0.5))
    axes[0].set_yticks(range(len(labels)), labels)
    return page


def study_cells(worlds: pd.DataFrame) -> pd.DataFrame:
    """A study's worlds as text, with their gaps to the control and the intervals."""
    prevalence = worlds["prevalence"].map("{:.2f}".format)
    shown = pd.DataFrame({"World": worlds["world"], "Seeds": worlds["seeds"], "Prevalence": prevalence})
    for (name, words), pair in product(gaps(worlds).items(), LOOKS):
        shown[f"{words}, {header(pair)} ROC"] = intervals(worlds, f"{pair}_{name}_gap")
    return shown


def _means(ax: Axes, table: pd.DataFrame, y: Any, column: str, pair: str, fill: Any) -> None:
    """A mark a row of `table` at its mean over seeds, with a bar of a standard deviation where there is one."""
    marker, colour = LOOKS[pair]
    mean, spread = table[column], table[f"{column}_std"]
    ax.hlines(y, mean - spread, mean + spread, color=colour, linewidth=0.7)
    ax.plot(mean, y, marker, color=colour, fillstyle=fill, markersize=4, label=f"{header(pair)} ROC")


def _curve(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    reach = float(rows[name].max() - rows[name].min()) or 1.0
    for shift, (pair, (marker, colour)) in zip((-0.012, 0.012), LOOKS.items(), strict=True):
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


def _heat(ax: Axes, rows: pd.DataFrame, rates: list[str], pair: str, method: str, limit: float) -> None:
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


def _limits(values: pd.Series, chance: float) -> tuple[float, float]:
    low, high = min(chance, float(values.min())), max(chance, float(values.max()))
    return low - 0.04 * (high - low), high + 0.08 * (high - low)
