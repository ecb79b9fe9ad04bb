"""The page holds all of it, needs nothing else, and runs nothing."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
from PIL import Image

from mc3 import config, methods
from mc3.config import Config
from mc3.errors import DataError
from mc3.paper import bootstrap, claims, report, tables
from mc3.paper.plots import sweeps

ROOT = Path(__file__).parents[1]
NASTY = 'C <script>alert(1)</script> & "cuts"'
ENDS = ("", "_low", "_high")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return config.load(small_work.make(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def written(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A figures folder with real tables, blank pictures and a provenance whose texts are hostile."""
    figures = tmp_path_factory.mktemp("figures")
    for stem, make in (
        ("table2_discovery", tables.table2),
        ("table3_retrieval", tables.table3),
        ("table4_epic_sounds", tables.table4),
    ):
        make(settings).to_csv(figures / f"{stem}.csv", index=False)
    measured = bootstrap.measure(settings, draws=50)
    judged = claims.table(claims.checks(measured))
    judged.loc[0, "text"] = NASTY
    for section in report.SECTIONS:
        for stem, _ in section.pictures:
            Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(figures / f"{stem}.png")
        for stem, _ in section.numbers:
            pd.DataFrame({"checkpoint": [NASTY], "gap": [0.12345]}).to_csv(figures / f"{stem}.csv", index=False)
        about = {"commit": "a" * 40, "dirty": True, "device": "cpu", "inputs": {NASTY: "0"}, "notebook": "1" * 64}
        (figures / f"{section.notebook}.provenance.json").write_text(json.dumps(about))
    judged.to_csv(figures / "claims.csv", index=False)
    bootstrap.differences(measured).to_csv(figures / "differences.csv", index=False)
    return figures


@pytest.fixture
def figures(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "figures"))


class Page(HTMLParser):
    """Start tags with attributes, and whether every tag was closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_loads_nothing_and_runs_nothing(settings: Config, figures: Path) -> None:
    text = report.write(settings, figures).read_text()
    page = Page(text)
    assert page.open == []
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in page.tags}
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img")
    assert not re.search(r"https?://|url\(|@import|\son\w+=", text)
    assert len(text) < 2_000_000


def test_hostile_text_is_shown_and_not_obeyed(settings: Config, figures: Path) -> None:
    text = report.write(settings, figures).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_every_table_picture_caption_and_provenance_is_on_the_page(settings: Config, figures: Path) -> None:
    text = report.write(settings, figures).read_text()
    page = Page(text)
    pictures = [caption for section in report.SECTIONS for _, caption in section.pictures]
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"][1:] == pictures
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    for section in report.SECTIONS:
        assert f"notebooks/{section.notebook}.ipynb" in text
    assert text.count("commit aaaaaaaaaaaa with uncommitted changes") == 1 + len(report.SECTIONS)
    table = tables.cells(pd.read_csv(figures / "table2_discovery.csv"))
    for cell in table["AV ROC"]:
        assert f"<td>{cell}</td>" in text.replace("†", "")


def test_what_commands_outside_the_pipeline_wrote_is_shown_where_it_is_there(settings: Config, figures: Path) -> None:
    before = report.write(settings, figures).read_text()
    for section in report.BEYOND:
        assert html.escape(section.title) not in before
        (figures / "seeds").mkdir(exist_ok=True)
        for stem, _ in section.pictures:
            Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(figures / f"{stem}.png")
        for stem, _, _ in section.tables:
            shutil.copy(figures / f"{Path(stem).name}.csv", figures / f"{stem}.csv")
        for stem, _ in section.numbers:
            if stem.startswith("seeds/"):
                shutil.copy(figures / f"{Path(stem).name}.csv", figures / f"{stem}.csv")
            else:
                gaps = {f"{p}_{g}{e}": [0.1] for p in ("av", "al") for g in ("gap", "peers_gap") for e in ENDS}
                objective = {"objective": ["mc3"], "label": [NASTY], "seeds": [5]}
                objective |= {
                    "difference": [0.0],
                    "low": [0.0],
                    "high": [0.0],
                    **{axis: [0.0] for axis in sweeps.RATES},
                }
                trial = {"ablation": [NASTY], "setting": ["5"], "profile": [True], "seed": [0], "method": [NASTY]}
                trial |= {
                    "trial": [0],
                    "chosen": [True],
                    **{f"{t}{p}_roc": [0.1] for t in ("", "test_") for p in ("av", "al")},
                }
                row = {"row": [NASTY], "point": [NASTY], "roc": [0.12345], "prevalence": [0.5]}
                row |= {**gaps, **objective, **trial}
                pd.DataFrame(row).to_csv(figures / f"{stem}.csv", index=False)
    shutil.copy(figures / "differences.csv", figures / "seeds")
    about = {"commit": "b" * 40, "dirty": False, "inputs": {NASTY: "0"}}
    (figures / f"{report.BEYOND[0].notebook}.provenance.json").write_text(json.dumps(about))
    text = report.write(settings, figures).read_text()
    assert Page(text).open == []
    for section in report.BEYOND:
        assert html.escape(section.title) in text
        assert f"Made by <code>{section.command}</code>" in text
    assert text.count("commit bbbbbbbbbbbb") == 1
    assert report.results(figures).startswith(
        "**Table 2. Sounding action discovery, over several seeds** (`make seeds`)"
    )
    assert "<script" not in text


def test_numbers_have_three_decimals_and_small_ones_three_digits() -> None:
    shown = [report._shown(value) for value in (0.12345, -0.5, 0.0, 23.0, 0.000714, -0.0012345)]
    assert shown == ["0.123", "-0.500", "0.000", "23.000", "0.000714", "-0.00123"]


def test_recall_at_1_of_every_method_is_shown_beside_table_3(settings: Config, figures: Path) -> None:
    text = report.write(settings, figures).read_text()
    recall = tables.cells(pd.read_csv(figures / "table3_retrieval.csv"), ["v2a_r1", "a2v_r1", "l2a_r1", "a2l_r1"])
    assert list(recall.columns[-4:]) == ["V→A @1", "A→V @1", "L→A @1", "A→L @1"]
    for cell in recall["L→A @1"]:
        assert f"<td>{cell}</td>" in text


def test_sections_hold_every_notebook_but_the_explorer() -> None:
    books = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {section.notebook for section in report.SECTIONS} == books - {"explore"}


def test_written_twice_the_page_is_the_same_bytes(settings: Config, figures: Path) -> None:
    first = {path.name: path.read_bytes() for path in (report.write(settings, figures).parent).iterdir()}
    report.write(settings, figures)
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == first


def test_overview_takes_its_numbers_from_the_tables(figures: Path) -> None:
    shown = report.overview(figures).set_index(["metric", "method"])
    table = pd.read_csv(figures / "table2_discovery.csv").set_index("label")
    assert shown.at[("AV ROC", "MC3"), "ours"] == table.at["MC3", "av_roc"]
    assert shown.at[("AV ROC", "MC3"), "paper"] == 0.598
    assert pd.isna(shown.at[("AV ROC", "CLAP"), "ours"])


def test_a_missing_file_is_named_with_the_command_that_makes_it(settings: Config, figures: Path) -> None:
    (figures / "figure5_precision_recall.png").unlink()
    before = sorted(path.name for path in figures.iterdir())
    with pytest.raises(DataError, match=r"figure5_precision_recall\.png is missing; `dvc repro discovery`"):
        report.write(settings, figures)
    assert "report.html" not in before
    assert not (figures / "report.html").exists()


def test_results_go_between_the_readmes_markers_and_nothing_else_changes(
    settings: Config, figures: Path, tmp_path: Path
) -> None:
    report.write(settings, figures)
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n{report.START}\nold\n{report.END}\nafter\n")
    report.update_readme(readme, figures)
    once = readme.read_text()
    report.update_readme(readme, figures)
    assert readme.read_text() == once
    assert once == f"# before\n{report.START}\n{(figures / 'results.md').read_text()}{report.END}\nafter\n"
    assert "| MC3 |" in once


def test_a_readme_without_a_place_for_results_is_left_alone(figures: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# no markers\n")
    (figures / "results.md").write_text("x\n")
    with pytest.raises(DataError, match="no place for results"):
        report.update_readme(readme, figures)
    assert readme.read_text() == "# no markers\n"


def test_the_readme_shows_the_committed_results() -> None:
    committed = (ROOT / "figures" / "results.md").read_text()
    assert report.readme_section(ROOT / "README.md") == committed == report.results(ROOT / "figures")


def test_metrics_are_the_tables_own_numbers_without_the_papers(figures: Path) -> None:
    found = report.metrics(figures)
    table = pd.read_csv(figures / "table2_discovery.csv").set_index("method")
    assert found["table2_discovery"]["mc3"]["av_roc"] == pytest.approx(table.loc["mc3", "av_roc"], abs=1e-6)
    assert set(found["table2_discovery"]) == {"random", *methods.METHODS}
    assert "av_roc" not in found["table2_discovery"]["clap"]
    assert "mc3 fine-tune" in found["table4_epic_sounds"]
    assert not [name for rows in found.values() for row in rows.values() for name in row if name.startswith("paper")]


def test_mc3s_place_is_counted_in_each_column_and_told_on_page_and_readme(settings: Config, figures: Path) -> None:
    file = figures / "table2_discovery.csv"
    table = pd.read_csv(file).set_index("method")
    table["av_roc"] = np.linspace(0.5, 0.6, len(table))
    table.loc["mc3", "av_roc"] = table["av_roc"].nlargest(3).iloc[2] - 1e-6
    table.loc["clap", "av_roc"] = np.nan
    table.reset_index().to_csv(file, index=False)
    published = [name for name in table.index if name in methods.METHODS and methods.get(name).paper]
    above = (table.loc[published, "av_roc"] > table.loc["mc3", "av_roc"]).sum()
    sentence = report.place(figures)
    assert f"AV ROC: {1 + above} of 7 (the paper: 1 of 7)" in sentence
    assert sentence.startswith("MC3's rank, with 1 seed: ")
    page = report.write(settings, figures).read_text()
    assert html.escape(sentence) in page
    counted = claims.sentence(pd.read_csv(figures / "claims.csv"))
    assert (figures / "results.md").read_text().startswith(f"{sentence}\n\n{counted}\n\n**Table 2")
    assert html.escape(counted) in page


def test_every_claim_stands_on_the_page_with_its_verdict_before_any_table(settings: Config, figures: Path) -> None:
    text = report.write(settings, figures).read_text()
    judged = pd.read_csv(figures / "claims.csv")
    place = text.index("<h2 id=")
    assert text[place:].startswith('<h2 id="claims">')
    for claim, verdict in zip(judged["text"], judged["verdict"], strict=True):
        place = text.index(f"<td>{html.escape(claim, quote=False)}</td>", place)
        assert verdict in text[place : place + len(claim) + 120]
    assert place < text.index("Table 2")


def test_a_dagger_marks_the_numbers_whose_difference_to_mc3_has_an_interval_without_zero(
    settings: Config, figures: Path
) -> None:
    found = pd.read_csv(figures / "differences.csv").fillna({"protocol": ""})
    found[["low", "high"]] = -1.0, 1.0
    found.loc[(found["method"] == "cmc") & (found["metric"] == "av_roc"), "low"] = 0.1
    found.loc[(found["protocol"] == "fine-tune") & (found["metric"] == "map"), "high"] = -0.1
    found.to_csv(figures / "differences.csv", index=False)
    report.write(settings, figures)
    lines = [line for line in (figures / "results.md").read_text().splitlines() if line.startswith("|") and "†" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| CMC", "| untrained"]
    assert [line.count("†") for line in lines] == [1, 1]
    assert "fine-tune" in lines[1]
