"""Tables 2, 3 and 4: ours beside the paper's, over every row (`mc3.store.rows`) and every seed.

Each table is a DataFrame with one row a method and, for each metric `m`, the columns `m` (mean over seeds), `m_std`
(sample standard deviation; NaN of one seed) and, where the paper has it, `paper_m`.
"""

import html
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.errors import DataError
from mc3.files import reading
from mc3.paper import priors
from mc3.paper.priors import PAPER

PUBLISHED = {2: "table2_discovery.csv", 3: "table3_retrieval.csv", 4: "table4_epic_sounds.csv"}  # in PAPER
RANDOM = "random"  # the row of chance
QUOTED = " (published)"  # ends the label of a row that has only the paper's numbers
PERCENT = ("top1", "top5", "mca")  # metrics of Table 4 that are in percent
OVERVIEW = ("av_roc", "al_roc", "v2a_r5", "a2l_r5")  # the main columns of Tables 2 and 3
BOARD = ("av_roc", "av_pr", "al_roc", "al_pr", "v2a_r5", "a2v_r5", "l2a_r5", "a2l_r5")  # of the leaderboard
_OF_METRIC = (("", ""), ("", "_std"), ("paper_", ""))
COLUMNS = {  # which results must have to be read back from figures/
    name: (*names, "seeds", *(f"{before}{m}{after}" for m in own for before, after in _OF_METRIC))
    for name, names, own in (
        ("table2_discovery", ("method", "label"), BOARD[:4]), ("table3_retrieval", ("method", "label"), BOARD[4:]),
        ("table4_epic_sounds", ("method", "label", "protocol"), PERCENT[:1]),
    )
} | {
    "claims": ("claim", "verdict", "seeds"),
    "differences": ("method", "metric", "protocol", "label", "difference", "low", "high", "seeds", "n", "videos"),
}  # fmt: skip
TEXT = {"setting": "str"}  # columns of results that look like numbers and are none
NUMBER = re.compile(
    r"seeds|clips|queries|pool|events|n|videos|prevalence|difference|low|high|audio|video"
    r"|(\w+_)?(roc|pr|r\d+|hit\d+|top\d|mca|map|mauc)(_std)?"
)

_HEADERS = {
    "av": "AV", "al": "AL", "roc": "ROC", "pr": "PR", "v2a": "V→A", "a2v": "A→V", "l2a": "L→A", "a2l": "A→L",
    "top1": "Top-1", "top5": "Top-5", "mca": "mCA", "map": "mAP", "mauc": "mAUC",
    "r": "@", "hit": "hit@", "p": "precision @",  # and a cut-off
}  # fmt: skip


_NAMES = {  # columns of `show` that `header` does not put in words
    "share_hit": "share answered", "n": "clips", "paper": "the paper's", "log_mel": "with log-mel statistics",
    "selection": "mean of both", "selection_std": "its std. dev.", "dim": "dimensions", "text": "narration",
    "label": "method", "of_mc3": "relative to MC3", "vs_log_mel": "minus log-mel", "vs_untrained": "minus untrained",
}  # fmt: skip


class Cell(NamedTuple):
    """Key of a number: its row (a method, "random" or "untrained"), its metric, and its protocol in Table 4."""

    method: str
    metric: str
    protocol: str = ""


Cells = Collection[Cell]


def discovery(config: Config, method: str, seed: int) -> dict[str, float]:
    """Table 2's numbers of one training: `{pair}_roc` and `{pair}_pr` of the pairs that it has."""
    scored = store.discovery_scores(config, method, seed)
    areas = {p: evaluate.discovery(scored[p], scored["positive"]) for p in evaluate.DISCOVERY if p in scored}
    return {f"{pair}_{m}": found[m] for pair, found in areas.items() for m in ("roc", "pr")}


def retrieval(config: Config, method: str, seed: int) -> dict[str, float]:
    """Table 3's numbers of one training, in percent, of the directions that it has."""
    groups, split = store.retrieval_split(config)
    ks, chunk = config.evaluate.recall_at, config.evaluate.chunk
    cases = evaluate.retrieval_directions(store.embeddings(config, method, seed), groups, split)
    return _retrieval_columns({name: evaluate.retrieval(*case, ks, chunk) for name, case in cases}, ks)


def table2(config: Config, rows: Sequence[str] | None = None) -> pd.DataFrame:
    """Table 2, sounding-action discovery: ROC and PR areas for audio-vision (`av_`) and audio-language (`al_`).

    `rows` are those of `mc3.store.rows` if not given; those of `mc3.paper.priors`, which use no model, come last.
    """
    measured, free = _rows(config, rows, discovery), priors.scores(config)
    for name, text in priors.LABELS.items():
        areas = evaluate.discovery(free[name], free["positive"])
        about = {"method": name, "label": text, "paper": "", "seeds": 0}
        measured.append(about | {f"{priors.PAIR}_{metric}": areas[metric] for metric in ("roc", "pr")})
    chance = evaluate.random_discovery(store.labelled(config)["positive"])
    random = {f"{pair}_{m}": chance[m] for pair in evaluate.DISCOVERY for m in ("roc", "pr")}
    return _table(measured, random, PUBLISHED[2]).assign(clips=chance["n"], prevalence=chance["prevalence"])


def table3(config: Config, rows: Sequence[str] | None = None) -> pd.DataFrame:
    """Table 3 in percent: `{direction}_r{k}` (set recall), `{direction}_hit{k}`; "bound" is the most of any ranking."""
    measured = _rows(config, rows, retrieval)
    groups, (queries, pool) = store.retrieval_split(config)
    ks, levels = config.evaluate.recall_at, (evaluate.random_retrieval, evaluate.retrieval_bounds)
    found = [dict.fromkeys(evaluate.DIRECTIONS, level(groups[queries], groups[pool], ks)) for level in levels]
    random, bound = (_retrieval_columns(each, ks) for each in found)
    bounds = {"method": "bound", "label": "Bound", "paper": "", "seeds": 0, **bound}
    return _table([bounds, *measured], random, PUBLISHED[3]).assign(queries=len(queries), pool=len(pool))


def table4(config: Config) -> pd.DataFrame:
    """Table 4, EPIC-Sounds classification by protocol: top-1, top-5 and mCA in percent, mAP and mAUC as fractions.

    A foreign row is in it if `mc3 evaluate` was given its features of EPIC-Sounds' events.
    """
    results = [store.probe_metrics(config, seed) for seed in config.seeds]
    rows: list[dict[str, Any]] = []
    for protocol in (store.LINEAR, store.OFFICIAL, store.FINETUNE):
        own = {name for r in results for name in r["metrics"].get(protocol, {})}
        for published in ("ASF", "SSAST"):
            if protocol != store.OFFICIAL and published.lower() not in own:
                names = {"method": published.lower(), "label": published + QUOTED, "paper": published}
                rows.append({**names, "seeds": 0, "protocol": protocol})
        for name in (*store.PROBED, *methods.METHODS):
            if per_seed := [_percent(m) for r in results if (m := r["metrics"].get(protocol, {}).get(name))]:
                rows.append({**_row(config, name, per_seed), "protocol": protocol})
        if protocol == store.LINEAR:
            for name, scores in store.foreign_probes(config).items():
                found = evaluate.classification(scores, store.probe_scores(config, config.seeds[0])["labels"])
                rows.append({**_row(config, name, [_percent(found)]), "protocol": protocol})
    random = {**_percent(results[0]["metrics"][RANDOM][RANDOM]), "protocol": ""}
    return _table(rows, random, PUBLISHED[4]).assign(events=results[0]["test_events"])


def published() -> dict[Cell, float]:
    """The paper's own numbers of Tables 1-4, under the names of our rows."""
    names = {methods.get(name).paper: name for name in (store.SSAST, *methods.METHODS)} | {"Random": RANDOM}
    rates = pd.read_csv(PAPER / "table1_verb_groups.csv").itertuples(index=False)
    found = {Cell(str(verb), "sounding"): float(rate) for verb, rate in rates}
    for file in PUBLISHED.values():
        for row in pd.read_csv(PAPER / file).fillna({"protocol": ""}).to_dict("records"):
            protocol, name = row.pop("protocol", ""), names.get(row.pop("method"))
            if name:
                found |= {Cell(name, str(m), protocol): v for m, v in row.items() if isinstance(v, float)}
    return found


def cells(table: pd.DataFrame, metrics: Sequence[str] | None = None, significant: Cells = ()) -> pd.DataFrame:
    """A table, also read back from its CSV, as text: each cell ours ± standard deviation (the paper's, difference).

    `metrics` are those that the paper has, if not given. The `significant` cells get a dagger.
    """
    table = table.fillna({"protocol": ""})
    shown = pd.DataFrame({"Method": table["label"].astype(str)})
    if "protocol" in table:
        shown["Protocol"] = table["protocol"].astype(str)
    for letter, modality in zip("AVL", methods.MODALITIES, strict=True):
        if modality in table and "protocol" not in table:
            shown[letter] = np.where(table[modality] == 1, "✓", "")
    for name in metrics or [str(name) for name in table if f"paper_{name}" in table]:
        shown[header(name)] = [_cell(row, name, significant) for row in table.to_dict("records")]
    return shown


def header(metric: str) -> str:
    """A column's name in print: "av_roc" is "AV ROC", "v2a_r5" is "V→A @5", "av_p10" is "AV precision @10"."""
    parts = [(part, part.rstrip("0123456789")) for part in metric.split("_")]
    return " ".join(_HEADERS.get(part) or _HEADERS.get(kind, kind) + part[len(kind) :] for part, kind in parts)


def label(method: str) -> str:
    """A row's name in print, marked if foreign; of a method that is not in mc3/methods.py (any more), its key."""
    if method.startswith(store.FOREIGN):
        return f"{method.removeprefix(store.FOREIGN)} (foreign)"
    known = method in ("align", store.SSAST, *methods.METHODS)
    return methods.get(method).label if known else {RANDOM: "Random", **priors.LABELS}.get(method, method)


def note(table: pd.DataFrame, significant: Cells | None = None, reference: str = "") -> str:
    """One sentence on the sample (seeds, clips) and on how to read a cell; on daggers, if `significant` is given.

    `significant` cells differ from those of the row `reference`, by default that of METHODS.
    """
    seeds = int(table["seeds"].max())
    parts = [f"{seeds} seed{'s' if seeds != 1 else ''}"]
    units = {"clips": "test clips", "queries": "queries", "pool": "in the pool", "events": "events"}
    parts += [f"{int(table[column].iloc[0]):,} {words}" for column, words in units.items() if column in table]
    parts += [f"prevalence {value:.3f}" for value in table.get("prevalence", [])[:1]]
    spread = " ± standard deviation over seeds" if seeds > 1 else ", of one seed: another would differ"
    text = f"{', '.join(parts)}. Each cell: ours{spread} (the paper's, difference)."
    if table["label"].str.endswith(QUOTED).any():
        text += f" A row{QUOTED} is the paper's alone: ASF is not trained here, SSAST where `probe.ssast` has weights."
    if significant is not None:
        other = label(reference or methods.with_role("reference"))
        text += f" † differs from {other}: the 95 % interval of the paired difference excludes 0."
    return text


def to_markdown(table: pd.DataFrame, significant: Cells | None = None) -> str:
    """`cells` as a Markdown table with `note` beneath it."""
    shown = cells(table, significant=significant or ())
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    escaped = [" | ".join(html.escape(v, quote=False).replace("|", r"\|") for v in line) for line in lines]
    return "\n".join([*(f"| {line} |" for line in escaped), "", note(table, significant)]) + "\n"


def to_html(
    table: pd.DataFrame, metrics: Sequence[str] | None = None, significant: Cells | None = None, reference: str = "",
    csv: str = "",
) -> str:  # fmt: skip
    """`cells` as an HTML table, escaped, with `note` and a link to the file `csv` below figures/ as its caption."""
    text = cells(table, metrics, significant or ()).to_html(index=False, border=0, na_rep="")
    return _with_caption(text, note(table, significant, reference), csv) + "\n"


def read(name: str, stage: str, figures: Path = Path("figures")) -> pd.DataFrame:
    """The results in `figures/NAME.csv`; `DataError` with the DVC `stage` that makes them if missing or damaged.

    It is damaged if it has no rows, one twice or without a name, not all of its `COLUMNS`, or text for a number.
    """
    path, remedy = figures / f"{name}.csv", f"`dvc repro {stage}` makes it"
    if not path.exists():
        raise DataError(f"{path} is missing; {remedy}")
    with reading(path, f"{remedy} again"):
        table = pd.read_csv(path, dtype=TEXT).fillna({"protocol": ""})
        if lost := [name for name in COLUMNS.get(name, ()) if name not in table]:
            raise ValueError(f"it has no column {lost[0]}")
        named = [column for column in COLUMNS.get(name, ()) if not NUMBER.fullmatch(column)]
        if table.empty or table[named].isna().any(axis=None) or (named and table.duplicated(named).any()):
            raise ValueError(f"it has no rows, or some without or with the same {', '.join(named)}")
        for column in filter(NUMBER.fullmatch, table):
            pd.to_numeric(table[column])  # raises for text
        return table


def show(table: pd.DataFrame, caption: str = "", csv: str = "") -> Any:
    """Any table as `HTML` for a notebook: every row, escaped, in words (`header`, `word`), numbers by `format_number`.

    `csv` is the file to link to, below figures/, which has the numbers.
    """
    from IPython.display import HTML

    table = table.rename_axis(columns=None).rename(
        columns=lambda name: _NAMES.get(name) or header(str(name)).replace(" std", " std. dev.")
    )
    for column in table.select_dtypes(["object", "bool", "string"]):
        table[column] = table[column].map(word)
    text = table.to_html(index=False, border=0, float_format=format_number, na_rep="–")
    return HTML(_with_caption(text, caption, csv))


def word(value: Any) -> Any:
    """A cell in words: True is "yes", "wo_consensus" "w/o consensus", the taxonomy's "cut_(chop,_slice)" "cut"."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str) and "_" in value:
        return label(value) if value in methods.METHODS else priors.short(value) if "_(" in value else value
    return value


def format_number(value: float) -> str:
    """Three decimals, or three digits of what would be lost by them, such as a learning rate."""
    return f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def intervals(table: pd.DataFrame, column: str) -> pd.Series:
    """`column` with its interval, from the columns `column`_low and `column`_high, as text."""
    value, low, high = (table[f"{column}{end}"].map("{:+.3f}".format) for end in ("", "_low", "_high"))
    return (value + " [" + low + ", " + high + "]").where(table[column].notna(), "–")


def overview(table2: pd.DataFrame, table3: pd.DataFrame) -> pd.DataFrame:
    """The main columns of Tables 2 and 3: method, metric, ours, std, paper, random, paper_random, separate_axis."""
    frames = []
    for metric in OVERVIEW:
        table = table2 if metric in table2 else table3
        random, rows = table[table["method"] == RANDOM].iloc[0], table[table["seeds"] > 0]
        ours = {"method": rows["label"], "metric": header(metric), "ours": rows[metric], "std": rows[f"{metric}_std"]}
        paper = {"paper": rows[f"paper_{metric}"], "random": random[metric], "paper_random": random[f"paper_{metric}"]}
        frames.append(pd.DataFrame({**ours, **paper, "separate_axis": table is table3}))  # recall depends on the pool
    return pd.concat(frames, ignore_index=True)


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """MC3's rank among the paper's own methods, here and in the paper, in those columns of `OVERVIEW` that it has."""
    own = [name for name in table["method"] if name in methods.METHODS and methods.get(name).paper]
    rows = table.set_index("method").loc[own].select_dtypes("number")
    rank, of = rows.rank(ascending=False, method="min").loc[methods.with_role("reference")], rows.count()
    metrics = [metric for metric in OVERVIEW if metric in rows]
    found = {"Column": [header(metric) for metric in metrics]}
    for who, prefix in (("Here", ""), ("In the paper", "paper_")):
        found[who] = [f"{rank[prefix + metric]:.0f} of {of[prefix + metric]}" for metric in metrics]
    return pd.DataFrame(found)


def _rows(
    config: Config, rows: Sequence[str] | None, measure: Callable[[Config, str, int], dict[str, float]]
) -> list[dict[str, Any]]:
    names = store.rows(config) if rows is None else rows
    return [_row(config, name, [measure(config, name, seed) for seed in store.seeds(config, name)]) for name in names]


def _row(config: Config, name: str, per_seed: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    about: dict[str, Any] = {"method": name, "label": label(name), "paper": ""}
    if name != store.UNTRAINED:
        about["paper"] = "" if name.startswith(store.FOREIGN) else methods.get(name).paper
        about |= {m: int(m in store.modalities(config, name)) for m in methods.MODALITIES}
    frame = pd.DataFrame(per_seed)
    return {**about, "seeds": len(frame), **frame.mean(), **frame.std(ddof=1).add_suffix("_std")}


def _percent(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: 100 * value if name in PERCENT else value for name, value in metrics.items()}


def _retrieval_columns(found: Mapping[str, Mapping[str, float]], ks: Sequence[int]) -> dict[str, float]:
    names = {f"{prefix}{k}": f"{metric}@{k}" for prefix, metric in (("r", "recall"), ("hit", "hit")) for k in ks}
    return {f"{d}_{column}": 100 * metrics[name] for d, metrics in found.items() for column, name in names.items()}


def _table(rows: Sequence[Mapping[str, Any]], random: Mapping[str, Any], file: str) -> pd.DataFrame:
    """Random first, then `rows`, each joined with its row of the paper's table, columns in order."""
    keys = ["paper", "protocol"] if "protocol" in random else ["paper"]
    metrics = [name for name in random if name != "protocol"]
    paper = pd.read_csv(PAPER / file).rename(columns={"method": "paper"}).fillna({"protocol": ""})
    paper = paper[[c for c in paper if c in (*keys, *metrics)]].rename(columns={m: f"paper_{m}" for m in metrics})
    table = pd.DataFrame([{"method": RANDOM, "label": "Random", "paper": "Random", "seeds": 0, **random}, *rows])
    ticks = table.columns.intersection(methods.MODALITIES)
    table[ticks] = table[ticks].fillna(0).astype(int)
    table = table.merge(paper, on=keys, how="left", validate="m:1")
    columns = ["method", "label", "protocol", *methods.MODALITIES, "seeds"]
    columns += [column for name in metrics for column in (name, f"{name}_std", f"paper_{name}")]
    return table.reindex(columns=[column for column in columns if column in table or column.endswith("_std")])


def _with_caption(table: str, caption: str, csv: str = "") -> str:
    """HTML of pandas with a caption and links from it; lines wrap in JupyterLab too, which right-aligns by default."""
    start, style = table.index(">") + 1, ' style="text-align: left; white-space: normal"'
    links = f' <a href="../figures/{html.escape(csv)}">CSV</a> <a href="#made">Provenance</a>' if csv else ""
    rest = re.sub(r"<(td|th)>", rf"<\1{style}>", table[start:])
    return f"{table[:start]}\n  <caption{style}>{html.escape(caption)}{links}</caption>{rest}"


def _cell(row: Mapping[Any, Any], metric: str, significant: Cells) -> str:
    ours, spread, paper = (row.get(name, np.nan) for name in (metric, f"{metric}_std", f"paper_{metric}"))
    places = 2 if metric in PERCENT else 1 if metric.split("_")[0] in evaluate.DIRECTIONS else 3
    if pd.isna(ours):
        return f"({paper:.{places}f})" if pd.notna(paper) else "–"
    text = f"{ours:.{places}f}" + (f" ± {spread:.{places}f}" if pd.notna(spread) else "")
    text += "†" * (Cell(row["method"], metric, row.get("protocol", "")) in significant)
    return text + (f" ({paper:.{places}f}, {ours - paper:+.{places}f})" if pd.notna(paper) else "")
