"""Figures of the experiments beyond the paper, in `mc3.paper.plots`' style."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mc3.paper.plots.style import DOTTED, GREY, PAGE, PALETTE, YES, figure, styled, wrap


def _pairs(ax: Axes, names: Sequence[str], series: Sequence[tuple], shift: float, **text: Any) -> None:
    """A line for each of `names`, with a dot and its interval of both `series` (label, values, lows, highs)."""
    y = np.arange(len(names))
    looks = ((y - shift, PALETTE[1], "o"), (y + shift, PALETTE[0], "D"))
    for (at, colour, marker), (label, values, lows, highs) in zip(looks, series, strict=True):
        ax.hlines(at, lows, highs, color=colour, linewidth=0.9)
        ax.plot(values, at, marker, color=colour, markersize=3.6, label=label)
    ax.set_yticks(y, names, **text)
    ax.set_ylim(len(names) - 0.5, -0.5)


@styled
def real_audio(table: pd.DataFrame) -> Figure:
    """Accuracy of each kind of features on real recordings, by encoder, alone and with log-mel statistics.

    `table`: method, log_mel, accuracy, vs_log_mel_low, vs_log_mel_high. The last two bound the difference to the row
    "log-mel": a bar clears that row's line where the difference is significant.
    """
    alone = table["method"].isin(["chance", "log-mel"])
    chance, base = (float(table.loc[table["method"] == m, "accuracy"].iloc[0]) for m in ("chance", "log-mel"))
    names = list(dict.fromkeys(table.loc[~alone, "method"]))
    page = figure(PAGE * 0.75, 0.25 * len(names) + 0.95)
    ax = page.subplots()
    series = []
    for label, both in (("encoder alone", False), ("with log-mel statistics", True)):
        rows = table[~alone & (table["log_mel"] == both)].set_index("method").reindex(names)
        series.append((label, rows["accuracy"], base + rows["vs_log_mel_low"], base + rows["vs_log_mel_high"]))
    _pairs(ax, [wrap(name, 30, 2) for name in names], series, 0.15, linespacing=0.9)
    ax.axvline(base, color="black", linewidth=0.9, label="log-mel statistics")
    ax.axvline(chance, color=GREY, linewidth=0.9, linestyle=DOTTED, label="chance")
    ax.set(xlim=(0, 1), xlabel="accuracy; bars: 95 % interval against log-mel")
    ax.grid(axis="y", visible=False)
    page.legend(handles=ax.get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    return page


@styled
def narrated(scores: pd.DataFrame, verbs: pd.DataFrame, at_least: int = 50) -> Figure:
    """Left, how often each verb's narrations sound, and by chance; right, each score over all pairs and within a verb.

    `scores`: score, roc, within_verb and their _low and _high. `verbs`: verb, narrations, sounding, shifted, most
    frequent first; a verb of `at_least` narrations is drawn, and the first one always.
    """
    verbs = verbs[(verbs["narrations"] >= at_least) | (verbs.index == verbs.index[0])]
    page = figure(PAGE, max(2.4, 0.125 * len(verbs) + 0.8))
    left, right = page.subplots(1, 2, width_ratios=(1.15, 1))
    y = np.arange(len(verbs))
    left.hlines(y, verbs["shifted"], verbs["sounding"], color="#C8C8C8", linewidth=1.4)
    left.plot(verbs["shifted"], y, "o", color=GREY, markersize=3.4, label="shifted in time (chance)", clip_on=False)
    left.plot(verbs["sounding"], y, "D", color=YES, markersize=3.4, label="as narrated", clip_on=False)
    left.set_yticks(y, verbs["verb"] + " (" + verbs["narrations"].astype(str) + ")")
    left.set(xlim=(0, 1), ylim=(len(verbs) - 0.5, -0.5), xlabel="share with a compatible sound")
    metrics = (("all narrations", "roc"), ("within a verb", "within_verb"))
    series = [(label, *(scores[f"{metric}{end}"] for end in ("", "_low", "_high"))) for label, metric in metrics]
    _pairs(right, scores["score"], series, 0.13)
    right.axvline(0.5, color=GREY, linewidth=0.9, linestyle=DOTTED)
    right.set(xlabel="ROC area; bars: 95 % interval over videos")
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    page.legend(handles=handles, loc="outside upper center", ncols=4)
    return page


@styled
def hits(table: pd.DataFrame, chance: str, reference: str) -> Figure:
    """The share of sounding actions among the moments that each scorer finds, with intervals over videos.

    `table`: scorer, share, share_low, share_high, best first; lines mark the scorers `chance` and `reference`.
    """
    page = figure(PAGE * 0.75, 0.25 * len(table) + 0.95)
    ax = page.subplots()
    y = np.arange(len(table))
    ax.hlines(y, table["share_low"], table["share_high"], color=PALETTE[0], linewidth=0.9)
    ax.plot(table["share"], y, "o", color=PALETTE[0], markersize=3.6)
    for name, colour, style in ((reference, "black", "-"), (chance, GREY, DOTTED)):
        own = float(table.loc[table["scorer"] == name, "share"].iloc[0])
        ax.axvline(own, color=colour, linewidth=0.9, linestyle=style, label=name)
    ax.set_yticks(y, list(table["scorer"]))
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set(xlim=(0, 1), xlabel="share of sounding actions; bars: 95 % interval over videos")
    ax.grid(axis="y", visible=False)
    page.legend(handles=ax.get_legend_handles_labels()[0], loc="outside lower center", ncols=2)
    return page


@styled
def mined(table: pd.DataFrame) -> Figure:
    """The share of sounding clips among the best ones of each method, by how many are kept.

    `table`: method, keep, sounding; each method has a row that keeps all, which is the base rate.
    """
    page = figure(PAGE * 0.6, 2.2)
    ax = page.subplots()
    for (name, own), colour in zip(table.groupby("method", sort=False), PALETTE, strict=False):
        ax.plot(own["keep"], own["sounding"], color=colour, label=str(name))
    ax.axhline(
        float(table.loc[table["keep"] == 1, "sounding"].iloc[0]), color=GREY, linestyle=DOTTED, label="all clips"
    )
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the clips kept", ylabel="share that sounds")
    page.legend(handles=ax.get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return page


@styled
def timeline(videos: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, np.ndarray]]) -> Figure:
    """Along each video, the curve of z (or of the cosine) with the best moments, above the spectrogram.

    By file name: the best moments and all windows (`mc3.discover.moments`), and log-mel energies [mel, time].
    """
    page = figure(PAGE, 2.1 * len(videos))
    for row, (name, (best, windows, energy)) in zip(
        page.subfigures(len(videos), 1, squeeze=False), videos.items(), strict=True
    ):
        above, below = row[0].subplots(2, 1, sharex=True, height_ratios=(2, 1))
        column = "z" if windows["z"].notna().any() else "similarity"
        middle = (windows["start_sec"] + windows["end_sec"]) / 2
        above.plot(middle, windows[column], color=PALETTE[0], linewidth=0.9)
        above.plot((best["start_sec"] + best["end_sec"]) / 2, best[column], "o", color=PALETTE[1], markersize=3.6)
        above.set(ylabel="z" if column == "z" else "cosine")
        above.set_title(name.replace("$", r"\$"), loc="left")
        span = (0.0, float(windows["end_sec"].max()), 0, len(energy))
        below.imshow(energy, aspect="auto", origin="lower", cmap="Greys", extent=span)
        below.set(xlabel="seconds", ylabel="mel band", xlim=span[:2])
        below.grid(visible=False)
    return page
