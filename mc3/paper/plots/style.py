"""The figures' common style, widths as the paper's page, and `save`, with the same bytes for the same figure."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mc3 import methods
from mc3.files import atomic

COLUMN, PAGE = 3.25, 6.875  # inches; below, the first seven but black are Okabe and Ito's
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7570B3", "#8A8A8A")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2, 1, 2)))
DOTTED, DASHED = (0, (1, 2)), (0, (4, 2))
MARKERS = "osD^vPX*"
GREY, YES, NO = "#6A6A6A", "#0072B2", "#D55E00"
ORANGE_INK = "#A84A00"  # of text, which needs more contrast than a line
LOOKS: dict[str, tuple[str, Any]] = {  # a row's colour and dash in every figure; a row that is not here gets `SPARE`'s
    "mc3": (PALETTE[0], "-"), "wo_consensus": (PALETTE[1], "--"), "wo_contrastive": (PALETTE[2], "-."),
    "wo_align": (PALETTE[3], (0, (5, 1))), "peers": (PALETTE[4], (0, (3, 1, 1, 1))), "cmc": (PALETTE[5], "-"),
    "imagebind": (PALETTE[8], "--"), "clap": (PALETTE[7], "-."), "cm_acc": (PALETTE[9], (0, (5, 1))),
    "align": (PALETTE[6], (0, (1, 1))), "gram": ("#1B7837", ":"), "triangle": ("#B3006B", ":"),
    "symile": ("#4B3FA7", (0, (1, 1))), "third_party": ("#A50F15", (0, (3, 1, 1, 1))),
}  # fmt: skip
SPARE = ("#4D9221", "#01665E", "#8073AC", "#C51B7D", "#35978F", "#BF812D", "#5A5A00", "#7F3B08")
WIDTHS = {"reference": 2.2, "control": 1.7}  # by role; all others are thin

STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 7, "text.parse_math": False, "lines.linewidth": 1.2,
    "axes.titlesize": 7.5, "axes.titleweight": "bold", "axes.labelsize": 7, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5, "xtick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.labelsize": 6.5, "ytick.major.width": 0.6, "ytick.major.size": 2.5,
    "legend.fontsize": 6.5, "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
}  # fmt: skip
SAVE: Any = {"svg.hashsalt": "mc3", "svg.fonttype": "path", "savefig.facecolor": "white"}
FORMATS: dict[str, Any] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}},
}

styled = mpl.rc_context(STYLE)  # decorates functions that draw a figure


def figure(width: float, height: float, **kwargs: Any) -> Figure:
    """An empty figure of `width` x `height` inches with a constrained layout."""
    return Figure(figsize=(width, height), layout="constrained", **kwargs)


def save(figure: Figure, stem: str | Path, dpi: int = 200) -> Path:
    """Write `stem`.png (at `dpi`) and `stem`.svg, byte for byte the same for the same figure; return the PNG's path."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()  # lays out once; the two files share it
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the layout's last digits depend on memory addresses, and SVG's ids on all digits
        ax.set_position(np.round(ax.get_position(original=True).bounds, 9))
    with mpl.rc_context(SAVE):
        for kind, options in FORMATS.items():
            with atomic(stem.with_name(f"{stem.name}.{kind}")) as own:
                figure.savefig(own, format=kind, dpi=dpi, **options)
    return stem.with_name(f"{stem.name}.png")


def show(figure: Figure, stem: str | Path, alt: str, dpi: int = 200) -> Any:
    """`save` a figure and return it as a displayable; its page has the SVG instead, and links to both files."""
    from IPython.display import Image

    return Image(save(figure, stem, dpi), metadata={"alt": alt, "stem": Path(stem).as_posix()})


def panels(
    page: Any, table: pd.DataFrame, by: Any, ylabel: str = "", columns: int = 0, **options: Any
) -> list[tuple[Axes, str, pd.DataFrame]]:
    """Panels in a row or in `columns`, one a value of `by`, as they come: of each, axes, value and rows of `table`."""
    parts = list(table.groupby(by, sort=False))
    columns = columns or len(parts)
    grid = page.subplots(-(-len(parts) // columns), columns, squeeze=False, **options)
    for ax in grid[:, 0]:
        ax.set_ylabel(ylabel)
    for ax in grid.ravel()[len(parts) :]:
        ax.set_visible(False)
    return [(ax, str(value), part) for ax, (value, part) in zip(grid.flat, parts, strict=False)]


def legend(page: Any, place: str, order: Iterable[str] = (), **options: Any) -> None:
    """A legend outside the panels, at `place`: each of their labels once, as they come or in `order`."""
    entries = {label: mark for ax in page.axes for mark, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels = [label for label in order if label in entries] or list(entries)
    page.legend([entries[label] for label in labels], labels, loc=f"outside {place}", **options)


def wrap(text: str, width: int, lines: int) -> str:
    """`text` in at most `lines` lines of `width` characters, cut off with an ellipsis."""
    return "\n".join(textwrap.wrap(str(text), width, max_lines=lines, placeholder=" …"))


def bare(ax: Axes) -> None:
    """Remove ticks, grid and frame."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def emphasised() -> str:
    """Label of the row that figures emphasise: the reference row of `mc3.methods`, or "" without one."""
    name = methods.with_role("reference")
    return methods.get(name).label if name else ""


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and width of each method: fixed by its name, whatever other rows there are.

    The reference row and its control are wide and drawn last.
    """
    names = {methods.get(name).label: name for name in ("align", *methods.METHODS)}
    styles = {label: _look(names.get(label, label)) for label in dict.fromkeys([*labels, emphasised()])}
    return dict(sorted(styles.items(), key=lambda item: item[1]["linewidth"]))


def _look(name: str) -> dict[str, Any]:
    number = crc32(name.encode())
    colour, dash = LOOKS.get(name, (SPARE[number % len(SPARE)], DASHES[number // len(SPARE) % len(DASHES)]))
    role = methods.METHODS.get(name, {}).get("role", "")
    return {"color": colour, "linestyle": dash, "linewidth": WIDTHS.get(role, 0.8)}
