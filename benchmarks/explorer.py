"""Frames per second of the explorer's map while it is dragged, in headless Chromium with software rendering.

`python benchmarks/explorer.py --points 30000 250000`: each number of generated points is a page of its own, as `mc3
explore` writes it. A script drags the map every frame; the browser counts frames with requestAnimationFrame.
"""

import argparse
import base64
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import browser

from mc3.extra.explore_html import key, page

ASKED = {
    "map": {"kind": "map", "method": "m", "seed": 0, "modality": "video", "projection": "pca", "onto": ""},
    "field": {"kind": "field", "field": "verb", "method": "", "seed": 0, "modality": ""},
}
PAN = """new Promise((done) => {
  const map = document.querySelector('#explorer').explorer.maps[0];
  const [start, times] = [performance.now(), []];
  const turn = (now) => {
    times.push(now);
    map.pan(6 * Math.sin(now / 200), 6 * Math.cos(now / 200));
    if (now - start < SECONDS * 1000) requestAnimationFrame(turn);
    else done((1000 * (times.length - 1)) / (times.at(-1) - times[0]));
  };
  requestAnimationFrame(turn);
})"""
PICK = """(() => {
  const map = document.querySelector('#explorer').explorer.maps[0];
  const start = performance.now();
  for (let i = 0; i < 1000; i++) map.nearest(10 + (i * 7) % 700, 10 + (i * 13) % 400);
  return performance.now() - start;
})()"""


def written(folder: Path, points: int) -> Path:
    """A page of `points` points around twenty centres."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 20, points, dtype=np.uint8)
    xy = (rng.normal(size=(20, 2))[codes] + 0.3 * rng.normal(size=(points, 2))).astype(np.float32)
    buffers = {"map": xy, "field": codes}
    contents = {"map": {"label": "generated", "modalities": ["video"]}, "field": {"names": [f"{c}" for c in range(20)]}}
    answers = {
        key(ask): (contents[name], [base64.b64encode(buffers[name].tobytes()).decode()]) for name, ask in ASKED.items()
    }
    checkpoint = {"name": "m", "label": "generated", "modalities": ["video"], "seeds": [0]}
    setup = {"text": [f"clip {i}" for i in range(points)], "of": points, "fields": ["verb"], "projections": ["pca"],
             "checkpoints": [checkpoint]}  # fmt: skip
    view = ASKED["map"] | {"compare": "", "colour": "verb"}
    file = folder / f"{points}.html"
    file.write_text(page(setup, view, answers, "Generated points", ""))
    return file


def main() -> None:
    """Print a row of the table in README.md for each number of points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[30_000, 250_000])
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    print("| points | frames/s while dragged | picking a point | repaint |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for points in args.points:
            with browser(1200, 900) as tab:
                tab.open(written(Path(folder), points).as_uri())
                tab.wait("document.querySelector('.mc3-status')?.textContent.includes('clips')", 120)
                rate = tab.run(PAN.replace("SECONDS", str(args.seconds)))
                pick = tab.run(PICK)
                paint = tab.run("(() => { const t = performance.now(); document.querySelector('#explorer').explorer"
                                ".paint(); return performance.now() - t; })()")  # fmt: skip
                print(f"| {points:,} | {rate:.0f} | {pick:.1f} µs | {paint:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
