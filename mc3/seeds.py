"""Tables 2-4 over more seeds than the pipeline's own, without touching the pipeline (`mc3 seeds`).

The pipeline's figures are of the profile's seeds, one in `mini`, so that a fresh clone makes the committed numbers in
minutes. This trains the other seeds in `work/seeds`, which links to the pipeline's clips and to its results of its own
seeds, and writes the tables over all of them to `figures/seeds`. DVC knows nothing of that folder: as more seeds of
the profile they would be more stages, each of a minute, and the profile's seeds would be probed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mc3 import claims, embed, methods, probe, tables, trials, uncertainty
from mc3.config import Config, as_dict
from mc3.plots import differences, overview, save

FIGURES = Path("figures") / "seeds"
SEEDS = (0, 1, 2, 3, 4)
STEMS = {"table2_discovery": tables.table2, "table3_retrieval": tables.table3, "table4_epic_sounds": tables.table4}
PROBE_CODE = ("data/epic_sounds.py", "data/epic_views.py", "encoders", "evaluate.py", "probe.py")


def placed(config: Config, seeds: Sequence[int]) -> Config:
    """The settings of `work/seeds`: all `seeds`, the profile's own linked from the pipeline.

    Raises:
        DataError: the pipeline's results are missing, or of other checkpoints, clips or code.
    """
    names = ("align", *methods.METHODS)
    trials.require(config, names)
    shared = ["shards"]
    for seed in config.seeds:
        shared += [f"checkpoints/{name}-{seed}" for name in names]
        shared += [f"embeddings/{seed}", f"probe/{seed}.json", f"probe/{seed}.safetensors"]
    folder = config.paths.work / "seeds"
    for link in (*folder.glob("*/*"), *folder.glob("*")):
        if link.is_symlink() and link.relative_to(folder).as_posix() not in shared:  # of a seed that was the pipeline's
            link.unlink()
    made = trials.place(config, folder, shared)
    return trials.changed(made, {"seeds": list(seeds)})


def probe_fingerprint(config: Config, seed: int) -> str:
    """A hash of what decides a seed's probes: checkpoints, clips, settings and code."""
    inputs = [embed.inputs(config, name, seed) for name in ("align", *methods.METHODS)]
    return trials.fingerprint_of([as_dict(config.probe), inputs], PROBE_CODE)


def run(config: Config, seeds: Sequence[int] = SEEDS, processes: int = 1) -> dict[str, pd.DataFrame]:
    """Train, embed and probe the seeds that the profile lacks, and write the tables over all of `seeds`.

    Goes on where it was stopped. `processes` seeds are trained at once. Returns the tables by their names.
    """
    together = placed(config, seeds)
    missing = [seed for seed in seeds if seed not in config.seeds]
    costs = {str(seed): sum(steps(config, together, seed).values()) for seed in missing}
    trials.side_by_side(partial(train, config), together, costs, processes)
    train(config, together, [str(seed) for seed in missing])  # finds them done, unless something changed since
    return write(together)


def train(config: Config, together: Config, seeds: Sequence[str]) -> None:
    """Every step of `seeds`, as far as it was not done."""
    expected: dict[str, float] = {}
    for number in seeds:
        expected |= steps(config, together, int(number))
    schedule = trials.Schedule(expected)
    held: dict[str, Any] = {}
    for name in schedule:
        step, _, number = name.rpartition("-")
        seed = int(number)
        if step != "probe":
            trials.embedded(together, step, seed, held)
        elif not trials.is_done(together, name, wanted := probe_fingerprint(together, seed)):
            probe.run(together, seed)
            trials.mark_done(together, name, wanted)


def steps(config: Config, together: Config, seed: int) -> dict[str, float]:
    """The steps of a seed with the seconds that each will take; 0 for one that was done and is up to date."""
    expected = {}
    aligned = trials.is_trained(together, "align", seed)
    for name in ("align", *methods.METHODS):
        rests = aligned or methods.get(name).start == "init"
        done = rests and trials.is_trained(together, name, seed)
        expected[f"{name}-{seed}"] = 0.0 if done else trials.seconds(config, together, name)
    probed = not any(expected.values()) and trials.is_done(together, f"probe-{seed}", probe_fingerprint(together, seed))
    expected[f"probe-{seed}"] = 0.0 if probed else max(1.0, trials.typical(config, "probe@0"))
    return expected


def write(config: Config, draws: int = 1000) -> dict[str, pd.DataFrame]:
    """The tables of `config.seeds`, each seed's numbers, and what they say of the paper's claims, to `figures/seeds`.

    Intervals are over videos and seeds, by `draws` resamples. The overview and the provenance are written too.
    """
    from mc3 import report  # which tells of experiments, this one too

    found, single = {}, []
    for stem, make in STEMS.items():
        found[stem] = make(config)
        trials.write_table(FIGURES / f"{stem}.csv", found[stem])
        for seed in config.seeds:
            table = make(trials.changed(config, {"seeds": [seed]}))
            metrics = [name for name in table if f"{name}_std" in table]
            keys = [key for key in ("method", "protocol") if key in table]
            long = table.loc[table["seeds"] > 0].melt(keys, metrics, "metric", "value").dropna(subset="value")
            single.append(long.assign(table=stem, seed=seed))
    each = pd.concat(single, ignore_index=True)[["table", "method", "protocol", "metric", "seed", "value"]]
    trials.write_table(FIGURES / "per_seed.csv", each)
    save(overview(report.overview(FIGURES)), FIGURES / "overview")
    measured = uncertainty.measure(config, draws)
    checked = claims.checks(measured)
    apart = uncertainty.differences(measured)
    for stem, table in (("claim_checks", checked), ("claims", claims.table(checked)), ("differences", apart)):
        trials.write_table(FIGURES / f"{stem}.csv", table)
    save(differences(uncertainty.forest(apart)), FIGURES / "differences")
    inputs = [config.paths.work / "embeddings" / str(seed) for seed in config.seeds]
    inputs += [probe.path(config, seed) for seed in config.seeds]
    trials.record(config, "seeds", {}, inputs)
    return found
