"""What `mc3 study`, `ablate` and `tune` show of their tables: figures in `mc3.plots`' style, and words."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mc3.paper.plots import GREY, PAGE, PALETTE, STYLE

NAMES = {"av": "AV", "al": "AL"}
RATES = {
    "on_screen": "on-screen source",
    "off_screen": "off-screen source",
    "unseen": "actions not seen",
    "sounding": "sounding rate, × Table 1",
    "signal_db": "louder actions, dB",
    "misnarrated": "wrong narrations",
    "videos": "training videos",
}
"""What the study's axes are, in words."""
GAPS = {"gap": "MC3", "peers_gap": "Peers"}
"""The columns of `mc3 study`'s tables with gaps to w/o consensus, and whose they are."""
LOOKS = {"av": ("o", PALETTE[0]), "al": ("s", PALETTE[1])}


@mpl.rc_context(STYLE)
def study(gaps: pd.DataFrame) -> Figure:
    """Curves of the gap by one rate at a time, and heat maps of the rates that were varied together.

    `gaps`: point, a column a rate, seed, av_gap, al_gap and their _low and _high, av_peers_gap and al_peers_gap. A
    small mark is a seed with its 95 % interval over videos, the line their mean, and the dashed line that of Peers; a
    cell of a heat map is the mean over seeds.
    """
    base = gaps[gaps["point"] == "as generated"]
    varied = {point: point.split(", ") for point in gaps["point"].unique() if point != "as generated"}
    axes = list(dict.fromkeys(words[0].split(" ")[0] for words in varied.values() if len(words) == 1))
    pairs = list(dict.fromkeys(tuple(w.split(" ")[0] for w in words) for words in varied.values() if len(words) == 2))
    columns = 4
    rows = -(-len(axes) // columns)
    figure = Figure(figsize=(PAGE, 1.7 * (rows + bool(pairs)) + 0.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(rows, 1.15 if pairs else 0.01))
    upper, lower = parts
    grid = upper.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, axes, strict=False):
        single = gaps["point"].map(lambda point, name=name: point.startswith(f"{name} ") and ", " not in point)
        _curve(ax, pd.concat([base, gaps[single]]), name)
    for ax in grid[len(axes) :]:
        ax.set_visible(False)
    for ax in grid[::columns]:
        ax.set_ylabel("ROC gap to w/o consensus")
    if axes:
        upper.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    if pairs:
        limit = float(gaps[["av_gap", "al_gap"]].abs().max().max())
        maps = lower.subplots(1, 2 * len(pairs), squeeze=False)[0]
        rates = list(gaps.columns[1 : list(gaps.columns).index("seed")])
        for at, pair in enumerate(pairs):
            others = [name for name in rates if name not in pair]
            here = gaps[(gaps[others] == base[others].iloc[0]).all(axis=1)]
            for ax, metric in zip(maps[2 * at : 2 * at + 2], NAMES, strict=True):
                _heat(ax, here, pair, f"{metric}_gap", limit)
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    reach = float(rows[name].max() - rows[name].min()) or 1.0
    for shift, metric in ((-0.012, "av"), (0.012, "al")):
        marker, colour = LOOKS[metric]
        x = rows[name] + shift * reach
        ax.vlines(x, rows[f"{metric}_gap_low"], rows[f"{metric}_gap_high"], color=colour, linewidth=0.6, alpha=0.6)
        ax.plot(x, rows[f"{metric}_gap"], marker, color=colour, markersize=2.2)
        mean = rows.groupby(name)[f"{metric}_gap"].mean()
        ax.plot(mean.index, mean, color=colour, label=f"{NAMES[metric]}, MC3")
        mean = rows.groupby(name)[f"{metric}_peers_gap"].mean()
        ax.plot(mean.index, mean, color=colour, linestyle=(0, (3, 2)), linewidth=0.9, label=f"{NAMES[metric]}, Peers")
    ax.set_xlabel(RATES.get(name, name))


def _heat(ax: Axes, rows: pd.DataFrame, pair: tuple[str, ...], column: str, limit: float) -> None:
    x, y = pair
    cells = rows.pivot_table(index=y, columns=x, values=column, aggfunc="mean").sort_index(ascending=False)
    ax.imshow(cells, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column_number), value in np.ndenumerate(cells.to_numpy()):
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 * limit else "black"
            ax.text(column_number, row, f"{value:+.3f}", ha="center", va="center", fontsize=5.5, color=ink)
    ax.set_xticks(range(cells.shape[1]), [f"{v:g}" for v in cells.columns])
    ax.set_yticks(range(cells.shape[0]), [f"{v:g}" for v in cells.index])
    ax.set(xlabel=RATES.get(x, x), ylabel=RATES.get(y, y), title=f"{NAMES[column.split('_')[0]]} gap, MC3")
    ax.grid(False)


@mpl.rc_context(STYLE)
def study_regions(regions: pd.DataFrame) -> Figure:
    """How well audio-video similarity tells region I from each other region, before and after refinement.

    `regions`: point, checkpoint, pair, region, roc, a row a seed. One panel a region, a row a point, a mark a
    checkpoint: the mean over seeds.
    """
    here = regions[(regions["pair"] == "audio-video") & (regions["region"] != "I")]
    names, shown = list(dict.fromkeys(here["point"])), sorted(here["region"].unique())
    checkpoints = list(dict.fromkeys(here["checkpoint"]))
    figure = Figure(figsize=(PAGE, 0.16 * len(names) + 1.0), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    y, colours = np.arange(len(names)), (GREY, PALETTE[1], PALETTE[0], PALETTE[2])
    for ax, region in zip(axes, shown, strict=True):
        mean = here[here["region"] == region].groupby(["point", "checkpoint"])["roc"].mean().unstack().reindex(names)
        for checkpoint, marker, colour in zip(checkpoints, "os^D", colours, strict=False):
            ax.plot(mean[checkpoint], y, marker, color=colour, markersize=3, label=checkpoint)
        ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set(title=f"I against {region}")
    figure.supxlabel("ROC of audio-video similarity")
    axes[0].set_yticks(y, names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(checkpoints))
    return figure


@mpl.rc_context(STYLE)
def ablations(table: pd.DataFrame) -> Figure:
    """Test ROCs of MC3 by setting, a panel an ablation; the profile's own setting has a line to compare with.

    `table`: ablation, setting, profile, seed, av_roc, al_roc. A small mark is a seed, a large one their mean. All
    panels have the same scale.
    """
    values = table[["av_roc", "al_roc"]]
    span = (values.min(axis=None) - 0.01, values.max(axis=None) + 0.01)
    names = list(dict.fromkeys(table["ablation"]))
    counts = [table.loc[table["ablation"] == name, "setting"].nunique() for name in names]
    columns = 2
    rows = -(-len(names) // columns)
    heights = [max(counts[columns * row : columns * (row + 1)]) + 3 for row in range(rows)]
    figure = Figure(figsize=(PAGE, 0.135 * sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel()
    for ax, name in zip(grid, names, strict=False):
        here = table[table["ablation"] == name]
        settings = list(dict.fromkeys(here["setting"]))
        for metric, (marker, colour) in LOOKS.items():
            value = f"{metric}_roc"
            usual = here.loc[here["profile"], value]
            if len(usual):
                ax.axvline(usual.mean(), color=colour, linewidth=0.7, linestyle=(0, (1, 2)))
            mean = here.groupby("setting")[value].mean().reindex(settings)
            ax.plot(here[value], here["setting"].map(settings.index), marker, color=colour, markersize=2, alpha=0.5)
            ax.plot(mean, range(len(settings)), marker, color=colour, markersize=4, label=f"{NAMES[metric]} ROC")
        ax.set_yticks(range(len(settings)), settings)
        ax.set(title=name, xlim=span, ylim=(len(settings) - 0.5, -0.5))
    for ax in grid[len(names) :]:
        ax.set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def tuning(table: pd.DataFrame) -> Figure:
    """Every trial of every method on validation, the chosen one filled; one panel a pair of modalities.

    `table`: label, chosen, validation_av_roc, validation_al_roc.
    """
    labels = list(dict.fromkeys(table["label"]))
    figure = Figure(figsize=(PAGE, 0.2 * len(labels) + 0.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (metric, (marker, colour)) in zip(axes, LOOKS.items(), strict=True):
        y = table["label"].map(labels.index)
        for best, fill in ((False, "none"), (True, colour)):
            part = table["chosen"] == best
            ax.plot(
                table.loc[part, f"validation_{metric}_roc"],
                y[part],
                marker,
                color=colour,
                markerfacecolor=fill,
                markersize=4,
            )
        ax.set(title=f"{NAMES[metric]} ROC, validation", ylim=(len(labels) - 0.5, -0.5))
    axes[0].set_yticks(range(len(labels)), labels)
    return figure


def study_cells(points: pd.DataFrame) -> pd.DataFrame:
    """`study_points.csv` as text: each world with its gaps to w/o consensus and their intervals."""
    prevalence = points["prevalence"].map("{:.2f}".format)
    shown = pd.DataFrame({"World": points["point"], "Seeds": points["seeds"], "Prevalence": prevalence})
    for column, name in GAPS.items():
        for pair, short in NAMES.items():
            value, low, high = (points[f"{pair}_{column}{end}"].map("{:+.3f}".format) for end in ("", "_low", "_high"))
            shown[f"{name}, {short} ROC"] = value + " [" + low + ", " + high + "]"
    return shown


def study_told(points: pd.DataFrame) -> str:
    """What `study_points.csv` says: in how many worlds each gap is above 0, and with which rate MC3's changes most."""
    sentences = []
    for column, name in GAPS.items():
        for pair, short in NAMES.items():
            gaps, low, high = (points[f"{pair}_{column}{end}"] for end in ("", "_low", "_high"))
            worlds = f"{(gaps > 0).sum()} of {len(points)} worlds (its interval in {(low > 0).sum()})"
            below = f"and its interval is below in {(high < 0).sum()}"
            sentences.append(f"{name} is above w/o consensus in {short} ROC in {worlds}, {below}")
    rates = list(points.columns[1 : list(points.columns).index("seeds")])
    usual = points[points["point"] == "as generated"]
    varied = {}
    for rate in rates if len(usual) else ():
        others = [other for other in rates if other != rate]
        rows = points[(points[others] == usual[others].iloc[0]).all(axis=1)].sort_values(rate)
        if len(rows) > 1:
            varied[rate] = rows
    if varied:
        width = {rate: float(rows["av_gap"].max() - rows["av_gap"].min()) for rate, rows in varied.items()}
        most, least = max(width, key=width.__getitem__), min(width, key=width.__getitem__)
        steps = ", ".join(f"{row[most]:g}: {row['av_gap']:+.3f}" for row in varied[most].to_dict("records"))
        narrow = f"least with {RATES.get(least, least)} (by {width[least]:.3f})"
        sentences.append(f"MC3's gap in AV ROC changes most with {RATES.get(most, most)} ({steps}) and {narrow}")
    return ". ".join(sentences) + "."


def ablations_told(table: pd.DataFrame) -> str:
    """What `ablations.csv` says: of each ablation the range of both test ROCs and the settings that are highest."""
    sentences = []
    for name, group in table.groupby("ablation", sort=False):
        usual = set(group.loc[group["profile"], "setting"])
        said = []
        for metric, short in NAMES.items():
            mean = group.groupby("setting", sort=False)[f"{metric}_roc"].mean()
            best = list(mean.index[mean.round(5) == mean.round(5).max()])
            own = " (the profile's)" if usual & set(best) else ""
            said.append(
                f"{short} ROC {mean.min():.3f} to {mean.max():.3f}, highest with {' or '.join(map(str, best))}{own}"
            )
        sentences.append(f"{name}: {'; '.join(said)}")
    seeds = table["seed"].nunique()
    alone = " With one seed, settings close to each other are not told apart." if seeds == 1 else ""
    return f"{'. '.join(sentences)}.{alone}"


def tuning_told(table: pd.DataFrame) -> str:
    """What `tuning.csv` says: the methods by test ROC with their chosen settings, and with the profile's."""
    sentences = []
    for metric, short in NAMES.items():
        column = f"test_{metric}_roc"
        usual = table[table["trial"] == 0].set_index("label")[column]
        tuned = table[table["chosen"]].set_index("label")[column].dropna().sort_values(ascending=False)
        said = [f"{label} {value:.3f} ({usual[label]:.3f})" for label, value in tuned.items()]
        sentences.append(f"{short} ROC on test, tuned (and with the profile's settings): {', '.join(said)}")
    trials = table.groupby("method").size().iloc[0]
    return f"{trials} trials each. {'. '.join(sentences)}."


def objectives_told(table: pd.DataFrame) -> str:
    """What `objectives.csv` says: which objective is best, and which others are told apart from MC3."""
    best = table.iloc[0]
    span = f"{best['difference']:+.3f} to MC3 in the mean of both ROCs [{best['low']:+.3f}, {best['high']:+.3f}]"
    ahead = f", {span}" if best["objective"] != "mc3" else ""
    said = [f"Best on validation over {best['seeds']} seeds: {best['label']}{ahead}"]
    others = table[(table["objective"] != "mc3") & (table.index != table.index[0])]
    above, below = others["low"] > 0, others["high"] < 0
    groups = {"also above MC3": above, "below MC3": below, "not to be told from MC3": ~(above | below)}
    said += [f"{words}: {', '.join(others.loc[which, 'label'])}" for words, which in groups.items() if which.any()]
    return "; ".join(said) + "."
