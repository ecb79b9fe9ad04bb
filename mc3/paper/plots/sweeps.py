"""Figures of tables: overview, differences; of sweeps, the study of worlds, ablations, tuning, objectives."""

import re
from itertools import cycle, product
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mc3.paper.plots.style import (
    DOTTED,
    GREY,
    NO,
    PAGE,
    PALETTE,
    YES,
    emphasised,
    figure,
    legend,
    line_styles,
    panels,
    styled,
    wrap,
)
from mc3.paper.tables import header, intervals, label

RATES = {"on_screen": "on-screen source", "off_screen": "off-screen source", "unseen": "actions not seen",
         "sounding": "sounding rate, × Table 1", "signal_db": "loudness of actions, dB",
         "misnarrated": "wrong narrations", "videos": "training videos"}  # fmt: skip
LOOKS = {"av": ("o", PALETTE[0]), "al": ("s", PALETTE[1])}
UNITS = {"signal_db": " dB", "sounding": " ×", "videos": ""}  # of a rate's value in words; all others are shares
USUAL = "as generated"  # the world with the profile's own rates
CLEAR_BLUE_RED = ListedColormap([(*to_rgb(c), 0.7 * abs(x)) for x in np.linspace(-1, 1, 255)
                                 for c in [PALETTE[1] if x < 0 else PALETTE[0]]])  # fmt: skip


def world_name(world: str) -> str:
    """A world in words: "signal_db -12, on_screen 0" is "louder actions -12 dB, on-screen source 0"."""
    parts = [part.rpartition(" ") for part in world.split(", ")]
    named = [f"{RATES[rate].split(',')[0]} {value}{UNITS.get(rate, '')}" for rate, _, value in parts if rate in RATES]
    return ", ".join(named) if len(named) == len(parts) else world


def gaps(table: pd.DataFrame) -> dict[str, str]:
    """The methods that a study's table has gaps of ("av_mc3_gap"), by name, with their labels less brackets."""
    names = [match[1] for column in table if (match := re.fullmatch(r"av_(\w+)_gap", str(column)))]
    return {name: label(name).split(" (")[0] for name in names}


@styled
def overview(table: pd.DataFrame, here: str = "here") -> Figure:
    """The main columns as bars from chance: ours (measured `here`) above, the paper's below, on scales of their own.

    `table`: `mc3.paper.tables.overview`. Only rows that the paper has are in the lower part.
    """
    parts = [(f"Measured {here}: mean and standard deviation over seeds", "ours", "random", table)]
    known = table.groupby("method")["paper"].transform("count") > 0
    parts += [("The paper's numbers, of Ego4D: other data, another scale", "paper", "paper_random", table[known])]
    parts = [part for part in parts if len(part[3])]
    heights = [0.15 * part[3]["method"].nunique() + 0.55 for part in parts]
    page = figure(PAGE, sum(heights), dpi=200)  # laid out as it is saved: hinting widens the labels
    halves = page.subfigures(len(parts), squeeze=False, height_ratios=heights)[:, 0]
    for half, (title, column, random, rows) in zip(halves, parts, strict=True):
        half.suptitle(title, fontsize=7.5, fontweight="bold", x=0.01, ha="left")
        _bars(half, rows, column, random)
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
    looks = list(zip(checkpoints, cycle("os^D"), strict=False))
    for ax, region, part in panels(page, here.sort_values("region", kind="stable"), "region", sharey=True):
        mean = part.groupby(["world", "checkpoint"])["roc"].mean().unstack().reindex(worlds)
        for checkpoint, marker in looks:
            colour = line_styles(checkpoints)[checkpoint]["color"]
            ax.plot(mean[checkpoint], range(len(worlds)), marker, color=colour, markersize=3, label=checkpoint)
        ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=DOTTED)
        ax.set(title=f"I against {region}")
    page.supxlabel("ROC of audio-video similarity")
    page.axes[0].set_yticks(range(len(worlds)), [world_name(world) for world in worlds])
    page.axes[0].set_ylim(len(worlds) - 0.5, -0.5)
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
    shown = pd.DataFrame({"World": worlds["world"].map(world_name), "Seeds": worlds["seeds"], "Prevalence": prevalence})
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
    ax.imshow(cells, cmap=CLEAR_BLUE_RED, vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(cells.to_numpy()):
        if np.isfinite(value):
            ax.text(column, row, f"{value:+.3f}", ha="center", va="center", fontsize=5.5)
    ax.set_xticks(range(cells.shape[1]), [f"{v:g}" for v in cells.columns])
    ax.set_yticks(range(cells.shape[0]), [f"{v:g}" for v in cells.index])
    ax.set(xlabel=RATES.get(x, x), ylabel=RATES.get(y, y), title=f"{header(pair)} gap, {gaps(rows)[method]}")
    ax.grid(False)


def _bars(page: Any, table: pd.DataFrame, column: str, random: str) -> None:
    """A panel a metric, a bar a method from `random` to `column`; a grey line is chance."""
    methods = table["method"].unique()
    y, styles = np.arange(len(methods)), line_styles(methods)
    colours = [styles[m]["color"] if styles[m]["linewidth"] > 1 else "#8FA8BD" for m in methods]
    for ax, metric, part in panels(page, table, "metric", sharey=True):
        rows = part.set_index("method").reindex(methods)
        chance = rows[random].iloc[0]
        ax.barh(y, rows[column] - chance, left=chance, height=0.66, color=colours)
        spread = rows["std"].fillna(0) if column == "ours" else 0 * y
        if column == "ours":
            ax.errorbar(rows[column], y, xerr=spread, fmt="none", ecolor="black", elinewidth=0.7)
        ax.axvline(chance, color=GREY, linewidth=0.8)
        ax.set(title=metric, xlim=_limits(pd.concat([rows[column] - spread, rows[column] + spread]), chance))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y", visible=False)
    page.axes[0].set_yticks(y, [wrap(m.split(" (")[0], 22, 1) for m in methods], fontsize=6)
    page.axes[0].set_ylim(len(methods) - 0.5, -0.5)


def _limits(values: pd.Series, chance: float) -> tuple[float, float]:
    low, high = min(chance, float(values.min())), max(chance, float(values.max()))
    return low - 0.04 * (high - low), high + 0.08 * (high - low)
