"""figures/report/index.html, the contents of the report, and metrics.json: from what notebooks wrote to figures/."""

import base64
import json
import math
from pathlib import Path

import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mc3.config import Config
from mc3.errors import DataError
from mc3.files import write_atomic
from mc3.paper import bootstrap, claims, notebook, plots, provenance, tables

TABLES = {"table2_discovery": "discovery", "table3_retrieval": "retrieval", "table4_epic_sounds": "epic_sounds"}

INTRODUCTION = """# MC3: how actions sound, with the paper's results beside ours

Every table, figure and experiment of *SoundingActions: Learning How Actions Sound from Narrated Egocentric Videos*, as
this repository reproduces it. Each page below is an executed notebook of `notebooks/`; its code is folded away.

**The numbers are of {world}.** Profile `{profile}`, {seeds}.
"""

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


def write(config: Config, figures: Path = Path("figures")) -> Path:
    """Write the report's index, which it returns, the overview and metrics.json; `DataError` for what is missing."""
    found = {stem: tables.read(stem, stage, figures) for stem, stage in TABLES.items()}
    verdict = claims.sentence(tables.read("claims", "claims", figures))
    required, contents = notebook.pages([notebook.PIPELINES[0]]), ["## Pages\n"]
    for name in notebook.pages():
        if (figures / "report" / f"{name}.html").exists():
            title, sentence = notebook.heading(config.paths.work / "sources" / f"{name}.ipynb")
            current = name in required or provenance.is_current(figures / f"{name}.provenance.json", config)
            contents.append(f"- [{title}]({name}.html). {sentence}{'' if current else EARLIER}")
        elif name in required:
            raise DataError(f"{figures}/report/{name}.html is missing; `dvc repro {name}` makes it")
    overview = tables.overview(found["table2_discovery"], found["table3_retrieval"])
    overview.to_csv(figures / "overview.csv", index=False)
    picture = plots.save(plots.overview(overview), figures / "overview")
    write_atomic(figures / "metrics.json", f"{json.dumps(metrics(found), indent=1)}\n".encode())
    generated = "a small generated world, so compare rankings with the paper's, not numbers"
    world = generated if config.world else "the real data sets of this profile"
    seeds = f"seed{'s' * (len(config.seeds) > 1)} {', '.join(map(str, config.seeds))}"
    introduction = INTRODUCTION.format(world=world, profile=config.profile, seeds=seeds)
    image = {"image/png": base64.b64encode(picture.read_bytes()).decode()}
    caption = {"image/png": {"alt": "The main columns of Tables 2 and 3, ours and the paper's."}}
    cells = [
        new_markdown_cell(f"{introduction}\n\n{verdict}"),
        new_code_cell("", outputs=[new_output("display_data", image, metadata=caption)]),
        new_markdown_cell("\n".join([*contents, "", NOTES])),
    ]
    index = figures / "report" / "index.html"
    write_atomic(index, notebook.render(new_notebook(cells=cells), "contents of the report").encode())
    return index


def metrics(found: dict[str, pd.DataFrame]) -> dict[str, dict[str, dict[str, float]]]:
    """Our numbers of Tables 2-4 for `dvc metrics`: {table: {method, or method and protocol: {metric: value}}}."""
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    for stem, table in found.items():
        names = [name for name in table if f"paper_{name}" in table]
        rows = numbers.setdefault(stem, {})
        for row in table.fillna({"protocol": ""}).to_dict("records"):
            if values := {name: round(row[name], 6) for name in names if not math.isnan(row[name])}:
                rows[f"{row['method']} {row.get('protocol', '')}".rstrip()] = values
    return numbers


def readme_table(figures: Path = Path("figures")) -> str:
    """Table 2 as Markdown, for README.md between its lines <!-- table2 --> and <!-- /table2 -->."""
    significant = bootstrap.significant(tables.read("differences", "claims", figures))
    return tables.to_markdown(tables.read("table2_discovery", "discovery", figures), significant=significant)
