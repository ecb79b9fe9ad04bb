"""What `make repro` ends with: the main columns of Tables 2 and 3 beside the paper's, and where to look."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

TABLES = {
    "table2_discovery.csv": (
        "Table 2, sounding action discovery: ROC-AUC",
        {"av_roc": "audio-video", "al_roc": "audio-language"},
    ),
    "table3_retrieval.csv": (
        "Table 3, retrieval: recall@5 in percent",
        {"v2a_r5": "video→audio", "a2v_r5": "audio→video", "l2a_r5": "text→audio", "a2l_r5": "audio→text"},
    ),
}


def show(figures: Path, console: Console | None = None) -> None:
    """Print the tables of `figures` that exist, "ours (paper's)" in each cell, and the files to open.

    Raises `FileNotFoundError` when neither table is there yet.
    """
    found = [name for name in TABLES if (figures / name).exists()]
    if not found:
        raise FileNotFoundError(f"no {' or '.join(TABLES)} in {figures}/; `mc3 repro` makes them")
    console = console or Console()
    for name in found:
        title, columns = TABLES[name]
        console.print(table(pd.read_csv(figures / name), title, columns))
    console.print(
        "In brackets: the paper's. The levels of another data set are not comparable; the order of the rows is."
    )
    console.print(f"All tables and figures: {figures}/report.html. To look around: make lab, then explore.ipynb.")


def table(data: pd.DataFrame, title: str, columns: dict[str, str]) -> Table:
    """One row a method; columns `METRIC`, `METRIC_std` and `paper_METRIC` of `data` meet in one cell."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("method")
    for heading in columns.values():
        shown.add_column(heading, justify="right")
    for _, row in data.iterrows():
        shown.add_row(str(row["label"]), *(_cell(row, metric) for metric in columns))
    return shown


def _cell(row: pd.Series, metric: str) -> str:
    ours, std, paper = (row.get(column) for column in (metric, f"{metric}_std", f"paper_{metric}"))
    if pd.isna(ours):
        return "–"
    number = ".3f" if "roc" in metric else ".1f"
    spread = "" if pd.isna(std) or std == 0 else f"±{std:{number}}"
    return f"{ours:{number}}{spread} ({'–' if pd.isna(paper) else format(paper, number)})"
