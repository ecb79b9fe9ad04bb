"""The environment's files agree with one another, and the lock serves Linux and macOS."""

import re
import subprocess
import tomllib
from importlib import metadata

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLATFORMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64", "platform_system": "Linux"},
    "macOS": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64", "platform_system": "Darwin"},
}
CPYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}


def locked(platform: str, python: str) -> dict[str, str]:
    environment = PLATFORMS[platform] | CPYTHON | {"python_version": "3.11", "python_full_version": python}
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
@pytest.mark.parametrize("python", ["3.11.0", "3.11.7", "3.11.14"])
def test_every_dependency_is_locked_within_its_bound(platform, python):
    pins = locked(platform, python)
    wanted = PROJECT["dependencies"] + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), requirement


def test_torch_and_its_two_companions_are_those_that_fit_together():
    pins = locked("Linux", "3.11.7")
    assert (pins["torch"], pins["torchvision"], pins["torchaudio"]) == ("2.11.0", "0.26.0", "2.11.0")


def test_nothing_of_cuda_is_asked_for_on_macos():
    cuda = re.compile(r"nvidia-|cuda-|triton")
    assert not [name for name in locked("macOS", "3.11.7") if cuda.match(name)]
    assert [name for name in locked("Linux", "3.11.7") if cuda.match(name)]


def test_this_environment_is_the_locked_one():
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    pins = locked("Linux" if "nvidia-nccl-cu13" in installed else "macOS", "3.11.7")
    assert {name: installed.get(name) for name in ("torch", "numpy", "dvc", "papermill", "transformers")} == {
        name: pins[name] for name in ("torch", "numpy", "dvc", "papermill", "transformers")
    }


def test_conda_takes_the_same_python_and_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11.0")


def test_dvc_calls_nobody():
    core = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in core
    assert "check_update = false" in core


def test_the_committed_settings_are_the_committed_mini_profile():
    def committed(path: str) -> bytes:
        found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True)
        return found.stdout if found.returncode == 0 else (ROOT / path).read_bytes()

    assert committed("params.yaml") == committed("profiles/mini.yaml")
