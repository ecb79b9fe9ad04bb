import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import small_training
import small_work
import torch
from raw_files import write_raw
from small_work import ROOT

from mc3 import config

# No test is timed: a busy machine must not fail one (speed is measured in benchmarks/).
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SHARED = Path(os.environ.get("MC3_SHARED_DATA", ROOT.parent / "shared" / "data"))

torch.set_num_threads(1)
FIRST = "test_pipeline"  # the longest, so that no other process waits for it at the end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the file of `FIRST` first."""
    items.sort(key=lambda item: item.path.stem != FIRST)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real sample files, for tests of formats; not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no real sample data at {SHARED}; set MC3_SHARED_DATA to the folder that has them")
    return SHARED


@pytest.fixture(autouse=True)
def float32_after_a_test() -> Iterator[None]:
    """A run in float64 leaves torch's default type behind in this process."""
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def mini_settings(tmp_path: Path) -> dict:
    return small_work.mini(tmp_path / "work")


@pytest.fixture
def mini_config(mini_settings: dict) -> config.Config:
    return config.build(config.Config, mini_settings)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_training.make_shards(tmp_path_factory.mktemp("clips") / "shards")


@pytest.fixture
def settings(mini_settings: dict, shards: Path) -> dict:
    """A small training's settings."""
    return small_training.settings(mini_settings, shards)


@pytest.fixture
def raw(mini_config: config.Config) -> Path:
    """The folder of small raw files of `mini_config`, with annotations and EPIC-Sounds' sound, without videos."""
    return write_raw(mini_config, media=False)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    """The settings of a `small_work` that all tests read and none changes."""
    return config.load(small_work.make(tmp_path_factory.mktemp("small")))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that looks like the top of this repository, and the present one for the test."""
    top = tmp_path / "top"
    top.mkdir()
    shutil.copytree(ROOT / "profiles", top / "profiles")
    shutil.copy(ROOT / "profiles" / "mini.yaml", top / "params.yaml")
    shutil.copy(ROOT / "requirements.lock", top / "requirements.lock")
    monkeypatch.chdir(top)
    return top
