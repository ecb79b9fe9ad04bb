"""`mc3 discover` on files of a user: what is written, what is refused, and a page that plays."""

import json
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from browser import browser, needs_browser
from markup import obeyed
from raw_files import clicks, write_media

from mc3.cli import main
from mc3.config import Config
from mc3.data import tokenizer
from mc3.errors import ConfigError, DataError
from mc3.extra import own_video
from mc3.model import MC3

NAME = """a: <b>häuser & "><img src=x onerror='window.ran=1'> \u202e#1.mp4"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one of them with an awkward name, a damaged one and one without sound."""
    folder = tmp_path_factory.mktemp("my videos")
    for name, seconds in (("plain.mp4", 9.0), (NAME, 12.0)):
        write_media(folder / name, seconds, sound=clicks(seconds, np.arange(0.7, seconds, 1.3), 16000))
    (folder / "broken.mp4").write_bytes(b"no video")
    write_media(folder / "silent.mov", 3.0)
    (folder / "notes.txt").write_text("no video either")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_work import mini, tiny

    from mc3 import config

    torch.manual_seed(0)
    settings = config.build(Config, tiny(mini(tmp_path_factory.mktemp("work"))))
    path = tmp_path_factory.mktemp("checkpoint") / "final"
    MC3(settings.model, tokenizer.train(["washes a plate"], 512)).eval().save(path)
    return path


def discover(folder: Path, checkpoint: Path, *arguments: str) -> int:
    return main(["discover", str(folder), "--checkpoint", str(checkpoint), *arguments]) or 0


def test_a_folder_with_bad_files_does_the_rest_lists_them_and_has_an_exit_code_of_its_own(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "all.json"
    assert discover(folder, checkpoint, "--out", str(out), "--top", "3", "--text", "washes a plate") == own_video.FAILED
    table = pd.DataFrame(json.loads(out.read_text()))
    assert set(table["file"]) == {str(folder / "plain.mp4"), str(folder / NAME)}
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint {checkpoint}: its training data is not recorded here")
    left = [line for line in printed.splitlines() if line.startswith("left out: ")]
    assert [Path(line.split(".m")[0]).name for line in left] == ["broken", "silent"]
    for file, own in table.groupby("file"):
        block = printed.split(f"{file}: {len(own)} windows\n")[1].splitlines()[1:4]
        assert [float(line.split()[0]) for line in block] == own[own["peak"].between(1, 3)].sort_values("peak")[
            "start_sec"
        ].tolist()
    assert discover(folder / "plain.mp4", checkpoint, "--out", str(tmp_path / "one.csv")) == 0
    one = pd.read_csv(tmp_path / "one.csv")
    same = table[table["file"] == str(folder / "plain.mp4")]
    np.testing.assert_allclose(one["similarity"], same["similarity"], atol=1e-5)


def test_the_moments_are_cut_out_with_their_sound(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    discover(folder, checkpoint, "--extract", str(tmp_path / "clips"), "--top", "2")
    files = sorted((tmp_path / "clips").iterdir())
    assert len(files) == 4
    for file in files:
        with av.open(str(file)) as clip:
            assert len(clip.streams.audio) == 1
            assert clip.duration / av.time_base == pytest.approx(1.5, abs=0.1)


def test_what_a_checkpoint_learned_is_said(mini_config: Config, tmp_path: Path) -> None:
    assert "generated world of drawings" in own_video.about_checkpoint(mini_config, mini_config.paths.final("mc3", 0))
    assert "not recorded here" in own_video.about_checkpoint(mini_config, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--every", "0"], "--every 0.0: give more than 0 seconds"), (["--every", "nan"], "--every nan: give more than"),
     (["--window", "-1"], "--window -1.0: give more"), (["--top", "-1"], "--top -1: give 1 or more"),
     (["--out", "x.txt"], "give a name that ends in .csv or .json"), (["--page", "x.txt"], "ends in .html"),
     (["--out", "none/x.csv"], "there is no folder"), (["--extract", "none/clips"], "there is no folder")],
)  # fmt: skip
def test_options_are_checked_before_any_work(folder: Path, capsys, arguments: list[str], message: str) -> None:
    assert main(["discover", str(folder), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    for name, message in (("https://a.b/c.mp4", "is an address; download"), (str(tmp_path), "has no video; known"),
                          (str(tmp_path / "none.mp4"), "no file .*none.mp4")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            own_video.files_of([name])
    with pytest.raises(ConfigError, match=r"--out .*: give a name that ends"):
        own_video.check_targets(Path("x"), None, None)


@needs_browser
def test_the_page_escapes_names_and_a_click_plays_the_moment_with_sound(folder, checkpoint, tmp_path) -> None:
    page = tmp_path / "page.html"
    discover(folder, checkpoint, "--page", str(page), "--top", "2")
    assert obeyed(page.read_text()) == []
    assert "<b>" not in page.read_text()
    with browser() as tab:
        tab.open(page.as_uri())
        assert tab.run("document.querySelector('h2').textContent") == NAME
        tab.wait("document.querySelector('video').readyState >= 1")
        tab.run("document.querySelector('section button').scrollIntoView({block: 'center'})")
        x, y, start = tab.run("""(() => { const b = document.querySelector('section button');
            const r = b.getBoundingClientRect(); return [r.x + 5, r.y + 5, Number(b.dataset.from)]; })()""")
        tab.click(x, y)
        tab.wait(f"document.querySelector('video').currentTime > {start + 0.3}")
        assert tab.run("document.querySelector('video').webkitAudioDecodedByteCount") > 0
        tab.wait("document.querySelector('video').paused")  # at the end of the moment
        assert tab.run("document.querySelector('video').currentTime") < start + 2.5
        assert tab.run("typeof window.ran") == "undefined"
        assert tab.errors == []
        assert tab.outside() == []
