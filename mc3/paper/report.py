"""figures/report/index.html, the contents of the report, and metrics/: from what notebooks wrote to figures/."""

import base64
import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mc3 import methods, store
from mc3.config import Config
from mc3.errors import DataError
from mc3.files import write_atomic
from mc3.paper import bootstrap, claims, notebook, page, plots, provenance, tables

TABLES = {"table2_discovery": "discovery", "table3_retrieval": "retrieval", "table4_epic_sounds": "epic_sounds"}

INTRODUCTION = """# MC3: how actions sound, with the paper's results beside ours

This page lists the results of a reproduction of *SoundingActions: Learning How Actions Sound from Narrated Egocentric
Videos* (CVPR 2024), measured on {world}. Profile `{profile}`, {seeds}. Each page below is an executed notebook of
`notebooks/`; its code is folded away.

**Result.** {verdict} {consensus}

- **MC3** trains encoders of sound, picture and narration so that a clip's embeddings agree only where all three do:
  first by contrast (align stage), then with a consensus loss too (refine stage). *w/o consensus* has no such loss.
- **A, V, L** are audio, video and language. *AV ROC*: how well the similarity of sound and picture finds the actions
  that sound (.5 is chance). *V→A @5*: the share of an action's sounds among the first five for its picture, in percent.
- **Regions I-IV** sort clips by what agrees. I: the narrated action is seen and heard. II: something else in view
  sounds. III: the action is silent. IV: it is heard, but not seen. The [glossary](../../docs/glossary.md) has all.
"""

BOARD_TEXT = """# Leaderboard

Discovery (areas under curves) and retrieval (recall at 5 in percent) by the paper's protocol. `mc3 report` makes this
page from `figures/` and [leaderboard.csv](leaderboard.csv). The two data sets cannot be compared with each other.

## How to submit a row

1. `mc3 clips --export clips/` writes the test clips; embed them with your model ([benchmark.md](benchmark.md)).
2. `mc3 evaluate mine.safetensors --row mine` measures them and writes `figures/evaluate/leaderboard.csv`, one row.
3. Open a pull request that appends this row to `docs/leaderboard.csv`, with the date and, in the column `card`, a link
   to a model card: training data (does it contain these clips or their sounds?), size, licence, and where the
   embeddings file can be fetched. We measure the file again; its SHA-256 is in the row.
"""

LINK = r"https?://[\w.~:/?#@!$&'*+,;=%-]+"  # of a model card
EXPLORER = """- [Explorer: a map of the clips](explorer/index.html). Click a point to play the clip and to see its
  neighbours; w/o consensus and MC3 side by side."""
EARLIER = " **Made with earlier settings, to be run again.**"
NOTES = """## How to read the pages

- In tables, each cell is our number, then in brackets the paper's number and the difference.
- The paper's numbers are of Ego4D and EPIC-Sounds, with encoders of 114 M parameters; only the profile `ego4d` has that
  setting. Other data changes levels; the ranking of methods, and whether a claim holds, can be compared.
- A difference between methods whose interval includes 0 is not a finding. With one seed, an interval does not cover
  the variation between seeds.
- ASF (Table 4) is quoted, not trained.
- The supplement is not public here: where the paper's text does not name the values of its ablations, they are ours.
"""


def write(config: Config, figures: Path = Path("figures"), docs: Path = Path("docs")) -> Path:
    """Write the report's index, which it returns, the overview, metrics/ and docs/leaderboard.md.

    Raises `DataError` for what is missing.
    """
    found = {stem: tables.read(stem, stage, figures) for stem, stage in TABLES.items()}
    verdict = claims.sentence(tables.read("claims", "claims", figures))
    consensus = gain(tables.read("differences", "claims", figures))
    required, contents = notebook.pages([notebook.PIPELINES[0]]), ["## Pages\n"]
    for name in notebook.pages():
        if (figures / "report" / f"{name}.html").exists():
            title, sentence = notebook.heading(config.paths.work / "sources" / f"{name}.ipynb")
            current = name in required or provenance.is_current(figures / f"{name}.provenance.json", config)
            contents.append(f"- [{title}]({name}.html). {sentence}{'' if current else EARLIER}")
        elif name in required:
            raise DataError(f"{figures}/report/{name}.html is missing; `dvc repro {name}` makes it")
    if (figures / "report" / "explorer" / "index.html").exists():
        contents.append(EXPLORER)
    overview = tables.overview(found["table2_discovery"], found["table3_retrieval"])
    write_atomic(figures / "overview.csv", overview.to_csv(index=False).encode())
    here = f"here, on {'a generated world' if config.world else config.profile}"
    caption = "The main columns of Tables 2 and 3: ours above, the paper's below; a grey line is chance."
    picture = plots.show(plots.overview(overview, here), figures / "overview", caption)
    board = leaderboard(found, config.profile, pd.read_csv(docs / "leaderboard.csv"))
    write_atomic(docs / "leaderboard.md", board.encode())
    write_metrics(metrics(found), figures / "metrics")
    generated = "a small generated world, not on Ego4D: compare rankings with the paper's, not numbers"
    world = generated if config.world else "the real data sets of this profile"
    seeds = f"seed{'s' * (len(config.seeds) > 1)} {', '.join(map(str, config.seeds))}"
    introduction = INTRODUCTION.format(
        world=world, profile=config.profile, seeds=seeds, verdict=verdict, consensus=consensus)  # fmt: skip
    image = {"image/png": base64.b64encode(picture.data).decode()}
    cells = [
        new_markdown_cell(introduction),
        new_code_cell("", outputs=[new_output("display_data", image, metadata={"image/png": picture.metadata})]),
        *drawing(figures / "method"),
        new_markdown_cell("\n".join([*contents, "", NOTES])),
    ]
    index = figures / "report" / "index.html"
    write_atomic(index, page.render(new_notebook(cells=cells), "contents of the report").encode())
    return index


def drawing(stem: Path) -> list[Any]:
    """The cell that shows the method on a clip of each region, as the consensus page drew it; none without it."""
    picture = stem.with_suffix(".png")
    if not picture.exists():
        return []
    alt = "The method on a clip of each region: the encoders' inputs, and similarities before and after refinement."
    facts = {"image/png": {"alt": alt, "stem": stem.as_posix()}}
    image = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
    return [new_code_cell("", outputs=[new_output("display_data", image, metadata=facts)])]


def gain(differences: pd.DataFrame) -> str:
    """What the consensus loss gains at discovery, as a sentence: the reference row minus its control."""
    control, reference = (methods.with_role(role) for role in ("control", "reference"))
    rows = differences[(differences["method"] == control) & differences["metric"].isin(["av_roc", "al_roc"])]
    if rows.empty:
        return ""
    found = rows.assign(text=tables.intervals(rows.rename(columns={"low": "difference_low", "high": "difference_high"}),
                                              "difference"))  # fmt: skip
    numbers = " and ".join(f"{row.text} in {tables.header(row.metric)}" for row in found.itertuples())
    names = f"{tables.label(reference)} minus {tables.label(control)}"
    word = "gains" if (rows["low"] > 0).any() else "loses" if (rows["high"] < 0).any() else "gains nothing"
    return f"**Consensus {word} here**: {names} is {numbers} (95 % intervals)."


def metrics(found: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Each trained or foreign row's main numbers of Tables 2 to 4, for `dvc metrics`: {row: {metric: value}}."""
    linear = found["table4_epic_sounds"].query("protocol == @store.LINEAR").set_index("method").filter(["top1"])
    parts = [
        found[stem][found[stem]["seeds"] > 0].set_index("method") for stem in ("table2_discovery", "table3_retrieval")
    ]
    table = pd.concat([parts[0], parts[1], linear.add_prefix("linear_")], axis=1)
    table = table.reindex(parts[0].index).loc[:, lambda t: ~t.columns.duplicated()]
    chosen = table.reindex(columns=[*tables.BOARD, "linear_top1"])
    rows = chosen.to_dict("index")
    return {str(row): {str(m): round(v, 6) for m, v in own.items() if not math.isnan(v)} for row, own in rows.items()}


def write_metrics(rows: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Make ROW.json the only files of `folder`: DVC shows a line for each file."""
    for left in {*folder.glob("*.json")} - {folder / f"{row}.json" for row in rows}:
        left.unlink()
    for row, numbers in rows.items():
        write_atomic(folder / f"{row}.json", f"{json.dumps(numbers, indent=1)}\n".encode())


def leaderboard(found: dict[str, pd.DataFrame], profile: str, submitted: pd.DataFrame) -> str:
    """docs/leaderboard.md: our rows of Tables 2 and 3, the paper's, and those `submitted` (of docs/leaderboard.csv)."""
    columns = ["method", "label", *tables.BOARD]
    both = found["table2_discovery"].merge(found["table3_retrieval"], on=["method", "label"], how="outer", sort=False)
    foreign = both["method"].str.startswith(store.FOREIGN)
    ours = both[(both["seeds_x"].fillna(0) > 0) & ~foreign].reindex(columns=columns).assign(source="measured here")
    paper = both[["label", *(f"paper_{m}" for m in tables.BOARD)]].rename(columns=lambda c: c.removeprefix("paper_"))
    paper = paper[paper[list(tables.BOARD)].notna().any(axis=1)].assign(source="the paper")
    sent = submitted.assign(label=submitted["row"])
    cards = [f"[card]({c})" if re.fullmatch(LINK, c) else _plain(c) for c in sent["card"].astype(str)]
    link = [f"{card}, {_plain(date)}" for card, date in zip(cards, sent["date"], strict=True)]
    sent = sent.assign(source=link)
    boards = [
        f"## Generated world, profile `{profile}`",
        _board(pd.concat([ours, sent[sent["profile"] == profile]])),
    ]
    boards += ["## Ego4D", _board(pd.concat([paper, sent[sent["profile"] != profile]]))]
    return "\n\n".join([BOARD_TEXT.strip(), *boards]) + "\n"


def _board(rows: pd.DataFrame) -> str:
    """Rows as a Markdown table, the highest AV ROC first; labels are shown as text."""
    rows = rows.sort_values(["av_roc", "al_roc"], ascending=False, kind="stable", na_position="last")
    lines = [["Row", *map(tables.header, tables.BOARD), "Source"], ["---"] * (len(tables.BOARD) + 2)]
    for row in rows.to_dict("records"):
        cells = [
            "–" if pd.isna(row[m]) else f"{row[m]:.{3 if m.endswith(('roc', 'pr')) else 1}f}" for m in tables.BOARD
        ]
        lines.append([_plain(row["label"]), *cells, row["source"]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """A cell of a Markdown table that shows `value` as text: no element, link, picture, code or further cell."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return re.sub(r"[\\`|\[\]]", r"\\\g<0>", html.escape(shown, quote=False))


def readme_table(figures: Path = Path("figures")) -> str:
    """Table 2 as Markdown, for README.md between its lines <!-- table2 --> and <!-- /table2 -->."""
    significant = bootstrap.significant(tables.read("differences", "claims", figures))
    return tables.to_markdown(tables.read("table2_discovery", "discovery", figures), significant=significant)
