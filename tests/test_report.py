"""The contents page lists every page and the verdicts; metrics/ and README show the tables' own numbers."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from markup import obeyed

from mc3 import config, methods
from mc3.config import Config
from mc3.errors import DataError
from mc3.paper import bootstrap, claims, notebook, report, tables

PAGES = ["claims", "discovery"]


@pytest.fixture(scope="module")
def written(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's top with real tables, empty pages and two pipelines."""
    top = tmp_path_factory.mktemp("top")
    figures = top / "figures"
    (figures / "report").mkdir(parents=True)
    (top / "experiments").mkdir()
    (top / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "leaderboard.csv", top / "docs")
    for stem, make in zip(report.TABLES, (tables.table2, tables.table3, tables.table4), strict=True):
        make(small).to_csv(figures / f"{stem}.csv", index=False)
    measured = bootstrap.measure(small, draws=50)
    claims.table(claims.checks(measured)).to_csv(figures / "claims.csv", index=False)
    bootstrap.differences(measured).to_csv(figures / "differences.csv", index=False)
    notebook.sources(ROOT / "notebooks", small.paths.work / "sources")
    (top / "dvc.yaml").write_text("".join(f"  cmd: mc3 notebook {name}\n" for name in PAGES))
    (top / "experiments" / "dvc.yaml").write_text("  cmd: mc3 notebook tuning\n")
    for name in PAGES:
        (figures / "report" / f"{name}.html").touch()
    return top


@pytest.fixture
def figures(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(written, tmp_path / "top"))
    return Path("figures")


def links(page: str) -> list[str]:
    return re.findall(r'<li><a href="([^"#]+)"', page)


def test_the_contents_list_every_page_and_say_of_what_they_are_and_which_claims_hold(small, figures: Path) -> None:
    page = report.write(small, figures).read_text()
    first = re.search(r"</h1>\s*<p>(.*?)[.]", page, re.DOTALL)
    assert first
    assert "small generated world" in first[1]
    order = ["<p>", "Consensus ", 'href="../../docs/glossary.md"', "<figure>", '<li><a href="claims.html"']
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert html.escape(claims.sentence(pd.read_csv(figures / "claims.csv"))) in page
    assert links(page) == ["claims.html", "discovery.html"]
    for words in notebook.heading(ROOT / "notebooks" / "discovery.ipynb"):  # its title and its first sentence
        assert html.escape(words) in page
    (figures / "report" / "tuning.html").touch()
    page = report.write(small, figures).read_text()
    assert links(page) == ["claims.html", "discovery.html", "tuning.html"]
    assert page.count("Made with earlier settings") == 1
    (figures / "tuning.provenance.json").write_text(json.dumps({"settings": config.as_dict(small)}))
    assert "earlier settings" not in report.write(small, figures).read_text()
    first = {path: path.read_bytes() for path in figures.rglob("*") if path.is_file()}
    report.write(small, figures)  # again, with the same bytes
    assert {path: path.read_bytes() for path in figures.rglob("*") if path.is_file()} == first


def test_no_profile_or_title_of_a_page_is_markup_in_the_contents(small: Config, figures: Path) -> None:
    profile = "`<script>window.ran=1</script>`"
    assert "window.ran" in (page := report.write(replace(small, profile=profile), figures).read_text())
    assert obeyed(page) == []


@pytest.mark.parametrize("missing", ["table3_retrieval.csv", "report/discovery.html"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(small: Config, figures: Path, missing: str) -> None:
    (figures / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing} is missing; `dvc repro (discovery|retrieval)`"):
        report.write(small, figures)
    assert not (figures / "report" / "index.html").exists()


def test_overview_and_metrics_are_the_tables_own_numbers(small: Config, figures: Path) -> None:
    report.write(small, figures)
    table = pd.read_csv(figures / "table2_discovery.csv").set_index("method")
    shown = pd.read_csv(figures / "overview.csv").set_index(["metric", "method"])
    assert shown.at[("AV ROC", "MC3"), "ours"] == table.at["mc3", "av_roc"]
    assert shown.at[("AV ROC", "MC3"), "paper"] == 0.598
    assert pd.isna(shown.at[("AV ROC", "CLAP"), "ours"])
    found = {file.stem: json.loads(file.read_text()) for file in (figures / "metrics").iterdir()}
    assert found.keys() == set(methods.METHODS)
    assert found["mc3"]["av_roc"] == pytest.approx(table.loc["mc3", "av_roc"], abs=1e-6)
    assert "av_roc" not in found["clap"]
    linear = pd.read_csv(figures / "table4_epic_sounds.csv").query("method == 'mc3' and protocol == 'linear-probe'")
    assert found["mc3"]["linear_top1"] == pytest.approx(linear["top1"].item(), abs=1e-6)
    (figures / "metrics" / "gone.json").touch()
    report.write(small, figures)
    assert not (figures / "metrics" / "gone.json").exists()


def test_the_committed_overview_and_metrics_are_those_of_the_committed_tables() -> None:
    figures = ROOT / "figures"
    found = {stem: tables.read(stem, "", figures) for stem in report.TABLES}
    written = {file.stem: json.loads(file.read_text()) for file in (figures / "metrics").iterdir()}
    assert report.metrics(found) == written
    overview = tables.overview(found["table2_discovery"], found["table3_retrieval"])
    pd.testing.assert_frame_equal(overview, pd.read_csv(figures / "overview.csv"))


def test_the_readmes_table_2_is_the_committed_one() -> None:
    _, _, rest = (ROOT / "README.md").read_text().partition("<!-- table2 -->\n")
    shown, end, _ = rest.partition("<!-- /table2 -->")
    assert end, "README.md has no line <!-- /table2 --> after <!-- table2 -->; `mc3 report --table` prints the rest"
    assert shown.strip() == report.readme_table(ROOT / "figures").strip(), "`mc3 report --table` prints the present one"


def test_ranks_are_among_the_papers_methods_here_and_in_the_paper(figures: Path) -> None:
    table = pd.read_csv(figures / "table2_discovery.csv").set_index("method")
    table["av_roc"] = [0.5 + 0.01 * place for place in range(len(table))]
    table.loc["mc3", "av_roc"] = table["av_roc"].nlargest(3).iloc[2] - 1e-6
    table.loc["clap", "av_roc"] = float("nan")
    published = [name for name in table.index if name in methods.METHODS and methods.get(name).paper]
    above = (table.loc[published, "av_roc"] > table.loc["mc3", "av_roc"]).sum()
    ranks = tables.ranks(table.reset_index()).set_index("Column")
    assert ranks.loc["AV ROC"].to_list() == [f"{1 + above} of 7", "1 of 7"]


def test_a_dagger_marks_the_numbers_whose_difference_to_mc3_has_an_interval_without_zero(figures: Path) -> None:
    differences = {"method": ["cmc", "cmc", "mc3"], "protocol": [None, None, "fine-tune"]}
    differences |= {"metric": ["av_roc", "al_roc", "map"], "low": [0.1, -1.0, -1.0], "high": [1.0, 1.0, -0.1]}
    found = bootstrap.significant(pd.DataFrame(differences))
    assert found == {("cmc", "av_roc", ""), ("mc3", "map", "fine-tune")}
    text = tables.to_markdown(pd.read_csv(figures / "table2_discovery.csv"), significant=found)
    assert [line.split(" | ")[0] for line in text.splitlines() if "†" in line and line[0] == "|"] == ["| CMC"]


@pytest.mark.parametrize(("low", "high", "word"), [
    (-0.01, 0.02, "gains nothing"), (0.01, 0.02, "gains"), (-0.02, -0.01, "loses")])  # fmt: skip
def test_the_contents_say_what_consensus_gains_by_the_intervals(low: float, high: float, word: str) -> None:
    rows = {"method": ["wo_consensus"] * 3, "metric": ["av_roc", "al_roc", "v2a_r5"], "difference": (low + high) / 2}
    text = report.gain(pd.DataFrame(rows).assign(low=low, high=high))
    assert text.startswith(f"**Consensus {word} here**")
    assert f"[{low:+.3f}, {high:+.3f}] in AL ROC" in text
    assert "V→A" not in text


def test_a_table_has_words_for_columns_flags_and_keys_and_links_to_its_file() -> None:
    cells = {"chosen": [True, False], "verb": ["cut_(chop,_slice)", "put"], "method": ["wo_consensus", "x_y"]}
    shown = tables.show(pd.DataFrame(cells | {"validation_av_roc": 0.5}), "Caption", "a/b.csv").data
    for words in (">yes<", ">no<", ">cut<", ">w/o consensus<", ">x_y<", ">validation AV ROC<"):
        assert words in shown
    assert '<a href="../figures/a/b.csv">' in shown
    assert 'href="#made"' in shown


def test_numbers_have_three_decimals_and_small_ones_three_digits() -> None:
    shown = [tables.format_number(value) for value in (0.12345, -0.5, 0.0, 23.0, 0.000714, -0.0012345)]
    assert shown == ["0.123", "-0.500", "0.000", "23.000", "0.000714", "-0.00123"]
