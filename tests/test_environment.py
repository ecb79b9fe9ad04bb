"""The environment's files agree with one another, and the lock serves Linux and macOS on every supported Python."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages
from small_work import ROOT, text_of

import mc3

LINES = [line for line in text_of("requirements.lock").splitlines() if line]
PYPROJECT = tomllib.loads(text_of("pyproject.toml"))
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
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]  # a user's own choice is not pinned
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), requirement


def test_linux_gets_what_cuda_needs_and_macos_does_not():
    needs_cuda = {name: any(map(re.compile(r"nvidia-|cuda-|triton").match, locked(name))) for name in PLATFORMS}
    assert needs_cuda == {"Linux": True, "macOS": False}


def test_the_packages_that_compute_have_one_version_under_every_python():
    for platform, python in itertools.product(PLATFORMS, PYTHONS[1:]):
        first, pins = locked(platform, f"{PYTHONS[0]}.0"), locked(platform, f"{python}.0")
        assert {name for name in first.keys() & pins.keys() if first[name] != pins[name]} <= {"soupsieve"}


def test_this_environment_is_the_locked_one():
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    pins = locked("Linux" if "nvidia-nccl-cu13" in installed else "macOS", sys.version.split()[0])
    names = ("torch", "numpy", "dvc", "papermill", "transformers")
    assert {name: installed.get(name) for name in names} == {name: pins[name] for name in names}


def test_every_package_that_the_code_imports_is_a_declared_dependency():
    nodes = [node for file in (ROOT / "mc3").rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    imported = {name.split(".")[0] for name in names}
    optional = {"umap": ["umap-learn"], "faiss": ["faiss-cpu"]}  # so perhaps not installed
    distributions = optional | metadata.packages_distributions()
    wanted = {name: distributions.get(name, [name]) for name in imported - sys.stdlib_module_names - {"mc3"}}
    lines = [*PROJECT["dependencies"], *(line for name in optional for line in PROJECT["optional-dependencies"][name])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
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
    assert tuple(f"3.{minor}" for minor in range(9, 16) if supported.contains(f"3.{minor}.0")) == PYTHONS
    makefile = re.search(r"(?m)^PYTHONS = (.*)$", text_of("Makefile"))
    assert makefile[1].split() == list(reversed(PYTHONS))
    job = yaml.safe_load(text_of(".github/workflows/test.yml"))["jobs"]["test"]
    assert tuple(job["strategy"]["matrix"]["python"]) == PYTHONS
    assert any("make test" in step.get("run", "") for step in job["steps"])
    assert "exec make test" in text_of(".ci/run")
    assert json.loads(text_of(".devcontainer/devcontainer.json"))["image"].startswith(f"python:{PYTHONS[-1]}-")
    environment = yaml.safe_load(text_of("environment.yml"))
    python, pip, through_pip = environment["dependencies"]
    assert (Requirement(python).specifier, pip) == (supported, "pip")
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_citation_codemeta_and_package_agree_on_title_version_and_licence():
    citation, codemeta = yaml.safe_load(text_of("CITATION.cff")), json.loads(text_of("codemeta.json"))
    assert citation["title"] == codemeta["name"]
    assert citation["abstract"] == codemeta["description"]
    assert citation["version"] == codemeta["version"] == PROJECT["version"] == mc3.__version__
    assert citation["license"] == codemeta["license"].rpartition("/")[2] == PROJECT["license"] == "MIT"
    assert codemeta["referencePublication"]["name"] == citation["preferred-citation"]["title"]
    assert f"## [{PROJECT['version']}]" in text_of("CHANGELOG.md")


def committed(path: str) -> bytes:
    found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True)
    return found.stdout if found.returncode == 0 else (ROOT / path).read_bytes()


def test_the_committed_settings_are_the_mini_profile_and_dvc_sends_nothing_to_its_makers():
    assert committed("params.yaml") == committed("profiles/mini.yaml")
    assert {"analytics = false", "check_update = false"} <= set(map(str.strip, text_of(".dvc/config").splitlines()))
