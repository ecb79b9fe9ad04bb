"""Hyper-parameters on the validation split (`mc3 tune`): every method gets the same number of trials.

`methods` tunes the learning rate of each method, and the temperature and the weight of Eq. 3 of those that have one
to tune, over the same points of a Halton sequence, so that the third learning rate is the third for all. The first
trial is the profile's own settings, which the pipeline trained. A method is chosen by the mean of its validation ROCs;
only the chosen trial, and the profile's, are then scored on the test clips.

`readings` compares what the paper leaves open in Eq. 2-3 (see `mc3.losses.consensus`): which inverse brings the
smallest score back, whether the consensus is a constant target, and how much Eq. 3 weighs. Test clips are not seen.

`objectives` compares what may stand in place of Eq. 3 on the seeds of `mc3 seeds`, without a look at test clips either.
The best is a row of `METHODS` and confirmed there; the others are recipes among `OTHERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import qmc
from scipy.stats import t as student

from mc3 import experiments, losses, methods, seeds, trials
from mc3.config import Config, ConfigError
from mc3.data import DataError
from mc3.plots import save

WEIGHTS = (1.0, 5.0)
TABLE = Path("figures") / "consensus_choice.csv"
TUNING = Path("figures") / "tuning.csv"
OBJECTIVES = ("wo_consensus", "mc3", "peers", "peers_equal", "peers_consensus", "relative", "relative_soft")
COMPARISON = Path("figures") / "objectives.csv"
TRIALS = 4
SPACE = {"train.learning_rate": 4.0, "loss.temperature": 2.0, "loss.consensus_weight": 4.0}
"""What is tuned, and by which factor at most above and below the profile's value, on a logarithmic scale."""


def space(method: str) -> list[str]:
    """Those of `SPACE` that change `method`: not a temperature that its recipe fixes, nor a weight of nothing."""
    stages = methods.get(method).stages
    free = {"train.learning_rate"}
    if any(stage.contrastive and stage.temperature is None for stage in stages):
        free.add("loss.temperature")
    if any(stage.contrastive and stage.consensus for stage in stages):
        free.add("loss.consensus_weight")
    return [name for name in SPACE if name in free]


def usual(config: Config) -> dict[str, float]:
    """The value of each of `SPACE` in these settings."""
    return {
        "train.learning_rate": config.train.learning_rate,
        "loss.temperature": config.loss.temperature,
        "loss.consensus_weight": config.loss.consensus_weight,
    }


def settings(config: Config, method: str, count: int) -> list[dict[str, float]]:
    """`count` trials of a method: {} for the profile's settings, then points of the Halton sequence in its space."""
    sequence = qmc.Halton(len(SPACE), scramble=False)
    sequence.fast_forward(2)  # its first point is a corner, its second has the profile's learning rate
    drawn = [dict(zip(SPACE, point, strict=True)) for point in sequence.random(count - 1)]
    own, at_profile = space(method), usual(config)
    rounded = [
        {name: float(f"{at_profile[name] * SPACE[name] ** (2 * at[name] - 1):.3g}") for name in own} for at in drawn
    ]
    return [{}, *rounded]


@dataclass(frozen=True)
class Job:
    """A training: trial `number` of `method`, with its settings in its folder."""

    method: str
    number: int
    trial: Config
    seed: int


def jobs_of(config: Config, count: int) -> dict[str, Job]:
    """`count` trials of every method on every seed by what is printed of them, their folders made.

    Trial 0 is the pipeline's own training, in its own place.
    """
    jobs = {}
    for number, method, seed in product(range(count), methods.METHODS, config.seeds):
        changes = settings(config, method, count)[number]
        align = methods.get(method).start == "align"
        trial = trials.placed(config, changes, seed, own_align=not align) if number else config
        jobs[f"{method} {number + 1}/{count} {told(changes)}, seed {seed}"] = Job(method, number, trial, seed)
    return jobs


def run(config: Config, count: int = TRIALS, processes: int = 1) -> pd.DataFrame:
    """Train `count` trials of every method on every seed, choose on validation, and write `TUNING` and its figure.

    The methods that start from the align checkpoint share the pipeline's own: their refine stage is tuned. Goes on
    where it was stopped, `processes` trainings at once; the table is written when every method has had its trials.
    """
    if count < 1:
        raise ConfigError(f"--trials {count}: a method needs one trial or more")
    trials.require(config, ("align", *methods.METHODS))
    jobs = jobs_of(config, count)
    own = {name: trials.Job(job.trial, job.seed, (job.method,)) for name, job in jobs.items() if job.number}
    trials.train_all(own, config, processes)
    rows = []
    for job in jobs.values():
        method, trial, seed, number = job.method, job.trial, job.seed, job.number
        short = {place.split(".")[1]: value for place, value in usual(trial).items() if place in space(method)}
        row: dict[str, Any] = {"method": method, "label": methods.get(method).label, "trial": number, "seed": seed}
        rows.append({**row, **short, **trials.validation(trial, method, seed)})
    table = chosen(pd.DataFrame(rows))
    held: dict[str, Any] = {}
    for index, row in table[table["chosen"] | (table["trial"] == 0)].iterrows():
        tests = []
        for job in jobs.values():
            if (job.method, job.number) == (row["method"], row["trial"]):
                if job.number:
                    trials.embedded(job.trial, job.method, job.seed, held)
                tests.append(trials.discovery(job.trial, job.method, job.seed))
        for name, value in pd.DataFrame(tests).mean().items():
            table.loc[index, f"test_{name}"] = value
    trials.write_table(TUNING, table)
    save(experiments.tuning(table), TUNING.with_suffix(""))
    trials.record(config, "tuning", {"space": SPACE, "trials": count}, [config.paths.work / "shards"])
    print(table[table["chosen"]].drop(columns="chosen").round(3).to_string(index=False))
    return table


def chosen(each: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of each trial; `mean` of its validation ROCs, and the best of each method as `chosen`.

    Raises `ValueError` if the methods did not have the same number of trials.
    """
    keys = ["method", "label", "trial"]
    counted = each.groupby(keys, sort=False)["seed"].nunique().rename("seeds")
    table = each.drop(columns="seed").groupby(keys, sort=False).mean().join(counted).reset_index()
    if table["method"].value_counts().nunique() != 1 or counted.nunique() != 1:
        raise ValueError(f"methods had different numbers of trials: {table['method'].value_counts().to_dict()}")
    rocs = [name for name in ("av_roc", "al_roc") if name in table]
    table["mean"] = table[rocs].mean(axis=1)
    table["chosen"] = table.index.isin(table.groupby("method")["mean"].idxmax())  # the earlier one of equals
    order = {name: number for number, name in enumerate(dict.fromkeys(table["method"]))}
    table = table.rename(columns={name: f"validation_{name}" for name in rocs})
    return table.sort_values(
        ["method", "trial"], key=lambda c: c.map(order) if c.name == "method" else c, ignore_index=True
    )


def told(changes: dict[str, float]) -> str:
    """A trial's settings in words."""
    return ", ".join(f"{name.split('.')[1]} {value:g}" for name, value in changes.items()) or "the profile's settings"


def readings_of(config: Config) -> dict[str, tuple[dict[str, Any], int, Config]]:
    """Every reading and weight on every seed: its row of `TABLE`, the seed and the settings in their folder."""
    found = {}
    for inverse, stop_gradient, weight, seed in product(losses.INVERSES, (True, False), WEIGHTS, config.seeds):
        row = {"inverse": inverse, "stop_gradient": stop_gradient, "weight": weight}
        reading = {"loss.consensus.inverse": inverse, "loss.consensus.stop_gradient": stop_gradient}
        trial = trials.placed(config, {**reading, "loss.consensus_weight": weight}, seed)
        target = "constant" if stop_gradient else "moving"
        found[f"{inverse}, {target} target, weight {weight:g}, seed {seed}"] = (row, seed, trial)
    return found


def readings(config: Config, processes: int = 1) -> pd.DataFrame:
    """Score every reading and weight on every seed and write `TABLE`, the best mean of both ROCs first."""
    trials.require(config, ["align"])
    jobs = readings_of(config)
    trials.train_all(
        {name: trials.Job(trial, seed, ("mc3",)) for name, (_, seed, trial) in jobs.items()}, config, processes
    )
    each = pd.DataFrame([row | trials.validation(trial, "mc3", seed) for row, seed, trial in jobs.values()])
    table = each.groupby(["inverse", "stop_gradient", "weight"], sort=False).mean().reset_index()
    table["mean"] = table[["av_roc", "al_roc"]].mean(axis=1)
    table = table.assign(seeds=len(config.seeds)).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    trials.write_table(TABLE, table)
    trials.record(config, TABLE.stem, {"seeds": list(config.seeds)}, [config.paths.work / "shards"])
    print(table.round(3).to_string(index=False))
    return table


def objectives(config: Config, at: Sequence[int] = seeds.SEEDS, processes: int = 1) -> pd.DataFrame:
    """Score `OBJECTIVES` on the validation clips over the seeds `at`, and write `COMPARISON` and its figure.

    A difference to MC3 has a 95 % interval over seeds (Student's t): of the clips, all see the same.

    Raises:
        DataError: `mc3 seeds` has not trained its rows on these seeds.
    """
    together = seeds.placed(config, at)
    for method, seed in product((m for m in ("align", *OBJECTIVES) if m not in methods.OTHERS), at):
        if seed not in config.seeds and not trials.is_trained(together, method, seed):
            again = f"`mc3 seeds --seeds {' '.join(map(str, at))}` trains it"
            raise DataError(f"{method}-{seed} is missing or of other settings, recipe or code; {again}")
    others = [(name, seed) for seed, name in product(at, OBJECTIVES) if name in methods.OTHERS]
    jobs = {f"{name}-{seed}": trials.Job(together, seed, (name,)) for name, seed in others}
    trials.train_all(jobs, config, processes)
    rows = []
    for name, seed in product(OBJECTIVES, at):
        found = trials.validation(together, name, seed)
        rows.append({"objective": name, "label": methods.get(name).label, "seed": seed, **found})
    each = pd.DataFrame(rows)
    each["mean"] = each[["av_roc", "al_roc"]].mean(axis=1)
    table = compared(each)
    trials.write_table(COMPARISON, table)
    best = table["objective"].iloc[0]
    drawn = each.rename(columns={"av_roc": "validation_av_roc", "al_roc": "validation_al_roc"})
    save(experiments.tuning(drawn.assign(chosen=drawn["objective"] == best)), COMPARISON.with_suffix(""))
    trials.record(config, "objectives", {"seeds": list(at)}, [config.paths.work / "shards"])
    print(table.round(3).to_string(index=False))
    return table


def compared(each: pd.DataFrame) -> pd.DataFrame:
    """Means and deviations over seeds, and the difference of `mean` to MC3's with its interval, the best first.

    `each`: objective, label, seed, av_roc, al_roc and mean, a row an objective and seed.
    """
    ours = each[each["objective"] == "mc3"].set_index("seed")["mean"]
    rows = []
    for (name, label), group in each.groupby(["objective", "label"], sort=False):
        row: dict[str, Any] = {"objective": name, "label": label, "seeds": len(group)}
        for metric in ("av_roc", "al_roc", "mean"):
            row |= {metric: group[metric].mean(), f"{metric}_std": group[metric].std(ddof=1)}
        differences = group.set_index("seed")["mean"] - ours
        half = student.ppf(0.975, len(group) - 1) * differences.std(ddof=1) / len(group) ** 0.5
        value = differences.mean()
        rows.append({**row, "difference": value, "low": value - half, "high": value + half})
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
