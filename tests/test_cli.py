"""The command line: quick to answer, one line for a user error, suggestions for typos."""

import errno
import os
import re
import subprocess
import sys
import types
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import mc3.data
from mc3 import cli, config, pools
from mc3.errors import DataError, NotebookError

STEPS = ("discover", "weights", "repro", "compare", "profile", "train", "embed", "probe", "sources", "notebook",
         "report", "world", "source", "manifest", "shards", "sweep", "transfer", "narrated", "submission",
         "clips", "evaluate")  # fmt: skip


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_loads_nothing_but_the_standard_library():
    code = "import sys\nbefore = set(sys.modules)\nfrom mc3 import cli\ncli.parser().format_help()\n"
    code += "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
    code += "print(sorted(new - set(sys.stdlib_module_names)))"
    assert python("-c", code).stdout.strip() == "['mc3']"


@pytest.mark.parametrize("step", [*STEPS, "data ego4d plan", "data ego4d check", "data epic-sounds check"])
def test_the_example_in_each_help_text_is_a_command_that_parses(step, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([*step.split(), "--help"])
    example = capsys.readouterr().out.split("example: mc3 ")[1].split()
    assert cli.parser().parse_args(example).command.__doc__


def test_every_function_that_a_command_calls_exists():
    text = (ROOT / "mc3" / "cli" / "commands.py").read_text()
    called = re.findall(r"\b(core|encoders|data|paper|extra)\.(\w+)\.(\w+)", text)
    assert ("paper", "report", "readme_table") in called
    for package, module, name in called:
        place = f"mc3.{package}.{module}".replace(".core", "")
        assert hasattr(import_module(place), name), f"{place}.{name}"


def test_profile_makes_the_named_settings_the_ones_in_use_unless_they_do_not_exist_or_are_broken(repository, capsys):
    Path("params.yaml").write_text("profile: another\n")
    Path("profiles/broken.yaml").write_text("profile: broken\nsedes: [0]\n")
    for name, fault in (("nano", "known: broken,"), ("broken", "did you mean seeds")):
        assert cli.main(["profile", name]) == 1
        assert fault in capsys.readouterr().err
    assert Path("params.yaml").read_text() == "profile: another\n"
    assert cli.main(["profile", "mini"]) == 0
    assert Path("params.yaml").read_bytes() == (ROOT / "profiles" / "mini.yaml").read_bytes()
    assert [path.name for path in repository.glob("params*")] == ["params.yaml"]
    assert "mini" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "line"),
    [(config.ConfigError("a setting\n is wrong"), "mc3: a setting is wrong\n"),
     (DataError("row 3 is wrong"), "mc3: row 3 is wrong\n"), (NotebookError("cell 2 failed"), "mc3: cell 2 failed\n"),
     (FileNotFoundError("no checkpoint; train it"), "mc3: no checkpoint; train it\n"),
     (FileNotFoundError(2, "No such file", "x.csv"), "mc3: x.csv is missing; --debug shows where it was needed\n"),
     (ZeroDivisionError(), None)],  # a bug keeps its traceback
)  # fmt: skip
def test_a_user_error_is_one_line_and_exit_code_1(monkeypatch, capsys, error, line):
    def write(config):
        raise error

    module = types.SimpleNamespace(write=write)
    monkeypatch.setitem(sys.modules, "mc3.data.manifest", module)
    monkeypatch.setattr(mc3.data, "manifest", module, raising=False)
    command = ["manifest", "--config", str(ROOT / "profiles/mini.yaml")]
    if line:
        assert cli.main(command) == 1
        assert capsys.readouterr().err == line
    with pytest.raises(type(error)):
        cli.main([*command, "--debug"] if line else command)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EROFS, "writable"),
     (errno.EACCES, "permission"), (errno.EPERM, "permission"), (errno.EMFILE, "ulimit -n"),
     (errno.EFBIG, "ulimit -f")],
)  # fmt: skip
def test_what_the_machine_refuses_is_one_line_with_file_reason_and_remedy(monkeypatch, capsys, code, remedy):
    def refused(_) -> None:
        raise OSError(code, os.strerror(code), "work/a.bin")

    monkeypatch.setattr("mc3.data.manifest.write", refused)
    assert cli.main(["manifest", "--config", str(ROOT / "profiles" / "mini.yaml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mc3: work/a.bin cannot be written or read ({os.strerror(code)})")
    assert remedy in line


@pytest.mark.parametrize(
    ("reason", "theirs"),
    [("Connection closed by peer [127.0.0.1]:19888", True), ("or a remote process exiting prematurely", True),
     ("shape mismatch", False)],
)  # fmt: skip
def test_a_process_whose_partner_failed_says_so_and_any_other_error_is_shown_whole(monkeypatch, capsys, reason, theirs):
    def fail(_) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr("mc3.data.manifest.write", fail)
    command = ["manifest", "--config", str(ROOT / "profiles" / "mini.yaml")]
    with pytest.raises(RuntimeError, match=re.escape(reason)):  # alone, it has no partner
        cli.main(command)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with nullcontext() if theirs else pytest.raises(RuntimeError, match=re.escape(reason)):
        assert cli.main(command) == 1
        said = capsys.readouterr().err
        assert said == "mc3: another process of this training has ended; what it says is the cause\n"


def test_an_error_of_a_process_that_reads_batches_is_the_error_itself(monkeypatch, capsys):
    def read(config) -> None:
        next(pools.load(Damaged(), 1))

    monkeypatch.setattr("mc3.data.manifest.write", read)
    assert cli.main(["manifest", "--config", str(ROOT / "profiles" / "mini.yaml")]) == 1
    assert capsys.readouterr().err == "mc3: clips.tar is damaged; run `mc3 shards` again\n"


class Damaged:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int):
        raise DataError("clips.tar is damaged; run `mc3 shards` again")


def test_mc3_alone_prints_its_help_which_lists_every_step():
    alone, asked = python("-m", "mc3.cli"), python("-m", "mc3.cli", "--help")
    assert (alone.returncode, alone.stdout) == (0, asked.stdout)
    for title in ("use a model:", "reproduce the paper:", "data:", "experiments:"):
        assert f"\n{title}\n" in alone.stdout
    assert [step for step in STEPS if f"\n  {step}" not in alone.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("trian", ": no command 'trian'; did you mean train?"), ("xyz", ": no command 'xyz'; `mc3 --help` lists them"),
     ("data ego4d pln", " data ego4d: no command 'pln'; did you mean plan?"),
     ("probe --confg a.yaml", " probe: unknown argument --confg; did you mean --config?"),
     ("seeds", ": `mc3 seeds` is now `mc3 repro`, whose tables are over all seeds of the profile"),
     ("summary", ": `mc3 summary` is now `mc3 compare --tables`")],
)  # fmt: skip
def test_a_typo_gets_a_suggestion_and_a_command_of_before_its_new_name(capsys, arguments, line):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments.split())
    assert capsys.readouterr().err == f"mc3{line}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("discover none.mp4", "no file none"), ("weights convert none.pth --kind ast --out w", "no file none"),
     ("transfer none", "no file none"), ("narrated --events none.csv --narrations none.csv", "no file none"),
     ("train --method mc4 --seed 0 --config profiles/mini.yaml", "no method 'mc4' in mc3/methods.py; known: pretrain")],
)  # fmt: skip
def test_a_missing_file_or_method_is_named_in_one_line_before_anything_heavy_is_loaded(arguments, line):
    code = f"import sys\nfrom mc3 import cli\nassert cli.main({arguments.split()}) == 1\n"
    result = python("-c", code + "assert 'torch' not in sys.modules")
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(f"mc3: {line}")
    assert result.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_traceback():
    result = subprocess.run(
        f"{sys.executable} -m mc3.cli sweep --list | true; {sys.executable} -m mc3.cli sweep | head -n 1",
        shell=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.stderr == ""
    assert result.stdout.startswith("ablations")


def test_source_runs_the_command_that_the_profile_names(repository, monkeypatch, mini_settings):
    made = []
    monkeypatch.setattr("mc3.world.write", made.append)
    Path("mine.yaml").write_text(yaml.safe_dump(mini_settings))
    assert cli.main(["source", "--config", "mine.yaml"]) == 0
    assert [c.paths.raw for c in made] == [Path(mini_settings["paths"]["raw"])]
