"""The reading of Eq. 2-3 that the profile uses, chosen on the validation split.

The paper leaves open which inverse brings the smallest score back, whether the consensus is a constant target, and
how much Eq. 3 weighs beside Eq. 1 (see `mc3.losses.consensus`). Every combination is refined from the same align
checkpoint and scored by discovery on the validation clips; test clips are not looked at.
"""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path

import pandas as pd

from mc3 import losses, train
from mc3.config import Config
from mc3.data import write_whole

WEIGHTS = (1.0, 5.0)
TABLE = Path("figures") / "consensus_choice.csv"


def trials(config: Config) -> list[Config]:
    """One configuration a reading and weight; each trains in a folder of its own that shares the clips."""
    found = []
    for inverse, stop_gradient, weight in product(losses.INVERSES, (True, False), WEIGHTS):
        reading = dataclasses.replace(config.loss.consensus, inverse=inverse, stop_gradient=stop_gradient)
        loss = dataclasses.replace(config.loss, consensus=reading, consensus_weight=weight)
        found.append(dataclasses.replace(config, loss=loss))
    return found


def score(config: Config, trial: Config, seed: int) -> dict[str, float]:
    """Train `trial`'s MC3, unless that was done before, and return its last validation ROCs."""
    work = config.paths.work.resolve()
    folder = work / "tune" / train.fingerprint(trial, "mc3", seed)[:16]
    metrics = folder / "checkpoints" / f"mc3-{seed}" / "metrics.jsonl"
    if not metrics.exists():
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for shared in ("shards", f"checkpoints/align-{seed}"):
            (folder / shared).unlink(missing_ok=True)
            (folder / shared).symlink_to(work / shared)
        paths = dataclasses.replace(trial.paths, work=folder)
        train.run(dataclasses.replace(trial, paths=paths), "mc3", seed)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {name: [row[name] for row in rows if name in row][-1] for name in ("av_roc", "al_roc")}


def run(config: Config) -> pd.DataFrame:
    """Score every trial on every seed and write the table, the best mean of both ROCs first."""
    rows = []
    for number, trial in enumerate(options := trials(config), 1):
        loss = trial.loss
        print(f"== reading {number} of {len(options)}: {loss.consensus}, weight {loss.consensus_weight}")
        scores = pd.DataFrame([score(config, trial, seed) for seed in config.seeds]).mean()
        reading = {"inverse": loss.consensus.inverse, "stop_gradient": loss.consensus.stop_gradient}
        rows.append({**reading, "weight": loss.consensus_weight, **scores, "mean": scores.mean()})
    table = pd.DataFrame(rows).assign(seeds=len(config.seeds))
    table = table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    write_whole(TABLE, table.to_csv(index=False, float_format="%.4f").encode())
    print(table.round(3).to_string(index=False))
    return table
