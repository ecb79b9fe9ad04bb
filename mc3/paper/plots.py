"""The figures: one style, one function a figure, numbers in and a matplotlib `Figure` out.

Sizes are those of the paper's page (column 3.25 in, text 6.875 in), the colours are Okabe and
Ito's, told apart also by line style or marker, and `save` writes the same bytes for the same
numbers. Nothing here computes a result: what is drawn is written beside it as CSV by the notebook.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image

COLUMN, PAGE = 3.25, 6.875
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7570B3", "#8A8A8A")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2, 1, 2)))
MARKERS = "osD^vPX*"
GREY, YES, NO = "#6A6A6A", "#0072B2", "#D55E00"
THUMBNAIL, SPECTROGRAM = 80, (64, 43)  # pixels of a picture inside a figure, so that SVG files stay small

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "text.parse_math": False,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}
SAVE: Any = {"svg.hashsalt": "mc3", "svg.fonttype": "path", "savefig.facecolor": "white"}


class Clips(Protocol):
    """What the pictures read of clips; `mc3.data.shards.ClipDataset` is one."""

    index: pd.DataFrame

    def frames(self, i: int) -> np.ndarray:
        """Row `i`'s frames, uint8 [T, H, W, 3]."""

    def waveform(self, i: int) -> tuple[np.ndarray, int]:
        """Row `i`'s sound, int16 [S], and its rate in Hz."""

    def fbank(self, i: int) -> np.ndarray:
        """Row `i`'s log-mel spectrogram [L, mel]."""


def save(figure: Figure, stem: str | Path, dpi: int = 200) -> Path:
    """Write `stem`.png and `stem`.svg, byte for byte the same for the same figure; return the PNG's path.

    With pictures inside, a lower `dpi` keeps the PNG small; the SVG does not depend on it.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()  # lays out once; the two files share it
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the layout's last digits depend on where things lie in memory, and SVG's ids on all digits
        ax.set_position(np.round(ax.get_position(original=True).bounds, 9))
    formats: dict[str, dict[str, Any]] = {
        ".svg": {"metadata": {"Date": None, "Creator": None}},
        ".png": {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}},
    }
    with mpl.rc_context(SAVE):
        for suffix, options in formats.items():
            part = stem.with_name(f".{stem.name}.partial{suffix}")
            figure.savefig(part, dpi=dpi, **options)
            part.replace(stem.with_name(stem.name + suffix))
    return stem.with_name(stem.name + ".png")


def _figure(width: float, height: float, **kwargs: Any) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", **kwargs)


def _wrap(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(str(text), width, max_lines=lines, placeholder=" …"))


def _picture(ax: Axes, frames: np.ndarray) -> None:
    """Frames [T, H, W, 3] side by side, made small: a figure's file stays small whatever the profile's frame size."""
    height, width = frames.shape[1:3]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = np.concatenate([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames], axis=1)
    few = Image.fromarray(strip).quantize(24 + 16 * len(frames), dither=Image.Dither.NONE).convert("RGB")
    ax.imshow(np.asarray(few), interpolation="none", aspect="equal")
    _bare(ax)


def _spectrogram(ax: Axes, fbank: np.ndarray, aspect: Any = "auto") -> None:
    """Log-mel [L, mel], time to the right, low tones below; scaled to the clip's own 1st .. 99.9th percentile."""
    low, high = np.percentile(fbank.astype(np.float32), [1, 99.9])
    levels = np.clip((fbank.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    grey = Image.fromarray((levels.T[::-1] * 255).astype(np.uint8))
    small = np.asarray(grey.resize(SPECTROGRAM, Image.Resampling.BOX))
    ax.imshow(small // 12, cmap="magma", vmin=0, vmax=21, interpolation="none", aspect=aspect)
    _bare(ax)


def _verdict(item: Any) -> str:
    return f"{item.rank} {'correct' if item.correct else 'wrong'}"


def _colour(item: Any) -> str:
    return YES if item.correct else NO


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _styles(methods: Sequence[str], strong: str) -> dict[str, dict[str, Any]]:
    """Colour, line style and width of each method: `strong` is solid, wide, drawn last and has the first colour."""
    others = [m for m in methods if m != strong]
    looks = zip(cycle(PALETTE[1:]), cycle(DASHES[1:]))
    styles = {m: {"color": c, "linestyle": d, "linewidth": 1} for m, (c, d) in zip(others, looks, strict=False)}
    return {**styles, strong: {"color": PALETTE[0], "linestyle": "-", "linewidth": 2}}


def _frame(ax: Axes, colour: str, width: float = 1.4) -> None:
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)


@mpl.rc_context(STYLE)
def clip_cards(clips: Clips, rows: Sequence[int], notes: Sequence[str]) -> Figure:
    """One card a row of `clips`: its frames, waveform and log-mel spectrogram under its narration and a note.

    Args:
        clips: where frames and sound are read.
        rows: rows of `clips`.
        notes: one line a card, such as its region and label.
    """
    figure = _figure(PAGE, 1.02 * len(rows))
    grid = figure.add_gridspec(len(rows), 3, width_ratios=(3.4, 1.6, 1.6))
    for k, (row, note) in enumerate(zip(rows, notes, strict=True)):
        frames = clips.frames(row)
        left, middle, right = (figure.add_subplot(grid[k, j]) for j in range(3))
        _picture(left, frames[np.linspace(0, len(frames) - 1, min(4, len(frames))).round().astype(int)])
        left.set_title(_wrap(clips.index["text"].iloc[row], 60, 1), loc="left", pad=2)
        middle.set_title(note, loc="left", pad=2, fontweight="normal", color=GREY)
        samples, rate = clips.waveform(row)
        if len(samples):
            seconds = np.arange(len(samples)) / rate
            bins = np.array_split(np.arange(len(samples)), min(300, len(samples)))
            value = samples.astype(np.float32) / 32768
            middle.fill_between(
                [seconds[b[0]] for b in bins], [value[b].min() for b in bins], [value[b].max() for b in bins],
                color=PALETTE[1], linewidth=0.3,
            )  # fmt: skip
            middle.set(xlim=(0, seconds[-1]), ylim=(-1, 1), yticks=[-1, 0, 1])
            _spectrogram(right, clips.fbank(row))
        else:
            for ax in (middle, right):
                _bare(ax)
                ax.text(0.5, 0.5, "no sound", ha="center", va="center", color=GREY, transform=ax.transAxes)
        if k < len(rows) - 1:
            middle.set_xticklabels([])
    middle.set_xlabel("seconds")
    right.set_xlabel("log-mel, 1.5 s" if not len(samples) else f"log-mel, {len(samples) / rate:.2g} s")
    return figure


@mpl.rc_context(STYLE)
def sounding_rates(table: pd.DataFrame) -> Figure:
    """Table 1 as bars. `table`: verb, sounding_rate, paper (may be missing), n, in the order drawn (first on top)."""
    figure = _figure(COLUMN, 0.17 * len(table) + 0.75)
    ax = figure.subplots()
    y = np.arange(len(table))
    ax.barh(y, table["sounding_rate"], height=0.62, color=PALETTE[1], label="measured here")
    known = table["paper"].notna().to_numpy()
    if known.any():
        ax.plot(table["paper"][known], y[known], "D", color=PALETTE[0], markersize=4, label="paper", clip_on=False)
    for k, (rate, n) in enumerate(zip(table["sounding_rate"], table["n"], strict=True)):
        if rate > 0.12:
            ax.text(0.012, k, f"n={n}", va="center", color="white", fontsize=5.5)
        else:
            ax.text(rate + 0.045, k, f"n={n}", va="center", color=GREY, fontsize=5.5)
    ax.set_yticks(y, table["verb"])
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share of clips whose action sounds")
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def long_tail(counts: pd.DataFrame, named: int = 9) -> Figure:
    """Figure 4. `counts`: action_group, count, most frequent first; `named` groups along the curve get their name."""
    figure = _figure(COLUMN, 2.2)
    ax = figure.subplots()
    rank = np.arange(1, len(counts) + 1)
    ax.fill_between(rank, counts["count"], step="mid", color=PALETTE[1], alpha=0.85, linewidth=0)
    ax.set(xlim=(0.5, len(counts) + 0.5), xlabel="action groups (verb + noun), by frequency", ylabel="sounding clips")
    ax.set_ylim(0, counts["count"].max() * 1.06)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    marks = np.unique(np.linspace(0, 0.92 * (len(counts) - 1), named).round().astype(int))
    top = counts["count"].max()
    for k, row in enumerate(marks):
        count = counts["count"].iloc[row]
        high = max(count, top * (0.93 - 0.80 * k / max(len(marks) - 1, 1)))
        ax.annotate(
            _wrap(counts["action_group"].iloc[row], 24, 1),
            (rank[row], count),
            (rank[row] + len(counts) * 0.02, high),
            fontsize=6,
            va="center",
            ha="left" if k < 0.6 * len(marks) else "center" if k < len(marks) - 1 else "right",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
        )
    return figure


@mpl.rc_context(STYLE)
def precision_recall(curves: pd.DataFrame, prevalence: dict[str, float], strong: str = "MC3") -> Figure:
    """Figure 5. `curves`: pair, method, recall, precision; one panel a pair, its prevalence (= Random) as a line.

    Args:
        curves: one row a point; methods keep their colour over the panels.
        prevalence: share of positive clips, by pair.
        strong: the method drawn thicker and last.
    """
    pairs, methods = list(dict.fromkeys(curves["pair"])), list(dict.fromkeys(curves["method"]))
    figure = _figure(PAGE, 2.75)
    axes = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    lowest = min(curves.loc[curves["recall"] > 0.03, "precision"].min(), *prevalence.values())
    for ax, pair in zip(axes, pairs, strict=True):
        for method, style in _styles(methods, strong).items():
            points = curves[(curves["pair"] == pair) & (curves["method"] == method)]
            if len(points):
                (handles[method],) = ax.plot(points["recall"], points["precision"], **style)
        handles["Random"] = ax.axhline(prevalence[pair], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set(title=f"{pair} (prevalence {prevalence[pair]:.3f})", xlim=(0, 1), xlabel="recall")
        ax.set_ylim(max(0, np.floor(lowest * 20 - 0.5) / 20), 1.005)
    axes[0].set_ylabel("precision")
    order = [m for m in [*methods, "Random"] if m in handles]
    figure.legend([handles[m] for m in order], order, loc="outside lower center", ncols=5, handlelength=3)
    return figure


@mpl.rc_context(STYLE)
def clusters(clips: Clips, members: pd.DataFrame) -> Figure:
    """Figure 6: for every cluster its members' middle frame, log-mel and narration, nearest to the centre first.

    Args:
        clips: where frames and sound are read.
        members: cluster, row (of `clips`), title (one a cluster), in the order drawn.
    """
    names = list(dict.fromkeys(members["cluster"]))
    across = int(members.groupby("cluster").size().max())
    figure = _figure(PAGE, 1.72 * len(names))
    for panel, name in zip(figure.subfigures(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        rows = members[members["cluster"] == name]
        panel.suptitle(rows["title"].iloc[0], fontsize=7.5, fontweight="bold", x=0.01, ha="left")
        axes = panel.subplots(2, across, squeeze=False, height_ratios=(1, 0.6))
        for top, bottom, row in zip(axes[0], axes[1], rows["row"], strict=False):
            frames = clips.frames(row)
            _picture(top, frames[len(frames) // 2][None])
            _spectrogram(bottom, clips.fbank(row), aspect=0.9)
            bottom.set_xlabel(_wrap(clips.index["text"].iloc[row], 18, 3), fontsize=5.2, labelpad=2)
        for ax in axes[:, len(rows) :].ravel():
            ax.set_axis_off()
    return figure


@mpl.rc_context(STYLE)
def retrieval(clips: Clips, examples: pd.DataFrame) -> Figure:
    """Figure 7: queries and what is retrieved first, correct ones framed blue and wrong ones orange.

    Args:
        clips: where frames and sound are read.
        examples: direction ("video → audio" or "audio → text"), query and retrieved (rows of `clips`), rank
            (from 1), correct, first_correct (rank of the first correct one), in the order drawn.
    """
    queries = list(dict.fromkeys(zip(examples["direction"], examples["query"], strict=True)))
    depth = int(examples.groupby(["direction", "query"]).size().max())
    heights = [1.12 if direction.startswith("video") else 0.86 for direction, _ in queries]
    figure = _figure(PAGE, sum(heights) + 0.15)
    panels = figure.subfigures(len(queries), 1, squeeze=False, height_ratios=heights)[:, 0]
    text = clips.index["text"]
    for panel, (direction, query) in zip(panels, queries, strict=True):
        found = examples[(examples["direction"] == direction) & (examples["query"] == query)]
        first = found["first_correct"].iloc[0]
        note = f"first correct at rank {first}"
        grid = panel.add_gridspec(1, 1 + depth, width_ratios=[1.75, *[1] * depth])
        left = panel.add_subplot(grid[0])
        left.set_title(direction, loc="left", pad=2, fontsize=6.5)
        if direction.startswith("video"):
            frames = clips.frames(query)
            _picture(left, frames[[len(frames) // 4, (3 * len(frames)) // 4]])
            for k, item in enumerate(found.itertuples()):
                ax = panel.add_subplot(grid[1 + k])
                _spectrogram(ax, clips.fbank(item.retrieved))
                _frame(ax, _colour(item))
                ax.set_title(_verdict(item), loc="left", pad=2, fontsize=6, fontweight="normal", color=_colour(item))
                ax.set_xlabel(_wrap(text.iloc[item.retrieved], 24, 2), fontsize=5.8, color=GREY, labelpad=2)
        else:
            _spectrogram(left, clips.fbank(query), aspect=0.75)
            ax = panel.add_subplot(grid[1:])
            ax.set_axis_off()
            ax.set(xlim=(0, 1), ylim=(0, 1))
            for k, item in enumerate(found.itertuples()):
                y = 1 - (k + 0.5) / depth
                ax.text(0.02, y, _verdict(item), va="center", color=_colour(item), fontsize=6)
                ax.text(0.17, y, _wrap(text.iloc[item.retrieved], 70, 1), va="center")
        left.set_xlabel(f"{_wrap(text.iloc[query], 46, 1)}\n{note}", fontsize=5.8, color=GREY, labelpad=2)
    return figure


@mpl.rc_context(STYLE)
def per_class(table: pd.DataFrame) -> Figure:
    """EPIC-Sounds recall by class, most frequent first. `table`: class_id, name, n, probe, recall; a row each."""
    probes = list(dict.fromkeys(table["probe"]))
    by_probe = table[table["n"] > 0].pivot(index=["class_id", "name", "n"], columns="probe", values="recall")[probes]
    classes = by_probe.reset_index().sort_values(["n", "class_id"], ascending=[False, True])
    figure = _figure(PAGE, 3.1)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    x = np.arange(len(classes))
    for k, probe in enumerate(probes):
        ax.plot(x, classes[probe], MARKERS[k % len(MARKERS)], markersize=3.4, color=PALETTE[k % len(PALETTE)],
                label=probe, markeredgewidth=0.3, markeredgecolor="white", clip_on=False)  # fmt: skip
    ax.vlines(x, classes[probes].min(axis=1), classes[probes].max(axis=1), color="#C8C8C8", linewidth=0.7, zorder=0)
    ax.set(ylim=(-0.03, 1.03), ylabel="recall", xlim=(-0.7, len(classes) - 0.3))
    ax.grid(axis="x", visible=False)
    below.bar(x, classes["n"], color=PALETTE[1], width=0.7)
    below.set_yscale("log")
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    below.yaxis.set_minor_formatter(StrMethodFormatter(""))
    below.set_ylabel("clips")
    below.grid(axis="x", visible=False)
    below.set_xticks(x, classes["name"], rotation=90, fontsize=5.5)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=min(3, len(probes)))
    return figure


@mpl.rc_context(STYLE)
def confusion(table: pd.DataFrame) -> Figure:
    """Which class is taken for which, as a heat map. `table`: class_id, name, n, then a column of shares a class.

    Rows are true classes and columns predicted ones, both in the table's order; each row sums to 1.
    """
    numbers = [column for column in table if column not in ("class_id", "name", "n")]
    names = dict(zip(table["class_id"].astype(str), table["name"], strict=True))
    figure = _figure(PAGE, PAGE * (0.2 + 0.72 * len(table) / len(numbers)))
    ax = figure.subplots()
    image = ax.imshow(table[numbers], cmap="Blues", vmin=0, vmax=1, interpolation="none", aspect="auto")
    rows = [f"{_wrap(name, 32, 1)}  {n}" for name, n in zip(table["name"], table["n"], strict=True)]
    ax.set_yticks(np.arange(len(rows)), rows, fontsize=5)
    ax.set_xticks(np.arange(len(numbers)), [_wrap(names.get(c, f"class {c}"), 32, 1) for c in numbers], rotation=90,
                  fontsize=5)  # fmt: skip
    ax.set(ylabel="true class, and its events", xlabel="predicted class")
    ax.grid(False)
    ax.spines[:].set(visible=True, color=GREY)
    bar = figure.colorbar(image, ax=ax, shrink=0.5, pad=0.01, aspect=30)
    bar.set_label("share of the class's events")
    bar.outline.set_visible(False)
    return figure


@mpl.rc_context(STYLE)
def regions(table: pd.DataFrame, strong: str = "MC3") -> Figure:
    """Figure 2 measured: similarity of each modality pair by Venn region and checkpoint, as quartile boxes.

    `table`: checkpoint, pair, region, q05, q25, median, q75, q95, mean. Whiskers are the 5th and 95th
    percentile, the white dot is the mean.
    """
    pairs, shown, where = (list(dict.fromkeys(table[c])) for c in ("pair", "checkpoint", "region"))
    figure = _figure(PAGE, 2.5)
    axes = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    colours = {name: style["color"] for name, style in _styles(shown, strong).items()}
    handles = []
    for ax, pair in zip(axes, pairs, strict=True):
        for k, checkpoint in enumerate(shown):
            rows = table[(table["pair"] == pair) & (table["checkpoint"] == checkpoint)]
            rows = rows.set_index("region").reindex(where)
            x = np.arange(len(where)) + (k - (len(shown) - 1) / 2) * 0.8 / len(shown)
            ax.vlines(x, rows["q05"], rows["q95"], color=colours[checkpoint], linewidth=0.7)
            bars = ax.bar(x, rows["q75"] - rows["q25"], 0.68 / len(shown), rows["q25"], color=colours[checkpoint])
            ax.hlines(rows["median"], x - 0.34 / len(shown), x + 0.34 / len(shown), color="white", linewidth=0.9)
            ax.plot(x, rows["mean"], "o", markersize=2.2, color="white", markeredgecolor="black", markeredgewidth=0.4)
            if ax is axes[0]:
                handles.append(bars)
        ax.set_xticks(np.arange(len(where)), where)
        ax.set(title=pair, xlabel="region of Figure 2")
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("cosine similarity")
    figure.legend(handles, shown, loc="outside upper center", ncols=len(shown))
    return figure


@mpl.rc_context(STYLE)
def consensus(points: pd.DataFrame) -> Figure:
    """Figure 3 measured: each clip's audio-video against its audio-text similarity, one panel a checkpoint.

    `points`: checkpoint, audio_video, audio_text, region. On the diagonal both agree: consensus asks for it.
    """
    shown = list(dict.fromkeys(points["checkpoint"]))
    figure = _figure(PAGE, 3.2)
    axes = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    low = float(points[["audio_video", "audio_text"]].to_numpy().min()) - 0.03
    high = float(points[["audio_video", "audio_text"]].to_numpy().max()) + 0.03
    handles = []
    for ax, checkpoint in zip(axes, shown, strict=True):
        part = points[points["checkpoint"] == checkpoint]
        inside = part["region"] == "I"
        handles = [
            ax.scatter(p["audio_text"], p["audio_video"], s=3, color=colour, alpha=0.35, linewidths=0, rasterized=True)
            for p, colour in ((part[~inside], NO), (part[inside], YES))
        ]
        for p, colour in ((part[~inside], NO), (part[inside], YES)):
            centre = (p["audio_text"].mean(), p["audio_video"].mean())
            ax.plot(*centre, "o", color=colour, markeredgecolor="white", markersize=6)
        (diagonal,) = ax.plot([low, high], [low, high], color="black", linewidth=0.7, linestyle=(0, (4, 2)))
        gap = (part["audio_video"] - part["audio_text"]).abs().mean()
        ax.set_title(f"{checkpoint.split(' (')[0]}: mean gap {gap:.3f}")
        ax.set(xlim=(low, high), ylim=(low, high), xlabel="audio-text similarity", aspect="equal")
    axes[0].set_ylabel("audio-video similarity")
    labels = ["regions II-IV", "region I (all three agree)", "both similarities equal"]
    figure.legend([*handles, diagonal], labels, loc="outside lower center", ncols=3, markerscale=3)
    return figure


@mpl.rc_context(STYLE)
def scatter(points: pd.DataFrame, title: str) -> Figure:
    """A map of embeddings. `points`: x, y, group; the groups' order in the legend is that of their frequency."""
    figure = _figure(PAGE * 0.75, PAGE * 0.5)
    ax = figure.subplots()
    looks = zip(cycle((*PALETTE, GREY)), cycle(MARKERS), strict=False)
    for name, (colour, marker) in zip(points["group"].value_counts().index, looks, strict=False):
        part = points[points["group"] == name]
        ax.scatter(part["x"], part["y"], s=7, color=colour, marker=marker, linewidths=0, alpha=0.75, label=name)
    _bare(ax)
    ax.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


@mpl.rc_context(STYLE)
def training(curves: pd.DataFrame, strong: str = "MC3") -> Figure:
    """Validation while training, a point an epoch. `curves`: method, metric, step, value; one panel a metric."""
    metrics, methods = list(dict.fromkeys(curves["metric"])), list(dict.fromkeys(curves["method"]))
    figure = _figure(PAGE, 2.6)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    handles: dict[str, Any] = {}
    for ax, metric in zip(axes, metrics, strict=True):
        for method, style in _styles(methods, strong).items():
            part = curves[(curves["metric"] == metric) & (curves["method"] == method)]
            if len(part):
                (handles[method],) = ax.plot(part["step"], part["value"], marker="o", markersize=2.2, **style)
        ax.set(title=metric, xlabel="training step, the align stage included")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].set_ylabel("validation clips")
    order = [m for m in methods if m in handles]
    figure.legend([handles[m] for m in order], order, loc="outside lower center", ncols=5, handlelength=3)
    return figure


@mpl.rc_context(STYLE)
def overview(table: pd.DataFrame, strong: str = "MC3") -> Figure:
    """Every method's result beside the paper's, one panel a metric, from chance (the grey line) on.

    `table`: method, metric, ours, std (may be missing), paper, random, paper_random, apart (whether the metric's level
    depends on the data so much that the paper's numbers need an axis of their own, above the panel).
    """
    metrics, methods = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["method"]))
    figure = _figure(PAGE, 0.21 * len(methods) + 1.05)
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    y = np.arange(len(methods))
    colours = [PALETTE[1] if m == strong else "#8FBCD9" for m in methods]
    for ax, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric].set_index("method").reindex(methods)
        chance, paper_chance = float(rows["random"].iloc[0]), float(rows["paper_random"].iloc[0])
        apart = bool(rows["apart"].iloc[0])
        bars = ax.barh(y, rows["ours"] - chance, left=chance, height=0.62, color=colours)
        ax.errorbar(rows["ours"], y, xerr=rows["std"].fillna(0), fmt="none", ecolor="black", elinewidth=0.7)
        ax.axvline(chance, color=GREY, linewidth=0.8)
        above = ax.twiny() if apart else ax
        (marks,) = above.plot(rows["paper"], y, "D", color=PALETTE[0], markersize=3.6, clip_on=False)
        if apart:
            above.set_xlim(_reach(rows["paper"], paper_chance))
            above.spines["top"].set(visible=True, color=PALETTE[0])
            above.tick_params(axis="x", colors=PALETTE[0], labelsize=6, pad=1)
            above.xaxis.set_major_locator(MaxNLocator(4))
            above.grid(False)
        ax.set_xlim(_reach(rows["ours"] if apart else rows[["ours", "paper"]].stack(), chance))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(metric)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(y, [_wrap(m, 20, 2) for m in methods], linespacing=0.9)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    names = ["measured here", "paper (Ego4D; where there is an axis above, on that one)"]
    figure.legend([bars[-1], marks], names, loc="outside lower center", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def differences(table: pd.DataFrame, strong: str = "MC3") -> Figure:
    """MC3 minus each other row, with intervals; blue where it is ahead beyond them, orange where it is behind.

    `table`: line (panels that stand in one line of the figure and share their rows), panel, label, row (the label's
    place), difference, low, high.
    """
    lines = [part for _, part in table.groupby("line", sort=False)]
    heights = [0.115 * part["label"].nunique() + 0.42 for part in lines]
    figure = _figure(PAGE, sum(heights) + 0.25, dpi=200)  # laid out as it is saved: hinting widens the long labels
    for panel, part in zip(
        figure.subfigures(len(lines), 1, squeeze=False, height_ratios=heights)[:, 0], lines, strict=True
    ):
        labels, names = list(dict.fromkeys(part.sort_values("row")["label"])), list(dict.fromkeys(part["panel"]))
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
        axes[0].set_yticks(y, [_wrap(label, 32, 1) for label in labels], fontsize=6)
        axes[0].set_ylim(len(labels) - 0.4, -0.6)
    handles = [Line2D([], [], color=c, marker="o", markersize=3.4, linewidth=1.1) for c in (YES, GREY, NO)]
    words = [f"{strong} ahead", "interval includes 0", f"{strong} behind"]
    figure.legend(handles, words, loc="outside lower center", ncols=3)
    return figure


@mpl.rc_context(STYLE)
def real_audio(table: pd.DataFrame) -> Figure:
    """Accuracy of each kind of features on real recordings, by encoder, alone and with log-mel statistics.

    `table`: method, log_mel, accuracy, vs_log_mel_low, vs_log_mel_high. The last two bound the difference to the row
    "log-mel", so that a bar, drawn from that row's line, clears the line where the difference is beyond chance.
    """
    alone = table["method"].isin(["chance", "log-mel"])
    chance, base = (float(table.loc[table["method"] == m, "accuracy"].iloc[0]) for m in ("chance", "log-mel"))
    names = list(dict.fromkeys(table.loc[~alone, "method"]))
    figure = _figure(PAGE * 0.75, 0.25 * len(names) + 0.95)
    ax = figure.subplots()
    handles = []
    for shift, both, label, colour, marker in (
        (-0.15, False, "encoder alone", PALETTE[1], "o"), (0.15, True, "with log-mel statistics", PALETTE[0], "D")
    ):  # fmt: skip
        rows = table[~alone & (table["log_mel"] == both)].set_index("method").reindex(names)
        y = np.arange(len(names)) + shift
        ax.hlines(y, base + rows["vs_log_mel_low"], base + rows["vs_log_mel_high"], color=colour, linewidth=0.9)
        handles += ax.plot(rows["accuracy"], y, marker, color=colour, markersize=3.6, label=label)
    handles.append(ax.axvline(base, color="black", linewidth=0.9, label="log-mel statistics"))
    handles.append(ax.axvline(chance, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="chance"))
    ax.set_yticks(np.arange(len(names)), [_wrap(name, 30, 2) for name in names], linespacing=0.9)
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="accuracy; bars: 95 % interval against log-mel")
    ax.grid(axis="y", visible=False)
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


@mpl.rc_context(STYLE)
def narrated(scores: pd.DataFrame, verbs: pd.DataFrame, at_least: int = 50) -> Figure:
    """Left, how often each verb's narrations sound, and by chance; right, each score over all pairs and within a verb.

    Args:
        scores: score, roc, within_verb and their _low and _high.
        verbs: verb, narrations, sounding, shifted, most frequent first.
        at_least: narrations of a verb that is drawn; the most frequent one always is.
    """
    verbs = verbs[(verbs["narrations"] >= at_least) | (verbs.index == verbs.index[0])]
    figure = _figure(PAGE, max(2.4, 0.125 * len(verbs) + 0.8))
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
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
    right.axvline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    right.set_yticks(y, scores["score"])
    right.set(ylim=(len(scores) - 0.5, -0.5), xlabel="ROC area; bars: 95 % interval over videos")
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _reach(values: pd.Series, chance: float) -> tuple[float, float]:
    """Limits of an axis that show all `values` and chance."""
    low, high = min(chance, float(values.min())), max(chance, float(values.max()))
    return low - 0.04 * (high - low), high + 0.08 * (high - low)
