"""An executed notebook as a page: sanitised outputs, figures as SVG for light and dark, tables that sort by a click."""

import base64
import colorsys
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mc3.paper import provenance

TEMPLATE, SCRIPT = (Path(__file__).with_name(f"page.{kind}") for kind in ("html.j2", "js"))
INK, PAPER = "#e6e6e6", "#161618"  # of a page in dark mode
LARGEST = 300 * 1024  # bytes of an SVG in a page; a larger one is shown as a bitmap
TAGS = {"a", "b", "blockquote", "br", "caption", "code", "div", "em", "h1", "h2", "h3", "h4", "hr", "i", "li", "ol",
        "p", "pre", "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
        "video"}  # fmt: skip
PLAIN = {"alt", "aria-label", "class", "colspan", "height", "width"}
MEDIA = {  # which values the attributes of a video may have
    "src": r"(\.\./figures/report/)?clips/[\w-]+/[\w.-]+\.mp4",
    "poster": r"data:image/(webp|png);base64,[\w+/=]+", "controls": "|controls", "preload": "none", "role": "img",
}  # fmt: skip
BESIDE = re.compile(r"(?<=[\"'(])\.\./figures/(report/)?")  # a notebook's link to results, which lie above its page
OWN = re.compile(r"\n+\[[^\]]*\]\(\.\./figures/report/[\w-]+\.html\)\.?\s*$")  # a notebook's link to its page


def render(book: Any, title: str, **about: Any) -> str:
    """An executed notebook as a page, code folded; its only script sorts tables, and nothing is loaded from elsewhere.

    `about`: `name`, `facts` (provenance), `links` (to other pages).
    """
    from nbconvert import HTMLExporter

    script = SCRIPT.read_text().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    filters = {"picture": picture, "clean": clean, "block": block, "own": partial(OWN.sub, ""),
               "json": partial(json.dumps, indent=1, sort_keys=True)}  # fmt: skip
    exporter = HTMLExporter(exclude_anchor_links=True, filters=filters)
    exporter.raw_template = TEMPLATE.read_text()
    page = {"title": title, "script": script, "digest": digest, "describe_commit": provenance.describe_commit, **about}
    text = exporter.from_notebook_node(book, {"page": page})[0]
    return _with_contents(text)


def clean(text: str) -> str:
    """HTML with the elements, attributes and kinds of links that a page may have, links relative to the page."""
    import bleach

    allowed = bleach.clean(words(text), tags=TAGS, attributes=_allowed, protocols={"http", "https", "mailto", "data"})
    return allowed.replace("<th>", '<th scope="col">')


def block(text: str) -> str:
    """`clean`; a table scrolls in a region named by its caption, and the paper's number is below ours."""
    cleaned = clean(text)
    if "<table" not in cleaned:
        return cleaned
    cleaned = re.sub(r" \(([-+.\d]+), ([-+.\d]+)\)(?=</td>)", r"<br>(\1,&nbsp;\2)", cleaned).replace(
        " ± ", "&nbsp;±&nbsp;"
    )
    caption = re.search(r"<caption>(.*?)</caption>", cleaned, re.DOTALL)
    name = html.escape(html.unescape(re.sub(r"<[^>]+>", "", caption[1] if caption else "")).strip() or "Table")
    return f'<div class="table" role="region" tabindex="0" aria-label="{name}">{cleaned}</div>'


def words(text: str) -> str:
    """Text of a notebook with its links to `../figures/` as they are from `figures/report/`."""
    return BESIDE.sub(lambda match: "" if match[1] else "../", text)


def picture(png: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """A figure for a page: `uri`, its `dark` twin ("" of a bitmap), `width`, `height`, and `files` to link to.

    `about` is the output's metadata: with `stem`, the SVG beside the PNG is shown, unless it is larger than `LARGEST`.
    """
    stem = str(about.get("stem", ""))
    stem = stem if re.fullmatch(r"figures/[\w/-]+", stem) else ""
    files = {kind.upper(): f"../{stem.removeprefix('figures/')}.{kind}" for kind in ("svg", "png") if stem}
    if stem and len(svg := compact(Path(f"{stem}.svg").read_text())) <= LARGEST:
        width, height = (round(2 * float(side)) for side in re.findall(r' (?:width|height)="([\d.]+)pt"', svg)[:2])
        return {"uri": _uri(svg), "dark": _uri(dark(svg)), "width": width, "height": height, "files": files}
    image, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=6)
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"uri": uri, "dark": "", "width": image.width, "height": image.height, "files": files}


def compact(svg: str) -> str:
    """An SVG without prolog, comments, metadata, names of groups and spaces between elements."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return re.sub(r">\s+<", "><", svg).replace(" \n", " ").strip()


def dark(svg: str) -> str:
    """An SVG with the colours of dark mode: white is the page, black its ink, and other colours are light enough."""
    recoloured = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", lambda match: dark_colour(match[0]), svg)
    return recoloured.replace("<svg ", f'<svg fill="{INK}" ', 1)


def dark_colour(colour: str) -> str:
    """A colour of a figure as dark mode has it: greys change places, others are mixed with white until legible."""
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    _, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    if saturation < 0.15 or light > 0.97:
        ends = [[int(end[k : k + 2], 16) for k in (1, 3, 5)] for end in (INK, PAPER)]
        return "#" + "".join(f"{round(ink + light * (paper - ink)):02x}" for ink, paper in zip(*ends, strict=True))
    mixed = colour
    for share in range(0, 100, 5):
        mixed = "#" + "".join(f"{round(255 * (c + (1 - c) * share / 100)):02x}" for c in (red, green, blue))
        if contrast(mixed, PAPER) >= 4.5:
            break
    return mixed


def contrast(one: str, other: str) -> float:
    """The contrast of two colours #rrggbb by WCAG 2.2, from 1 to 21."""
    bright = []
    for colour in (one, other):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        bright.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(bright) + 0.05) / (min(bright) + 0.05)


def _with_contents(text: str) -> str:
    """A page whose headings can be linked to, and a list of them above if there are several."""
    found = re.findall(r"<h2>(.*?)</h2>", text)
    anchors = [re.sub(r"\W+", "-", html.unescape(entry).lower()).strip("-") for entry in found]
    for entry, anchor in zip(found, anchors, strict=True):
        text = text.replace(f"<h2>{entry}</h2>", f'<h2 id="{anchor}">{entry}</h2>', 1)
    items = "".join(f'<li><a href="#{a}">{entry}</a></li>' for a, entry in zip(anchors, found, strict=True))
    listed = f'<nav class="here" aria-label="On this page"><ul>{items}</ul></nav>' if len(found) > 1 else ""
    return text.replace("<!-- headings -->", listed, 1)


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return tag == "a" and not value.strip().lower().startswith("data:")
    if name in MEDIA:
        return tag == "video" and re.fullmatch(MEDIA[name], value) is not None
    return name in PLAIN


def _uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
