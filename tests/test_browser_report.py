"""The committed report in a browser, opened from disk: no errors, nothing fetched, clips play, tables sort."""

import base64
import io
import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from browser import Page, browser, needs_browser
from conftest import ROOT
from PIL import Image

from mc3.paper import page as pages

REPORT = ROOT / "figures" / "report"
NAMES = sorted(path.stem for path in REPORT.glob("*.html"))
COLOURS = """(() => {
  const style = getComputedStyle(document.documentElement), value = name => style.getPropertyValue(name).trim();
  return Object.fromEntries(["--ink", "--soft", "--page", "--band"].map(name => [name, value(name)]));
})()"""
pytestmark = needs_browser
each_page = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def light() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def dark() -> Iterator[Page]:
    with browser(dark=True) as page:
        yield page


def visit(page: Page, name: str, width: int = 1400) -> Page:
    page.errors.clear()
    page.requests.clear()
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=width < 500)
    page.open((REPORT / f"{name}.html").as_uri())
    return page


def print_pages(page: Page, name: str) -> int:
    visit(page, name)
    data = base64.b64decode(page.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    return data.count(b"/Type /Page\n") + data.count(b"/Type /Page ")


@each_page
def test_a_page_opens_from_disk_without_errors_and_without_a_request_that_leaves_the_machine(light: Page, name: str):
    visit(light, name)
    assert light.errors == []
    assert light.outside() == []
    assert [url for url in light.requests if url.startswith("file:")] == [(REPORT / f"{name}.html").as_uri()]


@each_page
def test_a_page_has_landmarks_ordered_headings_names_for_all_and_links_that_lead_somewhere(light: Page, name: str):
    visit(light, name)
    levels = light.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert light.run("['main', 'header', 'footer'].every(tag => document.querySelectorAll(tag).length === 1)")
    assert light.run("document.querySelector('a').getAttribute('href')") == "#main"  # to skip what is above
    unnamed = "[...document.querySelectorAll('nav, video, [role=region]')].filter(e => !e.getAttribute('aria-label'))"
    assert light.run(f"{unnamed}.length") == 0
    assert light.run("[...document.images].every(image => image.alt.length > 10 && image.naturalWidth > 0)")
    names = light.run("[...document.querySelectorAll('nav')].map(nav => nav.getAttribute('aria-label'))")
    assert len(set(names)) == len(names)
    broken = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash))"
    assert light.run(f"{broken}.map(a => a.hash)") == []
    files = light.run("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    local = [file for file in files if not file.startswith(("#", "http"))]
    assert [file for file in local if not (REPORT / file.split("#")[0]).exists()] == []


@each_page
def test_nothing_is_cut_off_at_1400_pixels_and_a_phone_scrolls_down_only(light: Page, name: str):
    visit(light, name)
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert light.run(beyond) == 0
    assert light.run("[...document.querySelectorAll('.table')].every(table => table.scrollWidth <= table.clientWidth)")
    visit(light, name, width=390)
    assert light.run(beyond) == 0


@each_page
def test_a_dark_page_has_no_white_boxes_and_text_of_enough_contrast_in_both_modes(light: Page, dark: Page, name: str):
    for page in (visit(light, name), visit(dark, name)):
        colours = page.run(COLOURS)
        for ink in ("--ink", "--soft"):
            for paper in ("--page", "--band"):
                assert pages.contrast(colours[ink], colours[paper]) >= 4.5
    assert dark.run("matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 24)"
    figures = dark.run("[...document.images].map(image => ({source: image.currentSrc.slice(0, 26), box: (r => "
                       "[r.x, r.y + scrollY, r.width, r.height])(image.getBoundingClientRect())}))")  # fmt: skip
    for figure in figures:
        assert figure["source"] == "data:image/svg+xml;base64,"
        x, y, width, height = figure["box"]
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 0.5}
        shot = dark.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        pixels = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
        counts = pixels.getcolors(pixels.width * pixels.height) or []
        bright = sum(count for count, colour in counts if min(colour) > 240)
        assert bright < 0.04 * pixels.width * pixels.height


@pytest.mark.parametrize(("name", "least"), [("retrieval", 20), ("clusters", 20)])
def test_a_clip_plays_with_picture_and_sound_after_a_click_and_is_not_read_before(light: Page, name: str, least: int):
    visit(light, name)
    assert light.run("document.querySelectorAll('video[controls][preload=none][poster]').length") >= least
    assert not [url for url in light.requests if url.endswith(".mp4")]
    light.run("document.querySelector('video').scrollIntoView({block: 'center'})")
    box = light.run("(r => [r.x, r.y, r.width, r.height])(document.querySelector('video').getBoundingClientRect())")
    light.run("void (window.played = 0, document.querySelector('video').addEventListener('timeupdate', "
              "event => { window.played = Math.max(window.played, event.target.currentTime); }))")  # fmt: skip
    light.click(box[0] + box[2] / 2, box[1] + box[3] / 2)
    try:
        light.wait("document.querySelector('video').currentTime > 0", seconds=3)
    except AssertionError:  # where a click on the picture does nothing, the button does
        light.run("document.querySelector('video').play()")
    light.wait("window.played > 0.2")
    light.wait("document.querySelector('video').webkitAudioDecodedByteCount > 0")
    assert light.run("document.querySelector('video').videoWidth") > 0
    assert light.errors == []
    assert light.outside() == []


def column(page: Page, number: int) -> list[str]:
    """Texts of a column of the page's first table."""
    cells = f"[...document.querySelector('.table table').tBodies[0].rows].map(row => row.cells[{number}].textContent)"
    return page.run(cells)


def test_a_table_sorts_by_a_click_and_by_the_keyboard_with_missing_numbers_last(light: Page):
    visit(light, "discovery")
    number = light.run("[...document.querySelectorAll('.table th')].findIndex(th => th.textContent === 'AV ROC')")
    before = column(light, number)
    head = f"document.querySelectorAll('.table th')[{number}]"
    light.run(f"{head}.querySelector('button').focus()")
    for sort, sign in (("ascending", 1), ("descending", -1)):
        for kind in ("keyDown", "keyUp"):
            light.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )
        assert light.run(f"{head}.getAttribute('aria-sort')") == sort
        after = column(light, number)
        assert sorted(after) == sorted(before)
        known = [float(text.split("\xa0")[0].split("†")[0].split("(")[0]) for text in after if text[0].isdigit()]
        assert [sign * value for value in known] == sorted(sign * value for value in known)
        assert not any(text[0].isdigit() for text in after[len(known) :])
    assert light.run("document.querySelectorAll('[aria-sort]').length") == 1
    light.run("document.querySelectorAll('.table th button')[0].click()")
    names = column(light, 0)
    assert names == sorted(names, key=str.casefold)


def test_claims_are_cards_on_a_phone_and_the_main_pages_print_on_few_sheets(light: Page):
    visit(light, "claims", width=390)
    tall = "[...document.querySelectorAll('.cards td')].filter(td => td.getBoundingClientRect().height > 250).length"
    assert light.run("document.querySelectorAll('table.cards').length") >= 1
    assert light.run(tall) == 0
    assert sum(print_pages(light, name) for name in ("index", "claims", "discovery", "retrieval")) <= 25


def test_the_clips_are_small_and_each_is_shown() -> None:
    clips = sorted((REPORT / "clips").rglob("*.mp4"))
    assert 0 < sum(clip.stat().st_size for clip in clips) < 4_000_000
    shown = json.dumps([(REPORT / f"{name}.html").read_text() for name in ("retrieval", "clusters", "study")])
    assert [clip for clip in clips if clip.relative_to(REPORT).as_posix() not in shown] == []
    assert sum(path.stat().st_size for path in REPORT.rglob("*") if path.is_file()) < 20_000_000
