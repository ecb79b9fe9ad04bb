"""figures/report/index.html: the contents of the report, whose pages are the executed notebooks; and metrics.json.

It is made from what the notebooks wrote to figures/, so it shows what is committed and computes no result.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import pandas as pd

from mc3.config import Config
from mc3.errors import DataError
from mc3.files import write_atomic
<<<<<<< HEAD
from mc3.paper import claims, notebook, plots, tables
=======
from mc3.paper import claims, plots, tables
>>>>>>> main

TABLES = {"table2_discovery": "discovery", "table3_retrieval": "retrieval", "table4_epic_sounds": "epic_sounds"}

INTRODUCTION = """# MC3: how actions sound, with the paper's results beside ours

Every table, figure and experiment of *SoundingActions: Learning How Actions Sound from Narrated Egocentric Videos*, as
this repository reproduces it. Each page below is an executed notebook of `notebooks/`; its code is folded away.

**The numbers are of {world}.** Profile `{profile}`, seed{plural} {seeds}.
"""

NOTES = """## How to read the pages

<<<<<<< HEAD
- In tables, each cell is our number, then in brackets the paper's number and the difference.
- The paper's numbers are of Ego4D and EPIC-Sounds, with encoders of 114 M parameters; only the profile `ego4d` has that
  setting. Other data changes levels; the ranking of methods, and whether a claim holds, can be compared.
- A difference between methods whose interval includes 0 is not a finding. With one seed, an interval does not cover
  the variation between seeds.
- ASF and SSAST (Table 4) are quoted, not trained.
- The supplement is not public here: where the paper's text does not name the values of its ablations, they are ours.
=======

SECTIONS = (
    Section(
        "claims",
        "What holds of the paper",
        "Every sentence of the paper that compares results, as paired differences on the same test videos and seeds. A "
        "claim holds if the 95 % intervals of all its comparisons lie above zero, does not if one lies below, and is "
        "undecided otherwise. The weakest comparison decides and is shown; figures/claim_checks.csv has all of them.",
        pictures=(("differences", "MC3 minus every other row, with 95 % intervals; recall and top-k in percent."),),
        numbers=(
            ("claims", "The paper's claims, in our words. In the paper: comparisons that its own numbers bear out."),
        ),
    ),
    Section(
        "data",
        "Data: clips, how often actions sound, and the long tail (Table 1, Figure 4)",
        "Clips are 1.5 s around a narration. The paper's 33,000 labelled clips of Ego4D sound in 54 % of cases, by "
        "verb group between 9 % and 90 %; its sounding clips fall into 2,388 action groups.",
        pictures=(
            ("clip_cards", "One clip of each region of Figure 2: frames, sound, log-mel spectrogram, label and votes."),
            ("table1_verb_groups", "Table 1. Share of labelled clips whose action sounds, by verb; diamonds: paper."),
            ("figure4_long_tail", "Figure 4. Sounding clips by action group (verb and noun)."),
        ),
    ),
    Section(
        "discovery",
        "Discovery: which actions sound? (Table 2, Figure 5)",
        "A clip's score is the cosine of its audio and video embeddings (AV), or of audio and narration (AL).",
        table="table2_discovery",
        pictures=(("figure5_precision_recall", "Figure 5. Precision and recall of the first seed; dotted: chance."),),
    ),
    Section(
        "clusters",
        "Clusters of what is seen (Figure 6)",
        "Agglomerative clusters of the test clips' video embeddings. Shown by rule: the purest, the median and the "
        "least pure cluster, each with the clips nearest to its centre.",
        pictures=(("figure6_clusters", "Figure 6. Middle frame, log-mel spectrogram and narration of each clip."),),
    ),
    Section(
        "retrieval",
        "Retrieval: how do actions sound? (Table 3, Figure 7)",
        "Recall is set recall, the share of the query's action group among the first k, which is what the paper's "
        "Random row shows. It depends on the size of pool and groups: compare the order of methods, not levels.",
        table="table3_retrieval",
        pictures=(
            ("figure7_retrieval", "Figure 7. Queries drawn by chance: two that are answered and one that is not."),
        ),
        tables=(
            (
                "table3_retrieval",
                "The supplement's recall at 1, in percent, whose numbers the paper does not print.",
                ("v2a_r1", "a2v_r1", "l2a_r1", "a2l_r1"),
            ),
        ),
    ),
    Section(
        "epic_sounds",
        "Audio classification on EPIC-Sounds (Table 4)",
        "The audio encoder frozen under one linear layer, and fine-tuned. ASF and SSAST are the paper's rows and "
        "are not trained here; untrained is the encoder's initial weights.",
        table="table4_epic_sounds",
        pictures=(
            ("epic_sounds_per_class", "Recall of each class, the most frequent to the left; first seed."),
            ("epic_sounds_confusion", "What each class is taken for: rows add up to 1; MC3 fine-tuned, first seed."),
        ),
    ),
    Section(
        "training",
        "While training (Sections 4.1, 4.4)",
        "Discovery on the validation clips after each epoch. The paper finds that consensus without the align stage "
        "does not train well, and that the contrastive loss must stay in the refine stage.",
        pictures=(
            ("training_curves", "Validation ROC by training step, first seed; test results use the last point."),
        ),
    ),
    Section(
        "consensus",
        "Does consensus do what Figures 2 and 3 draw?",
        "The paper argues with drawings that refinement by consensus keeps what all modalities agree on. Where the "
        "region of a clip is known (the generated world) this can be measured.",
        pictures=(
            ("figure2_regions", "Figure 2 measured. Similarity by region: quartiles, 5th to 95th percentile, mean."),
            ("figure3_consensus", "Figure 3 measured. Each test clip's two similarities to audio; dashed: both equal."),
        ),
        numbers=(("figure3_consensus", "Figure 3 in numbers, by checkpoint and region."),),
    ),
)

BEYOND = (
    Section(
        "seeds",
        "More seeds: Tables 2-4 over five",
        "The tables above are of the profile's seeds, so that they can be made again in minutes. These are of more: "
        "the same clips, other initial weights and orders of the clips. Intervals are over videos and seeds.",
        pictures=(
            ("seeds/overview", "Main results beside the paper's; bars: standard deviation over seeds."),
            ("seeds/differences", "MC3 minus every other row, with 95 % intervals; recall and top-k in percent."),
        ),
        numbers=(("seeds/claims", "The paper's claims, in our words, as above."),),
        tables=(
            ("seeds/table2_discovery", "Table 2.", ()),
            ("seeds/table3_retrieval", "Table 3.", ()),
            ("seeds/table4_epic_sounds", "Table 4.", ()),
        ),
        command="mc3 seeds",
    ),
    Section(
        "study",
        "Beyond the paper: when does consensus help?",
        "MC3, and Peers, beside w/o consensus in generated worlds that differ from the profile's in one rate, or in "
        "two. Each world is smaller and training shorter, so levels are not those of Table 2; what counts is the gap.",
        pictures=(
            ("study", "Gap in test ROC by rate: a mark a seed, its bar 95 % over videos; and for two rates at once."),
            ("study_regions", "Region I against each other region, before and after refinement; mean over seeds."),
        ),
        numbers=(
            ("study_points", "Every world: gaps to w/o consensus over seeds; 95 % intervals over videos and seeds."),
        ),
        command="mc3 study",
    ),
    Section(
        "study_failures",
        "Beyond the paper: where consensus fails",
        "Of each region the test clip whose audio-video similarity refinement moved furthest to the wrong side; its "
        "place is the share of test clips that are less similar.",
        pictures=(("study_failures", "First seed; region I should rise, the others should fall."),),
        command="mc3 study",
    ),
    Section(
        "ablations",
        "Ablations of Section 6 and of the supplement",
        "MC3 under changed settings, scored on the test clips. None of it was used to choose a setting.",
        pictures=(("ablations", "Test ROC by setting; dotted: the profile's own."),),
        numbers=(("ablations", "All trials, with validation and recall."),),
        command="mc3 ablate",
    ),
    Section(
        "tuning",
        "Every method tuned with the same number of trials",
        "Chosen by the mean of the validation ROCs; test numbers are of the chosen trial and of the profile's (trial "
        "0). The tables above use the profile's settings for all methods.",
        pictures=(("tuning", "Every trial on validation; filled: chosen."),),
        numbers=(("tuning", "All trials."),),
        command="mc3 tune",
    ),
    Section(
        "objectives",
        "Beyond the paper: another consensus than Eq. 3",
        "What may stand in place of Eq. 3 at its cost, and without knowing the regions. Chosen on the validation "
        "clips; the best is the last row of the tables above, where the test clips confirm it or do not. Peers: Eq. 1 "
        "in which a clip counts for the anchor and a modality as the other modalities agree on it, each trusted as far "
        "as it finds its own clips. Relative: Eq. 3 over similarities measured against the batch.",
        pictures=(("objectives", "Every seed on validation; filled: the best mean."),),
        numbers=(("objectives", "Means over seeds; difference of the mean to MC3's, 95 % interval over seeds."),),
        command="mc3 tune objectives",
    ),
    Section(
        "real_audio",
        "Beyond the paper: real recordings (ESC-10)",
        "Logistic regression on frozen features, five folds. What training in the generated world is worth on real "
        "sound, beside statistics of the log-mel spectrogram that know nothing. docs/real_audio.md says more.",
        pictures=(("real_audio", "Accuracy over five folds; intervals of the difference to log-mel statistics."),),
        numbers=(("real_audio", "All rows."),),
        command="mc3 transfer ESC-50",
    ),
    Section(
        "epic_narrations",
        "Beyond the paper: does the narrated action sound, on EPIC-KITCHENS?",
        "Narrations of EPIC-KITCHENS-100 whose verb can cause an event of EPIC-Sounds at that moment. Every number "
        "stands beside labels moved in time, and beside scores that never hear. docs/epic.md says more.",
        pictures=(("epic_narrations", "Share of sounding narrations by verb, real and moved in time; the scores."),),
        numbers=(("epic_narrations", "Scores, with 95 % intervals over videos."),),
        command="mc3 narrated",
    ),
    Section(
        "consensus_choice",
        "Choices: the reading of Eq. 2-3",
        "What the paper leaves open, chosen by the mean of both ROCs on the validation split, never on test.",
        numbers=(("consensus_choice", "Readings, the chosen one first."),),
        command="mc3 tune readings",
    ),
)

OVERVIEW = {"table2_discovery": ("av_roc", "al_roc"), "table3_retrieval": ("v2a_r5", "a2l_r5")}

# Numbers that are not printed as they are
TEXT = {"claims": claims.cells, "seeds/claims": claims.cells, "study_points": plots.study_cells}
HEADINGS = {
    "table2_discovery": "Table 2. Sounding action discovery",
    "table3_retrieval": "Table 3. Sounding action retrieval, recall in percent",
    "table4_epic_sounds": "Table 4. EPIC-Sounds classification",
}

NOT_MEASURED = (
    "The paper's numbers are of Ego4D and EPIC-Sounds with encoders of 114 M parameters; only the profile ego4d "
    "is that setting.",
    "ASF and SSAST (Table 4) are quoted, not trained.",
    "The supplement is not public here: its ablations (clip length, anchor, exponents, frames) are measured with "
    "values of our choice where the paper's text does not name them.",
    "Differences between methods whose interval holds 0 are not findings; of one seed the interval does not know what "
    "another seed would change.",
)

CSS = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5d5d5d; --page: #ffffff; --line: #d9d9d9; --band: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a8a8a8; --page: #161618; --line: #3a3a3e; --band: #202024; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; font: 16px/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 3rem; font-size: 1.25rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; } a { color: inherit; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .25rem .4rem; text-align: left; border-bottom: 1px solid var(--line); }
td:first-child { white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); } tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; padding: 8px; border-radius: 4px; }
figcaption, .soft { color: var(--soft); font-size: .9rem; }
details { margin: .8rem 0; font-size: .85rem; } pre { overflow-x: auto; background: var(--band); padding: .8rem; }
code { overflow-wrap: anywhere; }
@media print { body { max-width: none; } details { display: none; } }
>>>>>>> main
"""


def write(config: Config, figures: Path = Path("figures")) -> Path:
    """Write report/index.html, the overview figure with its CSV, and metrics.json to `figures`; return the index.

    Raises:
        DataError: a result or a page of the pipeline is missing; the message names it and the command that makes it.
    """
    found = {stem: tables.read(stem, stage, figures) for stem, stage in TABLES.items()}
    judged = tables.read("claims", "claims", figures)
    contents = _contents(config.paths.work / "sources", figures)
    overview = tables.overview(found["table2_discovery"], found["table3_retrieval"])
    overview.to_csv(figures / "overview.csv", index=False)
    picture = plots.save(plots.overview(overview), figures / "overview")
    write_atomic(figures / "metrics.json", f"{json.dumps(metrics(found), indent=1)}\n".encode())
    verdicts = [claims.sentence(judged)]
    if (figures / "seeds" / "claims.csv").exists():
        more = claims.sentence(pd.read_csv(figures / "seeds" / "claims.csv"))
        verdicts.append(f"Over more seeds ([page](seeds.html)): {more}")
    index = figures / "report" / "index.html"
    write_atomic(index, _render(config, verdicts, picture, contents).encode())
    return index


<<<<<<< HEAD
def metrics(found: dict[str, pd.DataFrame]) -> dict[str, dict[str, dict[str, float]]]:
=======
def overview(figures: Path) -> pd.DataFrame:
    """Numbers of the overview: method, metric, ours, std, paper, random, paper_random, separate_axis."""
    rows = []
    for stem, metrics in OVERVIEW.items():
        table = _csv(figures, stem, "discovery" if stem == "table2_discovery" else "retrieval")
        random = table[table["method"] == "random"].iloc[0]
        for metric in metrics:
            for row in table[table["method"] != "random"].to_dict("records"):
                ours = {"ours": row[metric], "std": row[f"{metric}_std"], "paper": row[f"paper_{metric}"]}
                chance = {"random": random[metric], "paper_random": random[f"paper_{metric}"]}
                axis = {"separate_axis": stem == "table3_retrieval"}  # recall depends on the size of the pool
                rows.append({"method": row["label"], "metric": tables.header(metric), **ours, **chance, **axis})
    return pd.DataFrame(rows)


def metrics(figures: Path) -> dict[str, dict[str, dict[str, float]]]:
>>>>>>> main
    """Our numbers of Tables 2-4 for `dvc metrics`: {table: {method, or method and protocol: {metric: value}}}."""
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    for stem, table in found.items():
        names = [name for name in table if f"paper_{name}" in table]
        rows = numbers.setdefault(stem, {})
        for row in table.to_dict("records"):
            protocol = row.get("protocol")
            key = f"{row['method']} {protocol}" if isinstance(protocol, str) and protocol else row["method"]
            if values := {name: round(row[name], 6) for name in names if not math.isnan(row[name])}:
                rows[key] = values
    return numbers


def readme_table(figures: Path = Path("figures")) -> str:
    """Table 2 over seeds as Markdown, for README.md between its lines <!-- table2 --> and <!-- /table2 -->."""
    table = tables.read("seeds/table2_discovery", "experiments/dvc.yaml:seeds", figures)
    differences = tables.read("seeds/differences", "experiments/dvc.yaml:seeds", figures)
    return tables.to_markdown(table, apart=tables.significant(differences))


def _contents(books: Path, figures: Path) -> str:
    """The pages as a Markdown list, in the order of their stages, with the sentence below each title."""
    required, lines = notebook.pages([notebook.PIPELINES[0]]), []
    for name in notebook.pages():
        if (figures / "report" / f"{name}.html").exists():
            title, sentence = notebook.heading(books / f"{name}.ipynb")
            lines.append(f"- [{title}]({name}.html). {sentence}")
        elif name in required:
            raise DataError(f"{figures}/report/{name}.html is missing; `dvc repro {name}` makes it")
    return "## Pages\n\n" + "\n".join(lines)


def _render(config: Config, verdicts: list[str], picture: Path, contents: str) -> str:
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

<<<<<<< HEAD
    generated = "a small generated world, so compare rankings with the paper's, not numbers"
    about = {
        "world": generated if config.world else "the real data sets of this profile",
        "profile": config.profile,
        "seeds": ", ".join(map(str, config.seeds)),
        "plural": "s" * (len(config.seeds) > 1),
    }
    image = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
    caption = {"image/png": {"alt": "The main columns of Tables 2 and 3, ours and the paper's."}}
    cells = [
        new_markdown_cell("\n\n".join([INTRODUCTION.format(**about), *verdicts])),  # type: ignore[no-untyped-call]
        new_code_cell("", outputs=[new_output("display_data", image, metadata=caption)]),  # type: ignore[no-untyped-call]
        new_markdown_cell(f"{contents}\n\n{NOTES}"),  # type: ignore[no-untyped-call]
    ]
    return notebook.render(new_notebook(cells=cells), "contents of the report")  # type: ignore[no-untyped-call]
=======

def readme_section(readme: Path = Path("README.md")) -> str:
    """What stands between the README's markers."""
    return _split(readme)[1]


def render(config: Config, figures: Path) -> str:
    """The whole page as HTML; every text that comes from a file is escaped."""
    shown = (*SECTIONS, *(section for section in BEYOND if _was_run(section, figures)))
    provenance = {s.notebook: _json(figures / f"{s.notebook}.provenance.json", s.notebook) for s in SECTIONS}
    first = provenance[SECTIONS[0].notebook]
    seeds = ", ".join(map(str, config.seeds))
    commits = {_commit(p) for p in provenance.values()}
    about = (
        f"Profile {config.profile}, seed{'s' if len(config.seeds) > 1 else ''} {seeds}; {first['device']}; "
        f"{commits.pop() if len(commits) == 1 else 'made at several commits, named in each section'}."
    )
    names = {s.notebook: s.title.removeprefix("Beyond the paper: ").split(":")[0] for s in shown}
    links = "".join(f'<a href="#{key}">{html.escape(name[0].upper() + name[1:])}</a>' for key, name in names.items())
    more = figures / "seeds"
    over_seeds = claims.sentence(_csv(more, "claims", "seeds")) if (more / "claims.csv").exists() else ""
    picture = _picture(figures, "overview", "Main results beside the paper's.", "report")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in NOT_MEASURED)
    sections = "".join(_section(section, figures) for section in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>MC3: results beside the paper's</title>
<style>{CSS}</style>
</head>
<body>
<h1>MC3: how actions sound, measured beside the paper</h1>
<p>{html.escape(about)}</p>
<nav>{links}</nav>
{picture}
<p>{html.escape(place(figures))}</p>
<p>{html.escape(claims.sentence(_csv(figures, "claims", "claims")))}</p>
{f'<p><a href="#seeds">Over more seeds</a>: {html.escape(over_seeds)}</p>' if over_seeds else ""}
<h2>How to read it</h2>
<p>In tables, each cell is ours, then in brackets the paper's number and the difference. Another data set than the
paper's changes levels; what carries over is the order of the methods, and whether a claim holds.</p>
<ul>{notes}</ul>
{sections}
</body>
</html>
"""


def _was_run(section: Section, figures: Path) -> bool:
    """Whether all that a section beyond the pipeline shows is there."""
    csvs = [stem for stem, *_ in (*section.numbers, *section.tables)]
    files = [f"{stem}.csv" for stem in csvs] + [f"{stem}.png" for stem, _ in section.pictures]
    return all((figures / file).exists() for file in files)


def _section(section: Section, figures: Path) -> str:
    parts = [f'<h2 id="{section.notebook}">{html.escape(section.title)}</h2>', f"<p>{html.escape(section.text)}</p>"]
    if section.table:
        table = _csv(figures, section.table, section.notebook)
        parts.append(f'<div class="table">{tables.to_html(table, apart=_apart(figures))}</div>')
    parts += [_picture(figures, stem, caption, section.notebook) for stem, caption in section.pictures]
    for stem, caption in section.numbers:
        numbers = _csv(figures, stem, section.notebook)
        shown = TEXT.get(stem, pd.DataFrame)(numbers)
        text = shown.to_html(index=False, border=0, escape=True, float_format=_shown, na_rep="–")
        parts.append(f'<p class="soft">{html.escape(caption)}</p><div class="table">{text}</div>')
    for stem, caption, metrics in section.tables:
        apart = _apart(figures / "seeds") if stem.startswith("seeds/") else None
        text = tables.to_html(_csv(figures, stem, section.notebook), metrics or None, apart)
        parts.append(f'<p class="soft">{html.escape(caption)}</p><div class="table">{text}</div>')
    return "\n".join([*parts, _details(section, figures)])


def _shown(value: float) -> str:
    """Three decimals, or three digits of what would be lost by them, such as a learning rate."""
    return f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def _details(section: Section, figures: Path) -> str:
    made = f"Made by <code>{section.command or f'notebooks/{section.notebook}.ipynb'}</code>"
    file = figures / f"{section.notebook}.provenance.json"
    if not file.exists():
        return f'<p class="soft">{made}</p>\n'
    provenance = json.loads(file.read_text())
    text = html.escape(json.dumps(provenance, indent=1, sort_keys=True))
    made = f"{made}, {html.escape(_commit(provenance))}"
    return f"<details><summary>{made}</summary><pre>{text}</pre></details>\n"


def _commit(provenance: dict[str, Any]) -> str:
    if provenance["commit"] is None:
        return "outside a git repository"
    return f"commit {provenance['commit'][:12]}{' with uncommitted changes' if provenance['dirty'] else ''}"


def _picture(figures: Path, stem: str, caption: str, notebook: str) -> str:
    """A figure with its caption, the PNG as lossless WebP (half the bytes) inside the page."""
    path = _existing(figures / f"{stem}.png", notebook)
    buffer = io.BytesIO()
    with Image.open(path) as image:
        width, height = image.size
        image.convert("RGB").save(buffer, "WEBP", lossless=True, method=6)
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    words = html.escape(caption)
    return (
        f'<figure><img src="{uri}" width="{width}" height="{height}" alt="{words}">'
        f"<figcaption>{words}</figcaption></figure>\n"
    )


def _apart(figures: Path) -> set[tables.Place]:
    """The numbers whose difference to MC3's has an interval without 0."""
    found = _csv(figures, "differences", "claims").fillna({"protocol": ""})
    found = found[(found["low"] > 0) | (found["high"] < 0)]
    return set(zip(found["method"], found["protocol"], found["metric"], strict=True))


def _csv(figures: Path, stem: str, notebook: str) -> pd.DataFrame:
    return pd.read_csv(_existing(figures / f"{stem}.csv", notebook))


def _json(path: Path, notebook: str) -> dict[str, Any]:
    return json.loads(_existing(path, notebook).read_text())


def _existing(path: Path, notebook: str) -> Path:
    if not path.exists():
        raise DataError(f"{path} is missing; `dvc repro {notebook}` writes it")
    return path


def _split(readme: Path) -> Sequence[str]:
    """The README before, between and after the markers."""
    if not readme.exists():
        raise DataError(f"no {readme} to put results into")
    before, start, rest = readme.read_text().partition(f"{START}\n")
    between, end, after = rest.partition(END)
    if not (start and end):
        raise DataError(f"{readme} has no place for results; write {START} and {END}, each on a line of its own")
    return before, between, after
>>>>>>> main
