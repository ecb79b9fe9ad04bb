"""The whole pipeline at a tiny setting, in temporary clones, as a user would meet it."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clones import COMMIT, ROOT, copy, ran, run

NOTEBOOKS = ["claims", "data", "discovery", "clusters", "retrieval", "epic_sounds", "consensus", "training",
             "later"]  # fmt: skip
TABLES = ["table2_discovery", "table3_retrieval", "table4_epic_sounds"]


def shrink(clone: Path) -> None:
    """The mini profile made tiny, with two of its methods and one of the user's own."""
    params = yaml.safe_load((clone / "params.yaml").read_text())
    events = {"train": 160, "validation": 100}
    params["world"] |= {"videos": {"train": 8, "validation": 3, "test": 8}, "seconds": 25.0, "epic_events": events}
    params["train"] |= {"epochs": {"pretrain": 1, "align": 1, "refine": 1}, "batch_size": 16}
    params["pretrain"] = {"world.seed": 1, "world.videos": {"train": 8, "validation": 2, "test": 2}}
    params["seeds"] = [0]
    params["evaluate"]["clusters"] = 4
    params["probe"]["linear"]["epochs"] = 2
    params["probe"]["finetune"]["epochs"] = 1
    (clone / "params.yaml").write_text(yaml.safe_dump(params))
    methods = clone / "mc3" / "methods.py"
    text = methods.read_text()
    start = text.index("METHODS: dict")
    end = text.index("}  # fmt: skip", start)
    clap, mc3 = (re.findall(rf'    "{name}": \{{.*?\]\}},\n', text, re.S)[0] for name in ("clap", "mc3"))
    mine = mc3.replace('"mc3"', '"mine"').replace('"label": "MC3", "paper": "MC3"', '"label": "Mine", "paper": ""')
    methods.write_text(f"{text[:start]}METHODS: dict[str, dict[str, Any]] = {{\n{clap}{mc3}{mine}{text[end:]}")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the work tree, in a path with a space, run through once."""
    clone = copy(tmp_path_factory.mktemp("work") / "a clone")
    shrink(clone)
    run(f"git init -q . && {COMMIT} start", clone)
    stages = ran(run("dvc repro", clone))
    assert stages[0] == "sources" or "raw" in stages
    assert {"pretrain", "train", "embed", "probe", "report"} <= set(stages)
    run(f"{COMMIT} results", clone)
    return clone


def test_one_command_writes_every_table_figure_and_the_report(clone: Path) -> None:
    figures = {path.name for path in (clone / "figures").iterdir()}
    assert {f"{table}.csv" for table in ("table1_verb_groups", *TABLES)} <= figures
    drawn = "2_regions", "4_long_tail", "5_precision_recall", "6_clusters", "7_retrieval"
    assert {f"figure{stem}.{suffix}" for stem in drawn for suffix in ("png", "svg")} <= figures
    for name in NOTEBOOKS:
        provenance = json.loads((clone / "figures" / f"{name}.provenance.json").read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", provenance["commit"])
        assert provenance["dirty"] is False
        assert "<html" in (clone / "figures" / "report" / f"{name}.html").read_text()
    assert "<table" in (clone / "figures" / "report" / "discovery.html").read_text()
    assert "discovery.html" in (clone / "figures" / "report" / "index.html").read_text()


def test_the_readmes_python_finds_moments_in_a_video(clone: Path) -> None:
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[0]
    manifest = pd.read_parquet(clone / "data" / "mini" / "manifest.parquet")  # its videos all have sound
    video = clone / "data" / "mini" / "world" / manifest.loc[manifest["dataset"] == "ego4d", "path"].iloc[0]
    (clone / "snippet.py").write_text(snippet.replace("my_video.mp4", str(video)))
    printed = run(f"'{sys.executable}' snippet.py && mc3 discover '{video}' --text 'washes a plate' --top 3", clone)
    (clone / "snippet.py").unlink()
    assert printed.count("similarity") == 2
    assert "washes a plate" in printed


def test_dvc_shows_metrics(clone: Path) -> None:
    shown = json.loads(run("dvc metrics show --json", clone))
    assert {Path(name).name for name in shown[""]["data"]} == {"clap.json", "mc3.json", "mine.json"}


def test_a_method_added_in_methods_py_is_a_row_of_every_table(clone: Path) -> None:
    for table in TABLES:
        assert "Mine" in set(pd.read_csv(clone / "figures" / f"{table}.csv")["label"]), table
    assert "Mine" in (clone / "figures" / "report" / "discovery.html").read_text()


def test_a_second_repro_runs_nothing(clone: Path) -> None:
    assert ran(run("dvc repro", clone)) == []
    assert [name for name in json.loads(run("dvc status --json", clone)) if "experiments/" not in name] == []


def test_saving_a_notebook_with_outputs_makes_no_result_stale(clone: Path) -> None:
    path = clone / "notebooks" / "discovery.ipynb"
    before = path.read_text()
    notebook = json.loads(before)
    for count, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = count + 1
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["seen\n"]}]
    notebook["metadata"]["widgets"] = {}
    path.write_text(json.dumps(notebook, indent=4))
    assert ran(run("dvc repro", clone)) == ["sources"]
    path.write_text(before)
    run("dvc repro", clone)


def test_a_comment_makes_no_result_stale_and_a_change_of_a_plot_those_that_draw(clone: Path) -> None:
    plots = clone / "mc3" / "paper" / "plots" / "results.py"
    before = plots.read_text()
    plots.write_text(before.replace('"""', '"""Other words. ', 1) + "\n# a remark\n")
    assert ran(run("dvc repro", clone)) == ["sources"]
    plots.write_text(before + "\nSPARE = 1\n")
    run("dvc repro sources", clone)
    status = json.loads(run("dvc status --json", clone))
    stale = {name for name in status if not name.startswith("experiments/")}
    assert "discovery" in stale
    assert stale <= {*NOTEBOOKS, "report"}
    plots.write_text(before)
    run("dvc repro sources", clone)


def test_embeddings_that_were_changed_by_one_bit_are_made_again_and_nothing_else(clone: Path) -> None:
    path = clone / "data" / "mini" / "embeddings" / "0" / "mc3.safetensors"
    before, lock = path.read_bytes(), (clone / "dvc.lock").read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    printed = run("dvc repro", clone)
    assert ran(printed) == ["embed"]
    assert "embed mc3-0: its result was changed after it was made" in printed
    assert (path.read_bytes(), (clone / "dvc.lock").read_bytes()) == (before, lock)


def test_stages_find_mc3_in_a_shell_without_the_environment(clone: Path) -> None:
    (clone / ".venv").symlink_to(sys.prefix)
    dvc = "PATH=/usr/bin:/bin .venv/bin/dvc repro --force --single-item sources"
    assert ran(run(dvc, clone)) == ["sources"]
    (clone / ".venv").unlink()


def test_changing_one_method_leaves_the_others_trained(clone: Path) -> None:
    methods = clone / "mc3" / "methods.py"
    before = methods.read_text()
    start, end = before.split('"mine"')
    methods.write_text(start + '"mine"' + end.replace('"consensus": 1.0', '"consensus": 0.5', 1))
    printed = run("dvc repro train", clone)
    assert re.findall(r"\[\d/\d\] train (\S+)", printed) == ["mine-0"]
    assert "4 results were up to date" in printed
    methods.write_text(before)
    run("dvc repro", clone)


def test_a_clone_with_the_cache_pulled_trains_nothing(clone: Path, tmp_path: Path) -> None:
    remote, second = tmp_path / "remote", tmp_path / "second clone"
    run(f"dvc remote add --local -d shelf '{remote}' && dvc push -q && {COMMIT} release", clone)  # weights go to git
    assert not list((clone / "data" / "mini" / "checkpoints").glob("*/best"))
    run(f"git clone -q '{clone}' '{second}'", tmp_path)
    run(f"dvc remote add --local -d shelf '{remote}' && dvc pull -q --allow-missing", second)
    stages = ran(run("dvc repro", second))
    assert not [stage for stage in stages if stage.startswith(("raw", "shards", "align", "train", "embed", "probe"))]
    for table in TABLES:
        assert (second / "figures" / f"{table}.csv").read_bytes() == (clone / "figures" / f"{table}.csv").read_bytes()
