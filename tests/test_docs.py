"""The documents: every command that they name can be typed, and every link leads somewhere."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_work import ROOT, text_of

from mc3 import cli

GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("[!.]*/README.md")])
GUIDES += ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
HISTORY = ["LOG.md", "CHANGELOG.md"]  # these name commands of earlier versions
LAUNCHERS = r"(?:accelerate launch|torchrun|srun torchrun)\b.*? -m "


def typed(text: str) -> list[str]:
    """The lines of shell blocks, continued lines joined, without comments and launchers."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in blocks.splitlines()]
    return [re.sub(f"^{LAUNCHERS}", "", part) for line in lines for part in line.split(" && ")]


def mentioned(text: str) -> list[str]:
    """The inline code of a document, without launchers."""
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    return [re.sub(f"^{LAUNCHERS}", "", code) for code in re.findall(r"`([^`\n]+)`", prose)]


def subcommand(words: list[str]) -> argparse.ArgumentParser:
    """The parser of the longest beginning of `words` that names a step; `KeyError` if there is no such step."""
    parser = cli.parser()
    for word in words:
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not groups or word.startswith("-"):
            break
        parser = groups[0].choices[word]
    return parser


@pytest.mark.parametrize("name", GUIDES)
def test_every_mc3_command_of_a_shell_block_parses_and_in_prose_has_its_step_and_its_options(name):
    text = text_of(name)
    for line in typed(text):
        if line.startswith("mc3 ") and " ... " not in line:
            words = [re.sub(r"^[A-Z]$", "1", word) for word in shlex.split(line)[1:]]
            assert cli.parser().parse_args(words), line
    for code in mentioned(text) + [line for line in typed(text) if " ... " in line]:
        if code.startswith("mc3 "):
            words = code.partition(" -- ")[0].split()[1:]
            options = {option for action in subcommand(words)._actions for option in action.option_strings}
            assert {word for word in words if re.match(r"--?[a-z]", word)} <= options, code


@pytest.mark.parametrize("name", GUIDES)
def test_every_stage_and_make_target_that_is_named_exists(name):
    stages = yaml.safe_load(text_of("dvc.yaml"))["stages"]
    sweeps = yaml.safe_load(text_of("experiments/dvc.yaml"))["stages"]
    targets = re.search(r"(?m)^\.PHONY: (.*)$", text_of("Makefile"))[1].split()
    for code in mentioned(text_of(name)) + typed(text_of(name)):
        if found := re.match(r"dvc (?:repro|commit)(?: -\S+)* ([^ -]\S*)", code):
            file, _, stage = found[1].rpartition(":")
            known = stage in sweeps or stage == "NAME"
            assert (file == "experiments/dvc.yaml" and known) or (not file and stage.partition("@")[0] in stages), code
        elif found := re.match(r"make ([a-z-]+)", code):
            assert found[1] in targets, code


@pytest.mark.parametrize("name", GUIDES + HISTORY)
def test_every_relative_link_leads_to_a_file_and_to_a_heading_in_it(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if re.match(r"https?:", link):
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
            assert heading in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], link


def test_the_site_builds_without_a_warning_and_has_documents_api_and_report(tmp_path: Path) -> None:
    """As `make docs`; a link or reference that leads nowhere is a warning."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-d", tmp_path / "doctrees"]
    built = subprocess.run([*command, ".", site], cwd=ROOT, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    assert "InfoNCE in one direction" in (site / "build/api/mc3/mc3.losses.html").read_text()
    for page in ("index.html", "docs/glossary.html", "LOG.html", "report/index.html"):
        assert (site / page).exists()
