"""The explorer as a page that needs neither kernel nor server: `mc3 explore` records its answers beforehand.

The page runs the widget's own JavaScript, whose questions explore.js answers from data in the page. Clips are files
beside it, or, in a single file, data in it. Nothing is fetched by script, so it works from a folder on disk.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mc3 import evaluate
from mc3.config import Config
from mc3.errors import ConfigError, DataError
from mc3.extra.explorer import FIELDS, TOGETHER, Explorer
from mc3.files import is_safe_id, replace_folder, write_atomic
from mc3.paper import findings
from mc3.progress import bar

MEDIA = {"video": ("mp4", "video/mp4"), "strip": ("jpg", "image/jpeg"), "sound": ("wav", "audio/wav"),
         "frame": ("jpg", "image/jpeg")}  # fmt: skip
PROJECTIONS = ("tsne", "pca")
GENERATOR = '<meta name="generator" content="mc3 explore">'  # a file with it may be replaced
COLOURS = """
html { background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); color-scheme: light dark; }
body { margin: 12px; font: 14px/1.45 system-ui, sans-serif; } h1 { font-size: 19px; margin: 0 0 4px; }
#about { margin: 0 0 12px; color: var(--jp-ui-font-color2); max-width: 80em; }
:root { --jp-layout-color1: #fff; --jp-layout-color2: #f2f2f2; --jp-ui-font-color1: #222; --jp-ui-font-color2: #666;
  --jp-border-color1: #999; --jp-border-color2: #ccc; --jp-content-link-color: #0067a5; }
@media (prefers-color-scheme: dark) { :root { --jp-layout-color1: #161618; --jp-layout-color2: #26262a;
  --jp-ui-font-color1: #e8e8e8; --jp-ui-font-color2: #a5a5aa; --jp-border-color1: #777; --jp-border-color2: #444;
  --jp-content-link-color: #7cc4f5; } }
"""


def write(
    config: Config, target: Path, method: str, compare: str, seed: int, clips: float = 500, single: bool = False
) -> None:
    """Write the explorer of `clips` clips (a number, or a share below 1) to folder `target`, or to a `single` file.

    The clips are drawn evenly; neighbours are among them, percentiles and projections of all clips. Raises `DataError`
    if `target` holds what this command did not write, or there are no embeddings.
    """
    every = len(findings.clips(config))
    count = min(every, round(clips * every) if clips < 1 else int(clips))
    if count < 2:
        raise ConfigError(f"--clips {clips:g}: give two clips or more, or a share of the {every} clips below 1")
    sample = np.sort(np.random.default_rng(0).permutation(every)[:count])
    explorer = Explorer(config, method, seed, compare=compare, projection="tsne", sample=sample)
    if unsafe := [name for name in explorer.index["clip_id"] if not is_safe_id(name)]:
        raise DataError(f"clip id {unsafe[0]!r} is no file name; run `mc3 shards` again")
    if single:
        if target.exists() and GENERATOR not in target.read_text(errors="replace")[:2000]:
            raise DataError(f"{target} was not written by `mc3 explore`; move it away or give --single another file")
        write_atomic(target, _page(explorer, None).encode())
        print(f"{count} of {every} clips in {target}, {target.stat().st_size / 1e6:.1f} MB; open it in a browser")
        return
    with replace_folder(target, "mc3 explore", "--html") as new:
        (new / "clips").mkdir()
        write_atomic(new / "index.html", _page(explorer, new).encode())
        size = sum(file.stat().st_size for file in new.rglob("*"))
    print(f"{count} of {every} clips in {target}, {size / 1e6:.1f} MB; open {target / 'index.html'} in a browser")


def questions(explorer: Explorer) -> Iterator[dict[str, Any]]:
    """All that the browser may ask about the explorer's one or two checkpoints, as its script writes it."""
    view = explorer.view
    named = list(filter(None, (view["method"], view["compare"])))
    modalities = {name: [*explorer.known[name]["modalities"], TOGETHER] for name in named}
    seed = view["seed"]
    for name in named:
        for modality in modalities[name]:
            for onto in ("", *named):
                if not onto or modality in modalities[onto]:
                    for projection in PROJECTIONS:
                        yield {"kind": "map", "method": name, "seed": seed, "modality": modality,
                               "projection": projection, "onto": onto}  # fmt: skip
            yield {"kind": "field", "field": "cluster", "method": name, "seed": seed, "modality": modality}
        for pair, both in evaluate.PAIRS.items():
            if set(both) <= set(modalities[name]):
                yield {"kind": "field", "field": pair, "method": name, "seed": seed, "modality": TOGETHER}
    for name in FIELDS:
        yield {"kind": "field", "field": name, "method": "", "seed": 0, "modality": ""}
    for row in range(len(explorer.index)):
        yield from ({"kind": "about", "row": row, "method": name, "seed": seed} for name in named)
        yield from ({"kind": kind, "row": row} for kind in ("clip", "frame"))


def key(ask: dict[str, Any]) -> str:
    """A question as the browser's JSON.stringify writes it."""
    return json.dumps(ask, separators=(",", ":"), ensure_ascii=False)


def page(setup: dict[str, Any], view: dict[str, Any], answers: dict[str, Any], title: str, about: str) -> str:
    """The page as HTML: the widget's script and style, and the answers to its questions."""
    folder = Path(__file__).parent
    script = (folder / "explorer.js").read_text() + (folder / "explore.js").read_text()
    style = COLOURS + (folder / "explorer.css").read_text()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src 'self' file: data: "
        "blob:; media-src 'self' file: data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(
        {"state": {"setup": setup, "view": view, "selection": []}, "answers": answers}, ensure_ascii=False
    )
    data = data.replace("<", "\\u003c")  # a narration must not end the block
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{GENERATOR}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style></head>
<body><h1>{html.escape(title)}</h1><p id="about">{html.escape(about)}</p><div id="explorer"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script></body></html>
"""


def _page(explorer: Explorer, folder: Path | None) -> str:
    """The page of an explorer; media become files in `folder`/clips, or data in the page without one."""
    answers, asked = {}, list(questions(explorer))
    with bar(len(asked), 0, main=True) as show:
        for number, ask in enumerate(asked, 1):
            content, buffers = explorer.answer(ask)
            for name, place in content.get("media", {}).items():
                ending, kind = MEDIA[name]
                file = f"clips/{explorer.index.at[ask['row'], 'clip_id']}{'.small' * (name == 'frame')}.{ending}"
                if folder:
                    (folder / file).write_bytes(buffers[place])
                address = file if folder else f"data:{kind};base64,{_text(buffers[place])}"
                content = content | {"media": content["media"] | {name: address}}
            answers[key(ask)] = content, [] if "media" in content else [_text(data) for data in buffers]
            show(number, "answering beforehand")
    named = [explorer.known[name] for name in filter(None, (explorer.view["method"], explorer.view["compare"]))]
    known = [entry | {"seeds": [explorer.view["seed"]]} for entry in named]
    setup = explorer.setup | {"checkpoints": known, "projections": PROJECTIONS}
    labels = " and ".join(entry["label"] for entry in known)
    about = (
        f"{len(explorer.index):,} of {explorer.setup['of']:,} validation and test clips as embedded by {labels}, seed "
        f"{explorer.view['seed']}. Neighbours are among these clips; percentiles and maps are of all."
    )
    return page(setup, explorer.view, answers, f"Embedded clips: {labels}", about)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
