"""The notebooks are short, stripped, and write exactly the files that their DVC stages promise."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_work
import yaml
from conftest import ROOT
from markup import obeyed
from raw_files import clicks, write_media
from safetensors.numpy import save_file

from mc3 import config, store
from mc3.paper import bootstrap, foreign, notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code(path: Path) -> list[dict[str, Any]]:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's top with a small work folder, params.yaml and the notebooks."""
    top = tmp_path_factory.mktemp("clone")
    small_work.make(top)
    shutil.copytree(ROOT / "notebooks", top / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "experiments", top / "experiments")
    shutil.copy(ROOT / "requirements.lock", top)
    shutil.copytree(ROOT / "benchmarks", top / "benchmarks")
    differences = bootstrap.differences(bootstrap.measure(config.load(top / "params.yaml"), draws=20))
    pictures = shutil.ignore_patterns("*.png", "*.svg", "report")
    results = shutil.copytree(ROOT / "figures", top / "results", ignore=pictures)
    differences.to_csv(results / "differences.csv", index=False)
    settings = config.load(top / "params.yaml")
    small_work.initial(settings, ["mc3", "wo_consensus", "cmc", "peers"])
    sound = clicks(9.0, np.arange(0.5, 9, 0.8), 16000)
    video = write_media(top / "video.mp4", 9.0, sound=sound)  # of all test videos
    for path in store.clips(settings).query("split == 'test'")["path"].unique():
        (settings.paths.raw / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, settings.paths.raw / path)
    given, embeddings = top / "mine.safetensors", store.embeddings(settings, "cmc", 0)
    save_file(embeddings, given, {"clip_id": json.dumps(store.clips(settings)["clip_id"].tolist())})
    foreign.add(settings, given, "mine", None, keep=False)
    return top


def stages() -> dict[str, dict[str, Any]]:
    """The stages that run a notebook, by the notebook's name."""
    pipelines = [yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "experiments/dvc.yaml")]
    all_stages = [stage for pipeline in pipelines for stage in pipeline["stages"].values()]
    return {name: stage for stage in all_stages for name in re.findall(r"mc3 notebook (\w+)", str(stage["cmd"]))}


def test_the_git_filter_finds_nothing_to_strip() -> None:
    command = [sys.executable, "-m", "nbstripout", "--verify", *map(str, NOTEBOOKS)]
    assert subprocess.run(command, capture_output=True).returncode == 0


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_notebook_is_in_canonical_form_but_for_plain_numbers_as_ids(path: Path) -> None:
    ours, canonical = json.loads(path.read_bytes()), json.loads(notebook.canonical(path))
    for number, (cell, other) in enumerate(zip(ours["cells"], canonical["cells"], strict=True)):
        assert cell.pop("id") == str(number)
        other.pop("id")
    assert ours == canonical


@each_notebook
def test_a_notebook_has_a_title_and_one_sentence_for_the_contents_and_programs_nothing_itself(path: Path) -> None:
    title, sentence = notebook.heading(path)
    assert "\n" not in title + sentence
    assert 10 < len(title) < 90
    assert 20 < len(sentence) < 140
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert f"(../figures/report/{path.stem}.html)" in first or path.stem == "explore"  # which has no page
    assert sentence[-1] in ".?"
    cells = code(path)
    assert len(cells) <= 8
    assert [cell["metadata"].get("tags") for cell in cells].count(["parameters"]) == 1
    assert "config" in notebook.parameters(path.read_bytes())
    kinds = {type(node) for cell in cells for node in ast.walk(ast.parse(cell["source"]))}
    assert not kinds & {ast.ClassDef, ast.FunctionDef, ast.For, ast.While, ast.If, ast.Try}
    prose = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    assert sum(len("".join(cell["source"]).split()) for cell in prose) > 80


@each_notebook
def test_a_notebook_runs_and_writes_what_its_stage_promises(path: Path, clone: Path, monkeypatch) -> None:
    monkeypatch.chdir(clone)
    shutil.rmtree("figures", ignore_errors=True)
    shutil.copytree("results", "figures")
    before = {file: file.stat().st_mtime_ns for file in Path("figures").rglob("*")}
    names: dict[str, Any] = {}
    for cell in code(path):
        exec(compile(cell["source"], path.name, "exec"), names)
    files = [file for file in Path("figures").rglob("*") if file.is_file()]
    written = {file.as_posix() for file in files if file.stat().st_mtime_ns != before.get(file)}
    if path.stem in stages():
        promised = {name for out in stages()[path.stem]["outs"] for name in out}
        folders = {name for name in promised if Path(name).is_dir()}
        assert folders <= {f"figures/report/clips/{path.stem}"}
        loose = {name for name in written if Path(name).parent.as_posix() not in folders}
        assert loose == promised - folders - {f"figures/report/{path.stem}.html"}
    else:
        assert not any(name.endswith(".csv") for name in written if not name.startswith(f"figures/{path.stem}/"))
    assert all(Path(name).stat().st_size < 400_000 for name in written)


def test_the_runner_executes_a_notebook_in_a_kernel_of_its_own(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    shutil.copytree("results", "figures", dirs_exist_ok=True)
    settings = config.load()
    notebook.sources(Path("notebooks"), settings.paths.work / "sources")
    page = notebook.run("retrieval", settings, {})
    assert page == Path("figures/report/retrieval.html")
    assert "<h1" in page.read_text()
    assert page.read_text().count("window.ran") >= 10  # narrations of `small_work.HOSTILE` are shown ...
    assert obeyed(page.read_text()) == []  # ... and no more
    executed = settings.paths.work / "executed" / "retrieval.ipynb"
    outputs = [output for cell in json.loads(executed.read_text())["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert not any(output["output_type"] == "error" for output in outputs)
