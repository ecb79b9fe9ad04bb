"""The environment's files agree with one another, and the lock serves Linux and macOS on every supported Python."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

import mc3

LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64", "platform_system": "Linux"},
    "macOS": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64", "platform_system": "Darwin"},
}
CPYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}


def locked(platform: str, python: str = "3.11.7") -> dict[str, str]:
    """The pins that an installer would take on this platform and Python, by canonical name."""
    minor = python.rpartition(".")[0]
    environment = PLATFORMS[platform] | CPYTHON | {"python_version": minor, "python_full_version": python}
    pins: dict[str, str] = {}
    for line in LINES:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice for {platform}, Python {python}"
            (specifier,) = requirement.specifier
            pins[name] = specifier.version
    return pins


def test_every_line_of_the_lock_is_one_exact_pin_without_index_host_or_path():
    pin = re.compile(r"[a-z0-9-]+==[A-Za-z0-9.]+( ; [a-z_]+ [^/:@]+)?")
    assert [line for line in LINES if not pin.fullmatch(line)] == []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", ["3.11.0", "3.11.7", "3.12.0", "3.12.12", "3.13.0", "3.13.9"])
def test_every_dependency_is_locked_within_its_bound(platform, python):
    pins = locked(platform, python)
    wanted = PROJECT["dependencies"] + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), requirement


def test_torch_and_its_two_companions_fit_together_and_macos_gets_nothing_of_cuda():
    pins, cuda = locked("Linux"), re.compile(r"nvidia-|cuda-|triton")
    assert (pins["torch"], pins["torchvision"], pins["torchaudio"]) == ("2.11.0", "0.26.0", "2.11.0")
    assert [name for name in pins if cuda.match(name)]
    assert not [name for name in locked("macOS") if cuda.match(name)]


def test_the_packages_that_compute_have_one_version_under_every_python():
    for platform in PLATFORMS:
        first, *others = (locked(platform, f"{python}.0") for python in PYTHONS)
        for pins in others:
            assert {name for name in first.keys() & pins.keys() if first[name] != pins[name]} <= {"soupsieve"}


def test_this_environment_is_the_locked_one():
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    pins = locked("Linux" if "nvidia-nccl-cu13" in installed else "macOS", sys.version.split()[0])
    names = ("torch", "numpy", "dvc", "papermill", "transformers")
    assert {name: installed.get(name) for name in names} == {name: pins[name] for name in names}


def test_every_package_that_the_code_imports_is_a_declared_dependency():
    imported = set()
    for file in (ROOT / "mc3").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    distributions = metadata.packages_distributions()
    wanted = {name: distributions.get(name, [name]) for name in imported - sys.stdlib_module_names - {"mc3"}}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert {name for name, names in wanted.items() if not declared & {canonicalize_name(n) for n in names}} == set()


def test_an_installed_copy_has_every_package_and_every_data_file():
    found = find_packages(ROOT, **PYPROJECT["tool"]["setuptools"]["packages"]["find"])
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "mc3").rglob("*.py")}
    assert set(found) == {".".join(folder.parts) for folder in folders}
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    others = [file for file in (ROOT / "mc3").rglob("*.*") if file.suffix not in (".py", ".pyc")]
    assert [file for file in others if not any(file.match(pattern) for pattern in patterns)] == []


def test_every_file_that_lists_python_versions_lists_the_same_and_ci_runs_make_test():
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    candidates = [f"3.{minor}" for minor in range(9, 16)]
    assert tuple(version for version in candidates if supported.contains(f"{version}.0")) == PYTHONS

    makefile = re.search(r"(?m)^PYTHONS = (.*)$", (ROOT / "Makefile").read_text())
    assert makefile[1].split() == list(reversed(PYTHONS))
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]
    assert tuple(job["strategy"]["matrix"]["python"]) == PYTHONS
    assert any("make test" in step.get("run", "") for step in job["steps"])
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["image"].startswith(f"python:{PYTHONS[-1]}-")

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert (Requirement(python).specifier, pip) == (supported, "pip")
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_citation_codemeta_and_package_agree_on_title_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    codemeta = json.loads((ROOT / "codemeta.json").read_text())
    assert citation["title"] == codemeta["name"]
    assert citation["abstract"] == codemeta["description"]
    assert citation["version"] == codemeta["version"] == PROJECT["version"] == mc3.__version__
    assert citation["license"] == codemeta["license"].rpartition("/")[2] == PROJECT["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert codemeta["referencePublication"]["name"] == paper["title"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_dvc_sends_nothing_to_its_makers():
    core = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in core
    assert "check_update = false" in core


def test_the_committed_settings_are_the_committed_mini_profile():
    def committed(path: str) -> bytes:
        found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True)
        return found.stdout if found.returncode == 0 else (ROOT / path).read_bytes()

    assert committed("params.yaml") == committed("profiles/mini.yaml")
