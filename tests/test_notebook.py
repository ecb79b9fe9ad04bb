"""Notebooks: canonical copies, the strict runner, pages, provenance."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mc3.errors import ConfigError, DataError
from mc3.paper import notebook, provenance
from mc3.paper import page as pages

PARAMETERS = "config = 'params.yaml'\nlimit: int | None = None\na = b = 1"


def book(*sources: str):
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    title = new_markdown_cell("# Title\n\nOne sentence.")
    return new_notebook(cells=[title, parameters, *map(new_code_cell, sources)])


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)
    return path


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 99), st.text(max_size=20), st.booleans(), st.sampled_from(["python3", "mine"]))
def test_running_and_saving_a_notebook_does_not_change_its_canonical_copy(tmp_path, count, text, collapsed, kernel):
    plain = notebook.canonical(write(tmp_path / "a.ipynb", book("print(1)")))
    used = book("print(1)")
    used.cells[2].execution_count = count
    used.cells[2].outputs = [new_output("stream", text=text)]
    used.cells[2].metadata = {"collapsed": collapsed, "execution": {"iopub.status.busy": "2026-01-01"}}
    used.metadata = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}, "widgets": {}}
    assert notebook.canonical(write(tmp_path / "b.ipynb", used)) == plain


def test_a_changed_source_tag_or_order_changes_the_canonical_copy(tmp_path):
    versions = [book("x = 1"), book("x = 2"), book("x = 1", ""), book("x = 1")]
    versions[3].cells[2].metadata["tags"] = ["hide"]
    copies = {notebook.canonical(write(tmp_path / f"{i}.ipynb", version)) for i, version in enumerate(versions)}
    assert len(copies) == 4


def test_a_canonical_copy_is_a_valid_notebook_that_neither_a_second_copy_nor_the_git_filter_changes(tmp_path):
    data = notebook.canonical(write(tmp_path / "a.ipynb", book("x = 1\ny = 2")))
    (tmp_path / "b.ipynb").write_bytes(data)
    nbformat.validate(nbformat.read(tmp_path / "b.ipynb", as_version=4))
    assert notebook.canonical(tmp_path / "b.ipynb") == data
    strip = [sys.executable, "-m", "nbstripout", "--keep-id"]
    assert subprocess.run(strip, input=data, capture_output=True, check=True).stdout == data


def test_sources_writes_what_differs_and_removes_what_is_gone(tmp_path):
    for name in ("one", "two", "gone"):
        write(tmp_path / "notebooks" / f"{name}.ipynb", book("x = 1"))
    out = tmp_path / "work" / "sources"
    written = notebook.sources(tmp_path / "notebooks", out)
    assert [path.name for path in written] == ["gone.ipynb", "one.ipynb", "two.ipynb"]
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (tmp_path / "notebooks" / "gone.ipynb").unlink()
    write(tmp_path / "notebooks" / "two.ipynb", book("x = 2"))
    copies = notebook.sources(tmp_path / "notebooks", out)
    assert sorted(out.iterdir()) == copies == [out / "one.ipynb", out / "two.ipynb"]
    assert copies[0].stat().st_mtime_ns == before[copies[0]]
    assert copies[1].stat().st_mtime_ns > before[copies[1]]


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "a.ipynb").write_text("not json")
    with pytest.raises(notebook.NotebookError, match=r"a\.ipynb is not a notebook"):
        notebook.canonical(tmp_path / "a.ipynb")


def copy_of(config, *sources: str) -> Path:
    path = config.paths.work / "sources" / "n.ipynb"
    path.parent.mkdir(parents=True)
    path.write_bytes(notebook.canonical(write(path.parent / "raw", book(*sources))))
    return path


def test_a_name_that_is_a_path_a_missing_copy_and_an_unknown_parameter_are_refused(mini_config):
    for name in ("../n", "a/b", ".n", "", "n.ipynb/"):
        with pytest.raises(ConfigError, match="not a notebook's name"):
            notebook.run(name, mini_config, {})
    with pytest.raises(DataError, match="mc3 sources"):
        notebook.run("n", mini_config, {})
    copy_of(mini_config)
    with pytest.raises(ConfigError, match=r"no parameter 'limits'; known: config, limit, a, b$"):
        notebook.run("n", mini_config, {"limits": 3})
    assert not (mini_config.paths.work / "executed").exists()


def test_a_notebook_runs_at_the_top_in_this_interpreter_not_in_a_foreign_kernel(mini_config, repository, monkeypatch):
    foreign = repository / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "foreign", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(repository / "jupyter"))
    copy_of(mini_config, "import os, sys\nprint(sys.executable, os.getcwd(), limit, sep='|')")
    executed = notebook.run("n", mini_config, {"limit": 3})
    assert executed == mini_config.paths.work / "executed" / "n.ipynb"
    output = nbformat.read(executed, as_version=4).cells[-1].outputs[0].text
    assert output.strip() == f"{sys.executable}|{repository}|3"


def test_a_failing_cell_is_named_with_its_exception_and_the_executed_copy_stays(mini_config, repository):
    copy_of(mini_config, "x = 1", "raise ValueError(f'x is {x}')", "y = 2")
    failure = r"notebook n failed at In \[3\] with ValueError: x is 1; see .*n\.ipynb"
    with pytest.raises(notebook.NotebookError, match=failure):
        notebook.run("n", mini_config, {})
    assert (mini_config.paths.work / "executed" / "n.ipynb").exists()


RECORD = "from mc3.paper import notebook\nnotebook.record(notebook.start(config), 'n', [])"
NASTY = 'C <script>alert(1)</script> & "cuts" <img src=x onerror=alert(2)>'
OUTPUTS = f"""
import io
import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from PIL import Image as Picture
from mc3.paper import tables
nasty = {NASTY!r}
buffer = io.BytesIO()
Picture.new("RGB", (40, 20), "white").save(buffer, "PNG")
display(Image(buffer.getvalue(), alt="A caption: " + nasty))
display(tables.show(pd.DataFrame({{"text": [nasty], "number": [0.12345]}}), nasty))
display(HTML("<table><tr><td onclick='x()'>raw</td></tr></table>" + nasty))
display(HTML("<video controls preload='none' src='../figures/report/clips/n/a.mp4' poster='data:text/html,x'></video>"
             "<video src='https://example.org/a.mp4' autoplay></video><a href='data:text/html,x'>link</a>"))
display(Markdown("**bold** " + nasty))
print(nasty)
"""


class Page(HTMLParser):
    """Start tags with attributes; fails if a tag is not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in ("meta", "img", "br") or self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a notebook with hostile outputs between two others, made in two runs that must agree."""
    top = tmp_path_factory.mktemp("top")
    shutil.copy(ROOT / "requirements.lock", top)
    shutil.copy(ROOT / "profiles" / "mini.yaml", top / "params.yaml")
    (top / "experiments").mkdir()
    (top / "dvc.yaml").write_text("stages:\n  a: {cmd: mc3 notebook a}\n  n: {cmd: mc3 notebook n}\n")
    (top / "experiments" / "dvc.yaml").write_text("stages: {z: {cmd: [mc3 sweep z, mc3 notebook z]}}\n")
    for name, code in (("a", ""), ("n", f"{RECORD}\n{OUTPUTS}"), ("z", "")):
        write(top / "notebooks" / f"{name}.ipynb", book(code))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        config = notebook.start("params.yaml")
        notebook.sources(Path("notebooks"), config.paths.work / "sources")
        path = notebook.run("n", config, {"limit": 3})
        first = path.read_bytes()
        assert notebook.run("n", config, {"limit": 3}).read_bytes() == first
        assert path == Path("figures/report/n.html")
        recorded = json.loads(Path("figures/n.provenance.json").read_text())
    assert recorded["parameters"] == {"config": "params.yaml", "limit": 3, "a": 1, "b": 1}  # that it ran with
    assert recorded["settings"]["profile"] == "mini"
    assert recorded["notebook"] in first.decode()
    assert str(top) not in first.decode()
    return first.decode()


def test_a_page_is_well_formed_loads_nothing_runs_its_own_script_and_shows_hostile_text_without_obeying_it(page):
    parsed = Page(page)
    assert not {"iframe", "link", "object"} & {tag for tag, _ in parsed.tags}
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script == pages.SCRIPT.read_text().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert [attrs for tag, attrs in parsed.tags if tag == "script"] == [{}]
    assert [attrs["src"][:16] for tag, attrs in parsed.tags if tag == "img"] == ["data:image/webp;"]
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    policy = "default-src 'none'; img-src data:; media-src 'self' file:; style-src 'unsafe-inline'; script-src"
    assert f"{policy} 'sha256-{digest}'\"" in page
    assert [attrs for tag, attrs in parsed.tags if tag == "video"] == [
        {"controls": "", "preload": "none", "src": "clips/n/a.mp4"}, {}]  # fmt: skip
    assert "<a>link</a>" in page
    loads = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)  # the notebook's code
    assert not re.search(r"https?://|url\(|@import", loads)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6  # alt, caption, three outputs and stdout
    for shown in ("<td>raw</td>", "<strong>bold</strong>", "<td>0.123</td>"):
        assert shown in page


def test_a_page_has_its_code_folded_its_provenance_and_links_to_its_neighbours(page):
    parsed = Page(page)
    assert not [attrs for tag, attrs in parsed.tags if tag == "details" and "open" in attrs]
    assert "Made by <code>notebooks/n.ipynb</code>, outside a git repository" in page
    links = [attrs.get("href") for tag, attrs in parsed.tags if tag == "a"]
    assert [link for link in links if link and link.endswith(".html")] == ["index.html", "a.html", "z.html"] * 2
    assert links[0] == "#main"
    assert '<main id="main">' in page


def test_results_made_elsewhere_keep_their_own_provenance(with_notebook, mini_config):
    provenance.write(Path("input/n.origin.json"), {"commit": "c" * 40})
    notebook.record(mini_config, "n", ["input/n.origin.json"])
    found = json.loads(Path("figures/n.provenance.json").read_text())
    assert found["origins"] == {"input/n.origin.json": {"commit": "c" * 40}}
    assert set(found["inputs"]) == {"input/n.origin.json"}


def test_start_goes_to_the_folder_that_has_the_settings(repository, monkeypatch):
    (repository / "notebooks").mkdir()
    monkeypatch.chdir(repository / "notebooks")
    assert notebook.start("params.yaml").profile == "mini"
    assert Path.cwd() == repository


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    return subprocess.check_output(["git", *identity, *arguments], text=True).strip()


@pytest.fixture
def with_notebook(repository: Path) -> Path:
    write(repository / "notebooks" / "n.ipynb", book("x = 1"))
    (repository / "input").mkdir()
    (repository / "input" / "a.bin").write_bytes(b"abc")
    return repository


def test_committing_results_changes_no_provenance_and_changing_code_does(with_notebook, mini_config, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(with_notebook.parent))
    found = provenance.origin(mini_config, [])
    assert found["commit"] is found["dirty"] is None
    assert provenance.describe_commit(found) == "outside a git repository"
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "code")
    recorded = Path("figures/n.provenance.json")
    notebook.record(mini_config, "n", ["input"])
    first = recorded.read_bytes()
    git("add", "-A")
    git("commit", "-qm", "results")
    notebook.record(mini_config, "n", ["input"])
    assert recorded.read_bytes() == first
    found = json.loads(first)
    assert (found["commit"], found["dirty"]) == (git("rev-parse", "HEAD~1"), False)
    Path("params.yaml").write_text("changed: true\n")
    assert provenance.origin(mini_config, [])["dirty"] is True
    assert provenance.describe_commit(found | {"dirty": True}).endswith(" with uncommitted changes")
    git("commit", "-qam", "settings")
    assert provenance.origin(mini_config, [])["commit"] == git("rev-parse", "HEAD")


def test_inputs_are_hashed_and_named_without_the_machines_paths_and_must_exist(with_notebook, mini_config, tmp_path):
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"abc")
    found = provenance.origin(mini_config, ["input/a.bin", with_notebook / "input" / "a.bin", outside, Path("input")])
    abc = hashlib.sha256(b"abc").hexdigest()
    listing = hashlib.sha256(f"a.bin {abc}\n".encode()).hexdigest()
    assert found["inputs"] == {"input/a.bin": abc, "outside.bin": abc, "input": listing}
    assert found["lock"] == hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert set(found["versions"]) >= {"python", "torch", "numpy"}
    with pytest.raises(DataError, match=r"absent\.safetensors"):
        notebook.record(mini_config, "n", ["absent.safetensors"])
    assert not (with_notebook / "figures").exists()
