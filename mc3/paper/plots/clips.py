"""Figures of clips: cards of pictures and sound, clusters (Figure 6), retrieval (Figure 7), a map."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mc3.paper.plots.style import GREY, MARKERS, NO, ORANGE_INK, PAGE, PALETTE, YES, bare, figure, legend, styled, wrap

if TYPE_CHECKING:
    from mc3.data.shards import ClipDataset

THUMBNAIL, SPECTROGRAM = 80, (64, 43)  # pixels of a picture inside a figure, so that SVG files stay small


@styled
def clip_cards(clips: "ClipDataset", rows: Sequence[int], notes: Sequence[str]) -> Figure:
    """One card a row of `clips`: frames, waveform and log-mel under its narration and a note, such as its region."""
    cards = figure(PAGE, 1.02 * len(rows))
    axes = cards.subplots(len(rows), 3, squeeze=False, width_ratios=(3.4, 1.6, 1.6))
    for (left, middle, right), row, note in zip(axes, rows, notes, strict=True):
        frames = clips.frames(row)
        _picture(left, frames[np.linspace(0, len(frames) - 1, min(4, len(frames))).round().astype(int)])
        left.set_title(wrap(clips.index["text"].iloc[row], 60, 1), loc="left", pad=2)
        middle.set_title(note, loc="left", pad=2, fontweight="normal", color=GREY)
        samples, rate = clips.waveform(row)
        if len(samples):
            begins = np.array([part[0] for part in np.array_split(np.arange(len(samples)), min(300, len(samples)))])
            value = samples.astype(np.float32) / 32768
            ends = np.minimum.reduceat(value, begins), np.maximum.reduceat(value, begins)
            middle.fill_between(begins / rate, *ends, color=PALETTE[1], linewidth=0.3)
            middle.set(xlim=(0, (len(samples) - 1) / rate), ylim=(-1, 1), yticks=[-1, 0, 1])
            _spectrogram(right, clips.fbank(row))
        else:
            for ax in (middle, right):
                bare(ax)
                ax.text(0.5, 0.5, "no sound", ha="center", va="center", color=GREY)
    for ax in axes[:-1, 1]:
        ax.set_xticklabels([])
    middle.set_xlabel("seconds")
    right.set_xlabel("log-mel, 1.5 s" if not len(samples) else f"log-mel, {len(samples) / rate:.2g} s")
    return cards


@styled
def method(clips: "ClipDataset", examples: pd.DataFrame) -> Figure:
    """The method on real clips: what the three encoders get, and the similarities before and after refinement.

    `examples`, a row a clip: row (of `clips`), title, and for av and al the cosines {pair}_before and {pair}_after.
    """
    page = figure(PAGE, 1.12 * len(examples))
    axes = page.subplots(len(examples), 4, squeeze=False, width_ratios=(1, 1, 1.2, 1.8))
    ends = examples.filter(regex="_(before|after)$").to_numpy()
    for (left, middle, words, right), clip in zip(axes, examples.to_dict("records"), strict=True):
        frames = clips.frames(clip["row"])
        _picture(left, frames[len(frames) // 2][None])
        _spectrogram(middle, clips.fbank(clip["row"]))
        bare(words)
        words.text(0.5, 0.5, wrap(clips.index["text"].iloc[clip["row"]], 18, 4), ha="center", va="center")
        for y, pair, colour in ((1, "av", YES), (0, "al", NO)):
            before, after = clip[f"{pair}_before"], clip[f"{pair}_after"]
            right.annotate(
                "", (after, y), (before, y), arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.2}
            )
            right.plot(before, y, "o", color=colour, markersize=4)
        right.set(xlim=(ends.min() - 0.05, ends.max() + 0.05), ylim=(-0.6, 1.6), yticks=[1, 0])
        right.set_yticklabels(["audio-video", "audio-text"])
        right.set_title(clip["title"], loc="left", fontweight="normal", color=GREY)
    for ax, name in zip(axes[0], ("video encoder", "audio encoder", "text encoder"), strict=False):
        ax.set_title(name)
    axes[-1, 3].set_xlabel("cosine, from the align stage to MC3")
    return page


@styled
def clusters(clips: "ClipDataset", members: pd.DataFrame) -> Figure:
    """Figure 6: middle frame, log-mel, narration. `members`: cluster, row (of `clips`), title; in the order drawn."""
    groups = [rows for _, rows in members.groupby("cluster", sort=False)]
    page = figure(PAGE, 1.72 * len(groups))
    for panel, rows in zip(page.subfigures(len(groups), squeeze=False)[:, 0], groups, strict=True):
        panel.suptitle(rows["title"].iloc[0], fontsize=7.5, fontweight="bold", x=0.01, ha="left")
        axes = panel.subplots(2, max(map(len, groups)), squeeze=False, height_ratios=(1, 0.6))
        for top, bottom, row in zip(*axes, rows["row"], strict=False):
            frames = clips.frames(row)
            _picture(top, frames[len(frames) // 2][None])
            _spectrogram(bottom, clips.fbank(row), aspect=0.9)
            bottom.set_xlabel(wrap(clips.index["text"].iloc[row], 18, 3), fontsize=5.2, labelpad=2)
        for ax in axes[:, len(rows) :].ravel():
            ax.set_axis_off()
    return page


@styled
def retrieval(clips: "ClipDataset", examples: pd.DataFrame) -> Figure:
    """Figure 7: queries and their first results, correct ones framed blue, of rows of `findings.retrieved`."""
    queries = list(examples.groupby(["direction", "query"], sort=False))
    depth = max(len(results) for _, results in queries)
    heights = [1.12 if direction.startswith("video") else 0.86 for (direction, _), _ in queries]
    page = figure(PAGE, sum(heights) + 0.15)
    panels = page.subfigures(len(queries), squeeze=False, height_ratios=heights)[:, 0]
    text = clips.index["text"]
    for panel, ((direction, query), results) in zip(panels, queries, strict=True):
        grid = panel.add_gridspec(1, 1 + depth, width_ratios=[1.75, *[1] * depth])
        left, to_audio = panel.add_subplot(grid[0]), direction.startswith("video")
        left.set_title(direction, loc="left", pad=2, fontsize=6.5)
        if to_audio:
            frames = clips.frames(query)
            _picture(left, frames[[len(frames) // 4, (3 * len(frames)) // 4]])
        else:
            _spectrogram(left, clips.fbank(query), aspect=0.75)
            words = panel.add_subplot(grid[1:])
            words.set_axis_off()
        for k, item in enumerate(results.itertuples()):
            verdict, colour, ink = ("correct", YES, YES) if item.correct else ("wrong", NO, ORANGE_INK)
            if to_audio:
                ax = panel.add_subplot(grid[1 + k])
                _spectrogram(ax, clips.fbank(item.retrieved))
                ax.spines[:].set(visible=True, color=colour, linewidth=1.4)
                ax.set_title(f"{item.rank} {verdict}", loc="left", pad=2, fontsize=6, fontweight="normal", color=ink)
                ax.set_xlabel(wrap(text.iloc[item.retrieved], 24, 2), fontsize=5.8, color=GREY, labelpad=2)
            else:
                y = 1 - (k + 0.5) / depth
                words.text(0.02, y, f"{item.rank} {verdict}", va="center", color=ink, fontsize=6)
                words.text(0.17, y, wrap(text.iloc[item.retrieved], 70, 1), va="center")
        note = f"{wrap(text.iloc[query], 46, 1)}\nfirst correct at rank {results['first_correct'].iloc[0]}"
        left.set_xlabel(note, fontsize=5.8, color=GREY, labelpad=2)
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
    legend(page, "right upper")
    return page


def _picture(ax: Axes, frames: np.ndarray) -> None:
    """Frames [T, H, W, 3] side by side, shrunk so that the file is small at any frame size."""
    height, width = frames.shape[1:3]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = np.concatenate([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames], axis=1)
    few = Image.fromarray(strip).quantize(16 + 16 * len(frames), dither=Image.Dither.NONE).convert("RGB")
    ax.imshow(np.asarray(few), interpolation="none", aspect="equal")
    bare(ax)


def _spectrogram(ax: Axes, fbank: np.ndarray, aspect: Any = "auto") -> None:
    """Log-mel [L, mel], time to the right, low frequencies below, scaled to its own 1st .. 99.9th percentile."""
    low, high = np.percentile(fbank.astype(np.float32), [1, 99.9])
    levels = np.clip((fbank.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    grey = Image.fromarray((levels.T[::-1] * 255).astype(np.uint8))
    small = np.asarray(grey.resize(SPECTROGRAM, Image.Resampling.BOX))
    ax.imshow(small // 12, cmap="magma", vmin=0, vmax=21, interpolation="none", aspect=aspect)
    bare(ax)
