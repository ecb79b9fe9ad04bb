"""Claims of the paper's text (data/paper/claims.yaml), judged by paired differences with 95 % intervals.

A claim is as many checks as it names rows and metrics. A check holds if its interval lies above the margin, fails if it
lies below, and is inconclusive otherwise; a claim holds if all its measured checks do, and fails if one does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mc3.config import read_yaml
from mc3.errors import ConfigError
from mc3.files import reading
from mc3.paper import bootstrap, tables
from mc3.paper.bootstrap import Measured
from mc3.paper.tables import PAPER, Cell

FILE = PAPER / "claims.yaml"
NUMBERS, WORDS = ["paper", "difference", "low", "high"], ("in_paper", "checks", "weakest", "note")  # columns of `table`
MISSING = {  # why nothing of a source is measured
    "deviation": "one seed has no deviation",
    "ablations": "not run with these settings; `dvc repro experiments/dvc.yaml:ablations` does",
}
HOLDS, FAILS, INCONCLUSIVE, UNMEASURED = "holds", "does not hold", "inconclusive", "not measured"
Names = Sequence[str]  # of rows or metrics


@dataclass(frozen=True)
class Check:
    """The sum of the cells `above` exceeds the sum of the cells `below` by more than `margin`."""

    above: tuple[Cell, ...]
    below: tuple[Cell, ...]
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A statement of the paper in our words; checks on `source` (of `bootstrap.measure`), or the `reason` why none."""

    name: str
    section: str
    text: str
    source: str = ""
    checks: tuple[Check, ...] = ()
    reason: str = ""


def over(rows: Names, others: Names, metrics: Names, against: Names = (), margin: float = 0.0) -> list[Check]:
    """Each of `rows` exceeds each of `others` in each of `metrics`; the others' metrics are `against`, if given."""
    cases = product(rows, others, zip(metrics, against or metrics, strict=True))
    return [Check((_cell(row, m),), (_cell(other, n),), margin) for row, other, (m, n) in cases]


def within(rows: Names, high: Names, low: Names) -> list[Check]:
    """Each of `rows` has more in the metrics `high` than in the metrics `low`, pairwise."""
    return [check for row in rows for check in over([row], [row], high, low)]


def lead(rows: Names, others: Names, high: Names, low: Names) -> list[Check]:
    """The lead of each of `rows` over each of `others` is larger in the metrics `high` than in `low`, pairwise."""
    cases = product(rows, others, zip(high, low, strict=True))
    return [Check((_cell(r, m), _cell(o, n)), (_cell(o, m), _cell(r, n))) for r, o, (m, n) in cases]


def gain(rows: Names, others: Names, base: Names, metrics: Names) -> list[Check]:
    """Each of `rows` gains more over each of `others` than these gain over each of `base`."""
    cases = product(rows, base, others, metrics)
    return [Check((_cell(r, m), _cell(b, m)), (_cell(o, m), _cell(o, m))) for r, b, o, m in cases]


SHAPES: dict[str, Callable[..., list[Check]]] = {f.__name__: f for f in (over, within, lead, gain)}


def load(file: Path = FILE) -> list[Claim]:
    """The claims of `file`, in its order; a malformed one is a `ConfigError` with its name and what it needs."""
    data = read_yaml(file)
    found: dict[str, Claim] = {}
    with reading(file, "correct it", ConfigError):
        for number, entry in enumerate(data["claims"], start=1):
            name = str(entry.get("claim", f"number {number}"))
            try:
                if name in found:
                    raise ValueError("its name occurs twice")
                found[name] = _claim(name, entry, data.get("groups", {}))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"claim {name} in {file}: {error}") from None
    return list(found.values())


def checks(measured: Mapping[str, Measured], claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """Every check of every claim: claim, above, below, margin, paper, difference, low, high, seeds (NaN if missing)."""
    published, rows = tables.published(), []
    for claim in load() if claims is None else claims:
        for check in claim.checks:
            row: dict[str, Any] = {"claim": claim.name, "above": _words(check.above), "below": _words(check.below)}
            total = _total(measured[claim.source].cells, check)
            if isinstance(total, np.ndarray):
                interval = bootstrap.contrast(total, measured[claim.source].videos)
                row |= dict(zip(("difference", "low", "high"), interval, strict=True), seeds=len(total))
            rows.append({**row, "margin": check.margin, "paper": _total(published, check)})
    columns = ["claim", "above", "below", "margin", *NUMBERS, "seeds"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys((*NUMBERS, "seeds"), float))


def table(checked: pd.DataFrame, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """The claims with their verdicts, which the weakest check decides: its interval reaches furthest against the claim.

    Columns: claim, section, text, in_paper (how many checks hold in the paper's numbers), checks (how many of those
    measured hold here), weakest, its paper, difference, low, high, verdict, note (why it is not measured) and seeds.
    """
    rows = []
    for claim in load() if claims is None else claims:
        own = checked[checked["claim"] == claim.name]
        found, printed = own[own["difference"].notna()], own[own["paper"].notna()]
        note = claim.reason or MISSING.get(claim.source, "its rows or regions are not in this run")
        row: dict[str, Any] = {"claim": claim.name, "section": claim.section, "text": claim.text}
        row |= {**dict.fromkeys(WORDS, ""), "verdict": UNMEASURED, "note": note}
        if len(printed):
            row["in_paper"] = f"{(printed['paper'] > printed['margin']).sum()} of {len(printed)}"
        if len(found):
            conditions = [found["low"] > found["margin"], found["high"] < found["margin"]]
            found = found.assign(verdict=np.select(conditions, [HOLDS, FAILS], INCONCLUSIVE))
            width = (found["high"] - found["low"]).clip(lower=1e-12)
            against = ((found["margin"] - found["low"]) / width).fillna(0.5)  # above 1 it fails, below 0 it holds
            weakest = found.loc[against.idxmax()]
            margin = f" {weakest['margin']:+g}" if weakest["margin"] else ""
            row |= {"checks": f"{conditions[0].sum()} of {len(found)}", **weakest[[*NUMBERS, "verdict"]]}
            row |= {"weakest": f"{weakest['above']} > {weakest['below']}{margin}", "note": ""}
        rows.append(row)
    columns = ["claim", "section", "text", "in_paper", "checks", "weakest", *NUMBERS, "verdict", "note"]
    return pd.DataFrame(rows, columns=columns).assign(seeds=int(checked["seeds"].fillna(0).max()))


def cells(judged: pd.DataFrame) -> pd.DataFrame:
    """`table`, also when read back from its CSV, as text: a row a claim."""
    judged = judged.fillna(dict.fromkeys(WORDS, ""))
    numbers = judged[NUMBERS].map(lambda value: "" if pd.isna(value) else f"{value:+.3f}")
    spans = np.where(numbers["low"] == "", "", "[" + numbers["low"] + ", " + numbers["high"] + "]")
    return pd.DataFrame({
        "Section": judged["section"].astype(str), "Claim": judged["text"], "Verdict": judged["verdict"],
        "Holds here": judged["checks"], "In the paper": judged["in_paper"],
        "Weakest comparison": judged["weakest"].where(judged["weakest"] != "", judged["note"]),
        "Difference": numbers["difference"], "95 % interval": spans, "The paper's": numbers["paper"],
    })  # fmt: skip


def sentence(judged: pd.DataFrame) -> str:
    """One sentence on how many claims of `table` hold, fail and are inconclusive."""
    verdicts = judged["verdict"].tolist()
    holds, fails, inconclusive, unmeasured = map(verdicts.count, (HOLDS, FAILS, INCONCLUSIVE, UNMEASURED))
    seeds = int(judged["seeds"].max())
    over = f"videos and {seeds} seeds" if seeds > 1 else "videos, with 1 seed"
    counts = f"{holds} hold, {fails} do not, and {inconclusive} are inconclusive (95 % intervals over {over})"
    measured = f"Of {len(judged) - unmeasured} claims of the paper that can be measured here, {counts}"
    return f"{measured}; {unmeasured} more are listed, but not measured."


def _claim(name: str, entry: Mapping[str, Any], groups: Mapping[str, list[str]]) -> Claim:
    keys = ["checks", "claim", "reason", "section", "source", "text"]
    if unknown := set(entry).difference(keys):
        raise ValueError(f"unknown key {min(unknown)!r}; known: {', '.join(keys)}")
    for key in ("claim", "section", "text"):
        if not isinstance(entry.get(key), str):
            raise ValueError(f"{key} must be text, not {entry.get(key)!r}; put numbers in quotes")
    if ("reason" in entry) == ("checks" in entry) or ("source" in entry) != ("checks" in entry):
        raise ValueError("give either source and checks, or a reason why it is not measured")
    if "source" in entry and entry["source"] not in bootstrap.SOURCES:
        raise ValueError(f"unknown source {entry['source']!r}; known: {', '.join(bootstrap.SOURCES)}")
    found = tuple(check for item in entry.get("checks", ()) for check in _checks(item, groups))
    return Claim(name, entry["section"], entry["text"], entry.get("source", ""), found, entry.get("reason", ""))


def _checks(item: Any, groups: Mapping[str, list[str]]) -> list[Check]:
    if not isinstance(item, dict) or len(item) != 1 or not set(item) <= set(SHAPES):
        raise ValueError(f"a check is one of {', '.join(SHAPES)} with its arguments, not {item!r}")
    ((shape, arguments),) = item.items()
    lists = {key: [value] if isinstance(value, str) else value for key, value in arguments.items() if key != "margin"}
    expanded: dict[str, Any] = {key: [i for n in names for i in groups.get(n, [n])] for key, names in lists.items()}
    if "margin" in arguments:
        expanded["margin"] = float(arguments["margin"])
    return SHAPES[shape](**expanded)


def _cell(row: str, metric: str) -> Cell:
    protocol, _, metric = metric.rpartition("/")
    return Cell(row, metric, protocol)


def _total(values: Mapping[Cell, Any], check: Check) -> Any:
    if not values.keys() >= {*check.above, *check.below}:
        return np.nan
    return sum(values[cell] for cell in check.above) - sum(values[cell] for cell in check.below)


def _words(cells: Sequence[Cell]) -> str:
    """Cells in words: "MC3, AV ROC", without the brackets of a label."""
    parts = [(tables.label(c.method).split(" (")[0], c.protocol, tables.header(c.metric)) for c in cells]
    return " + ".join(", ".join(filter(None, part)) for part in parts)
