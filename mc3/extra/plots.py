"""Figures of the experiments beyond the paper, in `mc3.paper.plots`' style."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mc3.paper.plots.style import DOTTED, GREY, PAGE, PALETTE, YES, figure, styled, wrap


@styled
def real_audio(table: pd.DataFrame) -> Figure:
    """Accuracy of each kind of features on real recordings, by encoder, alone and with log-mel statistics.

    `table`: method, log_mel, accuracy, vs_log_mel_low, vs_log_mel_high. The last two bound the difference to the row
    "log-mel"; a bar is drawn from that row's line and clears it where the difference is significant.
    """
    alone = table["method"].isin(["chance", "log-mel"])
    chance, base = (float(table.loc[table["method"] == m, "accuracy"].iloc[0]) for m in ("chance", "log-mel"))
    names = list(dict.fromkeys(table.loc[~alone, "method"]))
    page = figure(PAGE * 0.75, 0.25 * len(names) + 0.95)
    ax = page.subplots()
    handles = []
    for shift, both, label, colour, marker in (
        (-0.15, False, "encoder alone", PALETTE[1], "o"), (0.15, True, "with log-mel statistics", PALETTE[0], "D")
    ):  # fmt: skip
        rows = table[~alone & (table["log_mel"] == both)].set_index("method").reindex(names)
        y = np.arange(len(names)) + shift
        ax.hlines(y, base + rows["vs_log_mel_low"], base + rows["vs_log_mel_high"], color=colour, linewidth=0.9)
        handles += ax.plot(rows["accuracy"], y, marker, color=colour, markersize=3.6, label=label)
    handles.append(ax.axvline(base, color="black", linewidth=0.9, label="log-mel statistics"))
    handles.append(ax.axvline(chance, color=GREY, linewidth=0.9, linestyle=DOTTED, label="chance"))
    ax.set_yticks(np.arange(len(names)), [wrap(name, 30, 2) for name in names], linespacing=0.9)
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="accuracy; bars: 95 % interval against log-mel")
    ax.grid(axis="y", visible=False)
    page.legend(handles=handles, loc="outside lower center", ncols=4)
    return page


@styled
def narrated(scores: pd.DataFrame, verbs: pd.DataFrame, at_least: int = 50) -> Figure:
    """Left, how often each verb's narrations sound, and by chance; right, each score over all pairs and within a verb.

    Args:
        scores: score, roc, within_verb and their _low and _high.
        verbs: verb, narrations, sounding, shifted, most frequent first.
        at_least: narrations of a verb that is drawn; the most frequent one always is.
    """
    verbs = verbs[(verbs["narrations"] >= at_least) | (verbs.index == verbs.index[0])]
    page = figure(PAGE, max(2.4, 0.125 * len(verbs) + 0.8))
    left, right = page.subplots(1, 2, width_ratios=(1.15, 1))
    y = np.arange(len(verbs))
    left.hlines(y, verbs["shifted"], verbs["sounding"], color="#C8C8C8", linewidth=1.4)
    left.plot(verbs["shifted"], y, "o", color=GREY, markersize=3.4, label="shifted in time (chance)", clip_on=False)
    left.plot(verbs["sounding"], y, "D", color=YES, markersize=3.4, label="as narrated", clip_on=False)
    names = [f"{verb} ({n})" for verb, n in zip(verbs["verb"], verbs["narrations"], strict=True)]
    left.set_yticks(y, names)
    left.set(xlim=(0, 1), ylim=(len(verbs) - 0.5, -0.5), xlabel="share with a compatible sound")
    y = np.arange(len(scores))
    for shift, metric, label, colour, marker in (
        (-0.13, "roc", "all narrations", PALETTE[1], "o"), (0.13, "within_verb", "within a verb", PALETTE[0], "D")
    ):  # fmt: skip
        right.hlines(y + shift, scores[f"{metric}_low"], scores[f"{metric}_high"], color=colour, linewidth=0.9)
        right.plot(scores[metric], y + shift, marker, color=colour, markersize=3.6, label=label)
    right.axvline(0.5, color=GREY, linewidth=0.9, linestyle=DOTTED)
    right.set_yticks(y, scores["score"])
    right.set(ylim=(len(scores) - 0.5, -0.5), xlabel="ROC area; bars: 95 % interval over videos")
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    page.legend(handles=handles, loc="outside upper center", ncols=4)
    return page
