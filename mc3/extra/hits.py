"""How often the moments that `mc3 discover` finds are sounding actions, on generated videos whose truth is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import store
from mc3.config import Config
from mc3.data.media import waveforms_of
from mc3.discover import moments, peaks
from mc3.model import MC3, use_precision
from mc3.paper import tables
from mc3.windows import SAMPLE_RATE

OVERLAP_SEC = 0.75  # of a window and a sounding action's clip: half a window
CHANCE, ONSET, LOUDNESS = "all windows", "energy onset", "loudness"
Hits = Mapping[str, NDArray[np.float64]]


def measure(config: Config, rows: Sequence[str], split: str = "test", top: int = 5) -> dict[str, NDArray[np.float64]]:
    """The share of sounding actions among the `top` moments of each video: by scorer [videos, seeds].

    Scorers: every row's checkpoints, by z, and by cosine as "LABEL, cosine"; without a model the energy's rise from the
    window before and the energy itself; and the share among all windows, which is chance. A window counts if it shares
    `OVERLAP_SEC` with a clip labelled as sounding.
    """
    use_precision(config)
    index = store.clips(config).query("split == @split")
    videos = index.groupby("video_uid", sort=True)["path"].first()
    found: dict[str, list[list[float]]] = {}

    def note(name: str, rank: NDArray[np.int64], hit: NDArray[np.bool_], seed: int = 0) -> None:
        by_seed = found.setdefault(name, [])
        by_seed += [[] for _ in range(seed + 1 - len(by_seed))]
        by_seed[seed].append(float(hit[(rank >= 1) & (rank <= top)].mean()))

    for row in rows:
        for number, seed in enumerate(config.seeds):
            model = MC3.load(config.paths.final(row, seed))
            for uid, path in videos.items():
                table = moments(model, config.paths.raw / path)
                starts, window = table["start_sec"].to_numpy(), float(table["end_sec"][0] - table["start_sec"][0])
                hit = _hits(index[(index["video_uid"] == uid) & (index["positive"] == 1)], starts, window)
                note(tables.label(row), table["peak"].to_numpy(), hit, number)
                cosine = table["similarity"].to_numpy()
                note(f"{tables.label(row)}, cosine", peaks(cosine, starts, window), hit, number)
                if row == rows[0] and not number:
                    spans = list(zip(table["start_sec"], table["end_sec"], strict=True))
                    sounds = waveforms_of((config.paths.raw / path).resolve(), spans, SAMPLE_RATE)
                    energy = np.array([np.log(np.mean(np.square(sound)) + 1e-8) for sound in sounds])
                    note(ONSET, peaks(np.diff(energy, prepend=energy[0]), starts, window), hit)
                    note(LOUDNESS, peaks(energy, starts, window), hit)
                    note(CHANCE, np.ones(len(hit), np.int64), hit)
    return {name: np.array(by_seed).T for name, by_seed in found.items()}


def compare(hits: Hits, draws: int = 10_000) -> pd.DataFrame:
    """Each scorer's share with its 95 % interval, and of its differences to the onset and to chance, over videos.

    Columns: scorer, share, vs_onset and vs_chance, each with _low and _high.
    """
    mean = {name: own.mean(axis=1) for name, own in hits.items()}
    videos = len(mean[CHANCE])
    drawn = np.random.default_rng(0).integers(videos, size=(draws, videos))
    rows = []
    for name, own in mean.items():
        facts: dict[str, object] = {"scorer": name}
        for column, values in (("share", own), ("vs_onset", own - mean[ONSET]), ("vs_chance", own - mean[CHANCE])):
            low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
            facts |= {column: values.mean(), f"{column}_low": low, f"{column}_high": high}
        rows.append(facts)
    return pd.DataFrame(rows)


def sentences(table: pd.DataFrame, label: str) -> list[str]:
    """What `compare` says of one scorer, in words."""
    row = table.set_index("scorer").loc[label]
    base = table.set_index("scorer")["share"]
    found = [
        f"{row['share']:.0%} of the best moments by {label} are sounding actions; of all windows {base[CHANCE]:.0%}."
    ]
    for column, other in (("vs_chance", "chance"), ("vs_onset", "the energy onset")):
        low, high = row[f"{column}_low"], row[f"{column}_high"]
        verdict = "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"
        found.append(f"It is {verdict} {other}: {row[column]:+.3f} [{low:+.3f}, {high:+.3f}].")
    found.append(f"Loudness alone finds {base[LOUDNESS]:.0%} in this world.")
    return found


def mined(config: Config, rows: Sequence[str], shares: Sequence[float]) -> pd.DataFrame:
    """The share of sounding clips among those that `mc3 filter --keep` would keep of the labelled test clips.

    A row for each of `rows` and `shares`: method, keep, sounding (mean over seeds); keeping all is the base rate.
    """
    found = []
    for row in rows:
        for keep in shares:
            rates = []
            for seed in config.seeds:
                scored = store.discovery_scores(config, row, seed).sort_values("av", ascending=False, kind="stable")
                rates.append(scored["positive"].head(round(keep * len(scored))).mean())
            found.append({"method": tables.label(row), "keep": keep, "sounding": float(np.mean(rates))})
    return pd.DataFrame(found)


def _hits(sounding: pd.DataFrame, starts: NDArray[np.float64], window: float) -> NDArray[np.bool_]:
    begins, ends = (sounding[name].to_numpy()[None] for name in ("start_sec", "end_sec"))
    shared = np.minimum(starts[:, None] + window, ends) - np.maximum(starts[:, None], begins)
    return (shared > OVERLAP_SEC).any(axis=1)
