"""What `make repro` ends with: the main columns of Tables 2 and 3 beside the paper's, and where to look."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mc3.paper import tables

TABLES = {
    "table2_discovery.csv": ("Table 2, sounding-action discovery: area under the ROC curve", ["av_roc", "al_roc"]),
    "table3_retrieval.csv": ("Table 3, retrieval: recall in percent", ["v2a_r5", "a2v_r5", "l2a_r5", "a2l_r5"]),
}


def show(figures: Path, console: Console | None = None) -> None:
    """Print those of the two tables that are in `figures`, and the files to open.

    Raises `FileNotFoundError` when neither table is there yet.
    """
    found = [name for name in TABLES if (figures / name).exists()]
    if not found:
        raise FileNotFoundError(f"no {' or '.join(TABLES)} in {figures}/; `mc3 repro` makes them")
    console = console or Console()
    for name in found:
        title, metrics = TABLES[name]
        data = pd.read_csv(figures / name)
        cells = tables.cells(data, metrics).drop(columns=["A", "V", "L"], errors="ignore")
        shown = Table(
            *cells.columns, title=title, caption=tables.note(data), title_justify="left", caption_justify="left"
        )
        for row in cells.itertuples(index=False):
            shown.add_row(*map(Text, row))
        console.print(shown)
    console.print("The levels of another data set are not comparable with the paper's; the order of the rows is.")
    console.print(f"All tables and figures: {figures}/report.html. To look around: make lab, then explore.ipynb.")
