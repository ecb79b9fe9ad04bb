"""The explorer in a browser: as a page opened from disk, and as a widget in JupyterLab."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, browser, needs_browser
from conftest import ROOT

from mc3.config import Config
from mc3.data.cutting import mp4_of
from mc3.data.encode import encode
from mc3.extra import explore_html
from mc3.paper import findings

pytestmark = needs_browser
EXPLORER = "document.querySelector('{}').explorer"
READY = "!!document.querySelector('.mc3-status') && !document.querySelector('.mc3-busy')"
PLAYS = "(v => v && v.currentTime > 0.3 && v.videoWidth > 0 && v.webkitAudioDecodedByteCount > 0 && v.src)({})"
VIDEO = "document.querySelector('.mc3-screen video')"


@pytest.fixture(scope="module")
def filmed(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """`small` with raw videos, a brightness for each second and a tone."""
    raw = tmp_path_factory.mktemp("raw")
    shutil.copy(small.paths.raw / "truth.csv", raw)
    times = np.arange(8 * 60) / 8
    for path in findings.clips(small)["path"].unique():
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        pictures = np.broadcast_to((4 * times).astype(np.uint8)[:, None, None, None], (len(times), 32, 32, 3))
        encode(raw / path, pictures, 8, 0.3 * np.sin(np.arange(60 * 16000) / 9).astype(np.float32), 16000)
    return replace(small, paths=replace(small.paths, raw=raw))


@pytest.fixture(scope="module")
def folder(filmed: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "explorer"
    explore_html.write(filmed, target, "mc3", "wo_consensus", 0, 60)
    return target


@pytest.fixture
def page(folder: Path) -> Iterator[Page]:
    """The page, loaded; nothing may have gone wrong or left the machine when a test ends."""
    with browser() as tab:
        tab.open((folder / "index.html").as_uri())
        tab.wait(READY)
        yield tab
        assert tab.run("typeof window.ran") == "undefined"  # no narration of `small_work.HOSTILE` was obeyed
        assert tab.errors == []
        assert tab.outside() == []


def data(folder: Path) -> dict[str, Any]:
    text = (folder / "index.html").read_text()
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def narrations(folder: Path) -> list[str]:
    return data(folder)["state"]["setup"]["text"]


def place(tab: Page, row: int, side: int = 0) -> list[float]:
    """Where the page draws a clip's point, in pixels of the window; the point is on top of no other."""
    return tab.run(
        f"(({{maps}}) => {{ const m = maps[{side}], b = m.marks.getBoundingClientRect(), [x, y] = m.position({row});"
        f"return [b.left + x, b.top + y]; }})({EXPLORER.format('#explorer')})"
    )


def apart(tab: Page) -> int:
    """A clip whose point is at least 14 pixels from all others, so that a click means it alone."""
    places = np.array(tab.run(f"[...Array(60).keys()].map((p) => {EXPLORER.format('#explorer')}.maps[0].position(p))"))
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 1e6 * np.eye(60)
    return int(distance.min(axis=1).argmax())


def status(tab: Page) -> str:
    return tab.run("document.querySelector('.mc3-status').textContent")


def choose(tab: Page, name: str, value: str) -> None:
    tab.run(f"(s => {{ s.value = {value!r}; s.dispatchEvent(new Event('change')); }})"
            f"(document.querySelector('select[data-name={name}]'))")  # fmt: skip
    tab.wait(READY)


def test_a_click_on_a_point_plays_that_clip_with_its_sound(page: Page, folder: Path, filmed: Config) -> None:
    row = apart(page)
    page.mouse("mouseMoved", *place(page, row))
    page.wait("[...document.querySelectorAll('.mc3-tip img')].some((i) => i.naturalWidth > 0)")
    assert page.run("document.querySelector('.mc3-tip:not([hidden]) span').textContent") == narrations(folder)[row]
    page.click(*place(page, row))
    address = page.wait(PLAYS.format(VIDEO))
    assert page.run("document.querySelector('.mc3-text').textContent") == narrations(folder)[row]
    clip_id = Path(address).stem
    about = findings.clips(filmed).set_index("clip_id").loc[clip_id]
    assert about["text"] == narrations(folder)[row]
    cut = mp4_of(filmed.paths.raw / about["path"], about["start_sec"], about["end_sec"])
    assert (folder / "clips" / f"{clip_id}.mp4").read_bytes() == cut
    assert page.run("document.querySelectorAll('.mc3-panel td').length") == 6  # three similarities of two checkpoints


def test_a_neighbour_is_one_click_and_arrow_keys_reach_it_too(page: Page, folder: Path) -> None:
    page.click(*place(page, apart(page)))
    page.wait("document.querySelectorAll('.mc3-link').length === 36")
    name = page.run("document.querySelector('.mc3-link').textContent")
    page.run("document.querySelector('.mc3-marks').focus()")
    for key in ("ArrowRight", "Enter"):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    page.wait(f"document.querySelector('.mc3-text').textContent === {json.dumps(name)}")
    page.wait("document.querySelectorAll('.mc3-link').length === 36")
    link = page.run("(l => [l.textContent, l.click()][0])(document.querySelectorAll('.mc3-link')[20])")
    assert page.run("document.querySelector('.mc3-text').textContent") == link


def test_search_legend_and_lasso_count_the_right_clips(page: Page, folder: Path, filmed: Config) -> None:
    texts = narrations(folder)
    page.run(
        "(s => { s.value = 'PLATE'; s.dispatchEvent(new Event('input')); })(document.querySelector('[type=search]'))"
    )
    expected = sum("plate" in text for text in texts)
    assert status(page).startswith(f"{expected} of 60 clips")
    verb = page.run("document.querySelector('.mc3-key').textContent")
    page.run("document.querySelector('.mc3-key').click()")
    both = [row for row, text in enumerate(texts) if "plate" in text and f" {verb}s " in text]
    assert status(page).startswith(f"{len(both)} of 60 clips")
    x, y, width, height = page.run("(b => [b.left, b.top, b.width, b.height])"
                                   "(document.querySelector('.mc3-marks').getBoundingClientRect())")  # fmt: skip
    corners = [(x + 3, y + 3), (x + width - 3, y + 3), (x + width - 3, y + height - 3), (x + 3, y + height - 3)]
    for kind, corner in zip(["mousePressed", *["mouseMoved"] * 3], corners, strict=True):
        page.mouse(kind, *corner, button="left", buttons=1, modifiers=8)
    page.mouse("mouseReleased", *corners[-1], button="left", modifiers=8)
    assert page.run(f"{EXPLORER.format('#explorer')}.model.get('selection')") == both
    assert f"{len(both)} selected" in status(page)


def test_two_maps_are_linked_and_paths_lead_from_one_to_the_other(page: Page, folder: Path) -> None:
    row = apart(page)
    before = page.run("document.querySelectorAll('.mc3-marks')[1].toDataURL()")
    page.mouse("mouseMoved", *place(page, row))
    page.wait(f"document.querySelectorAll('.mc3-marks')[1].toDataURL() !== {before!r}")  # its ring, on the other map
    colours = page.run(f"{EXPLORER.format('#explorer')}.maps.map((m) => m.visible.reduce((a, b) => a + b))")
    assert colours == [60, 60]
    page.run(f"{EXPLORER.format('#explorer')}.model.set('selection', [{row}])")
    page.run(f"{EXPLORER.format('#explorer')}.model.save_changes()")
    ink = "document.querySelector('.mc3-marks').toDataURL().length"
    page.mouse("mouseMoved", 5, 5)
    time.sleep(0.3)
    plain = page.run(ink)
    page.run("[...document.querySelectorAll('.mc3-bar button')].find((b) => b.textContent === 'paths').click()")
    page.wait(f"{ink} > {plain}")


def test_controls_change_the_map_without_a_kernel_and_three_modalities_join_one(page: Page, folder: Path) -> None:
    first = place(page, 0)
    choose(page, "projection", "pca")
    assert place(page, 0) != first
    choose(page, "modality", "together")
    assert page.run(f"{EXPLORER.format('#explorer')}.maps[0].xy.length") == 2 * 3 * 60
    choose(page, "colour", "modality")
    assert page.run("document.querySelectorAll('.mc3-key').length") == 3
    for colour in ("cluster", "al", "split", "label", "noun", "region"):
        choose(page, "colour", colour)
        assert "not in this page" not in status(page)
    assert page.run("document.querySelector('.mc3-ramp')") is None
    choose(page, "compare", "")
    assert page.run("document.querySelectorAll('.mc3-map:not([hidden])').length") == 1


def test_one_file_plays_as_well(small: Config, tmp_path: Path) -> None:
    explore_html.write(small, tmp_path / "page.html", "clap", "", 0, 12, single=True)  # stored pictures and sound
    with browser() as tab:
        tab.open((tmp_path / "page.html").as_uri())
        tab.wait(READY)
        tab.run(f"{EXPLORER.format('#explorer')}.open(3)")
        tab.wait("(a => a && a.currentTime > 0.2)(document.querySelector('.mc3-screen audio'))")
        assert tab.errors == []
        assert tab.outside() == []


def test_the_notebook_plays_a_clip_in_jupyterlab(filmed: Config, small: Config, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (small.paths.work.parent / "params.yaml").read_text()
    params.write_text(text.replace(str(small.paths.raw), str(filmed.paths.raw)))
    source = (ROOT / "notebooks" / "explore.ipynb").read_text()
    (tmp_path / "explore.ipynb").write_text(source.replace("params.yaml", str(params)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
               "--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    own = {name: str(tmp_path / "home") for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with socket.socket() as probe:
            end = time.monotonic() + 40
            while probe.connect_ex(("127.0.0.1", port)):
                assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
                assert time.monotonic() < end
                time.sleep(0.2)
        with browser() as tab:
            tab.open(f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=secret")
            tab.wait("!!document.querySelector('.jp-Notebook .jp-CodeCell') && !!window.jupyterapp", 60)
            book = "[...jupyterapp.shell.widgets('main')][0]"
            tab.wait(f"{book}?.context?.sessionContext?.session?.kernel?.status === 'idle'", 60)
            tab.run(f"jupyterapp.shell.activateById({book}.id)")
            tab.run("void jupyterapp.commands.execute('notebook:run-all-cells')")
            tab.wait("document.querySelector('.mc3-status')?.textContent.includes('clips')", 90)
            tab.run("document.querySelector('.mc3-explorer').scrollIntoView()")
            tab.run("document.querySelector('.mc3-explorer').parentElement.explorer.open(7)")
            tab.wait(PLAYS.format(VIDEO))
            expected = findings.clips(filmed).at[7, "text"]
            assert tab.run("document.querySelector('.mc3-text').textContent") == expected
            if "MC3_SCREENSHOT" in os.environ:
                tab.screenshot(Path(os.environ["MC3_SCREENSHOT"]))
            assert not [error for error in tab.errors if "mc3" in error.lower() or "widget" in error.lower()]
            assert tab.outside() == []
    finally:
        server.terminate()
        server.wait()
