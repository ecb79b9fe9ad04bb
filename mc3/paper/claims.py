"""What the paper's text says of its results, as comparisons that can be computed, and whether they hold here.

Each sentence of Section 6 that compares rows, and each of Sections 3-4 about what consensus does to similarities, is an
entry of `CLAIMS`, in our words. A claim is as many checks as it names rows and metrics, and holds if all do.
A sentence about rows that nobody trained here is listed too, with the reason. Nothing is left out for its verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mc3 import methods
from mc3.paper import bootstrap, tables
from mc3.paper.bootstrap import RANDOM, Cell, Measured

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"


@dataclass(frozen=True)
class Check:
    """That the cells `above` add up to more than the cells `below`, by more than `margin`."""

    above: tuple[Cell, ...]
    below: tuple[Cell, ...]
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A statement of the paper: where it stands, in our words, and the checks on `source` that it amounts to.

    `source` is a key of `mc3.bootstrap.measure`. Without checks, `reason` says why it is not measured.
    """

    name: str
    section: str
    text: str
    source: str = ""
    checks: tuple[Check, ...] = ()
    reason: str = ""


def over(rows: Sequence[str], others: Sequence[str], metrics: Sequence[str], margin: float = 0.0) -> tuple[Check, ...]:
    """That each of `rows` exceeds each of `others` in each of `metrics`."""
    return tuple(Check(((r, m),), ((o, m),), margin) for r in rows for o in others for m in metrics)


def within(rows: Sequence[str], high: Sequence[str], low: Sequence[str]) -> tuple[Check, ...]:
    """That each of `rows` has more in the metrics `high` than in the metrics `low`, pairwise."""
    return tuple(Check(((r, a),), ((r, b),)) for r in rows for a, b in zip(high, low, strict=True))


def lead(row: str, others: Sequence[str], high: str, low: str) -> tuple[Check, ...]:
    """That the lead of `row` over each of `others` is larger in the metric `high` than in `low`."""
    return tuple(Check(((row, high), (o, low)), ((o, high), (row, low))) for o in others)


AV, AL = ("av_roc", "av_pr"), ("al_roc", "al_pr")
AV_CURVE, AL_CURVE = ([f"{pair}_p{round(100 * r)}" for r in bootstrap.RECALLS] for pair in ("av", "al"))
V2A, A2V, L2A, A2L = (tuple(f"{d}_r{k}" for k in (5, 10)) for d in ("v2a", "a2v", "l2a", "a2l"))
CLASSES = ("top1", "top5", "mca", "map", "mauc")
HEARD_SEEN, HEARD_READ = ("cm_acc", "cmc", "imagebind"), ("clap", "cmc", "imagebind")  # baselines with AV, with AL
ABLATIONS = ("wo_consensus", "wo_contrastive", "wo_align")
MC3 = ("mc3",)
NOT_MUCH = 0.02  # "not much better": twice the paper's bound on the deviation over seeds

CLAIMS = (
    Claim(
        "av_learned",
        "6.1",
        "Contrastive learning on sound and picture alone (CM-ACC) discovers sounding actions better than chance.",
        "table2",
        over(["cm_acc"], [RANDOM], AV),
    ),
    Claim(
        "av_language_helps",
        "6.1",
        "Training with language too (CMC, ImageBind) makes audio-vision discovery better than CM-ACC's.",
        "table2",
        over(["cmc", "imagebind"], ["cm_acc"], AV),
    ),
    Claim(
        "av_small_steps",
        "6.1",
        "CMC and ImageBind gain less over CM-ACC than MC3 gains over them.",
        "table2",
        tuple(Check((("mc3", m), ("cm_acc", m)), ((o, m), (o, m))) for o in ("cmc", "imagebind") for m in AV),
    ),
    Claim(
        "av_discovery",
        "6.1",
        "MC3 is better than the baselines at audio-vision discovery.",
        "table2",
        over(MC3, HEARD_SEEN, AV),
    ),
    Claim(
        "al_over_av",
        "6.1",
        "Audio-language discovery is better than audio-vision discovery, as CLAP is beside CM-ACC.",
        "table2",
        tuple(Check((("clap", a),), (("cm_acc", b),)) for a, b in zip(AL, AV, strict=True))
        + within(["cmc", "imagebind", "mc3"], AL, AV),
    ),
    Claim(
        "al_joint",
        "6.1",
        "Joint training (CMC, ImageBind) is not much better than CLAP at audio-language discovery: "
        f"less than {NOT_MUCH} ahead.",
        "table2",
        over(["clap"], ["cmc", "imagebind"], AL, -NOT_MUCH),
    ),
    Claim(
        "al_discovery",
        "6.1",
        "MC3 is better than the baselines at audio-language discovery.",
        "table2",
        over(MC3, HEARD_READ, AL),
    ),
    Claim(
        "precision_av",
        "6.1, Fig. 5",
        "MC3's audio-vision precision is above the baselines' at every recall.",
        "figure5",
        over(MC3, HEARD_SEEN, AV_CURVE),
    ),
    Claim(
        "precision_al",
        "6.1, Fig. 5",
        "MC3's audio-language precision is above the baselines' at every recall.",
        "figure5",
        over(MC3, HEARD_READ, AL_CURVE),
    ),
    Claim(
        "precision_low_recall",
        "6.1, Fig. 5",
        "MC3's lead in precision is larger at low recall (10 %) than at high (90 %).",
        "figure5",
        lead("mc3", HEARD_SEEN, "av_p10", "av_p90") + lead("mc3", HEARD_READ, "al_p10", "al_p90"),
    ),
    Claim(
        "consensus_helps",
        "6.1",
        "Without the consensus loss discovery is worse.",
        "table2",
        over(MC3, ["wo_consensus"], AV + AL),
    ),
    Claim(
        "contrastive_needed",
        "6.1",
        "Without the contrastive loss in the refine stage discovery is worse.",
        "table2",
        over(MC3, ["wo_contrastive"], AV + AL),
    ),
    Claim(
        "contrastive_first",
        "6.1",
        "It harms discovery more to leave out the contrastive loss than the consensus loss.",
        "table2",
        over(["wo_consensus"], ["wo_contrastive"], AV + AL),
    ),
    Claim(
        "align_needed",
        "6.1",
        "Without the align stage discovery is worse.",
        "table2",
        over(MC3, ["wo_align"], AV + AL),
    ),
    Claim(
        "align_fails",
        "6.1",
        "Without the align stage training fails: discovery is below chance.",
        "table2",
        over([RANDOM], ["wo_align"], AV + AL),
    ),
    Claim(
        "clusters",
        "6.1, Fig. 6",
        "Clusters of MC3's video embeddings gather similar actions: two clips of a cluster share their verb "
        "more often than any two clips.",
        "figure6",
        over(MC3, [RANDOM], ["same_verb"]),
    ),
    Claim(
        "clusters_background",
        "6.1, Fig. 6",
        "The clusters do not depend on the background.",
        reason="shown in the paper by one picture; the clips' backgrounds have no labels",
    ),
    Claim(
        "retrieval_learned",
        "6.2",
        "All methods retrieve sound by picture and picture by sound better than chance.",
        "table3",
        over(["cm_acc", "cmc", "imagebind", *ABLATIONS, "mc3"], [RANDOM], V2A + A2V),
    ),
    Claim(
        "retrieval_av",
        "6.2",
        "MC3 is better than baselines and ablations at retrieving sound by picture and picture by sound.",
        "table3",
        over(MC3, [*HEARD_SEEN, *ABLATIONS], V2A + A2V),
    ),
    Claim(
        "retrieval_easier",
        "6.2",
        "To retrieve sound by picture is easier than picture by sound.",
        "table3",
        within([*HEARD_SEEN, "mc3"], V2A, A2V),
    ),
    Claim(
        "retrieval_al",
        "6.2",
        "MC3 is better than the baselines at retrieving sound by words and words by sound.",
        "table3",
        over(MC3, HEARD_READ, L2A + A2L),
    ),
    Claim(
        "epic_linear_ssast",
        "6.3",
        "Under a linear probe MC3's audio encoder is better than SSAST's.",
        reason="SSAST is not trained here",
    ),
    Claim(
        "epic_linear_asf",
        "6.3",
        "Under a linear probe ASF, pre-trained with audio labels, is better than both.",
        reason="ASF is not trained here",
    ),
    Claim(
        "epic_finetune",
        "6.3",
        "Fine-tuned, MC3's audio encoder is better than ASF and SSAST in all metrics but one.",
        reason="ASF and SSAST are not trained here",
    ),
    Claim(
        "epic_linear_learned",
        "6.3",
        "Discovery teaches the audio encoder what is of use for naming sounds: under a linear probe it is "
        "better than its initial weights (which stand here for the paper's other pre-training).",
        "table4",
        over(["linear-probe/mc3"], ["linear-probe/untrained"], CLASSES),
    ),
    Claim(
        "epic_finetune_learned",
        "6.3",
        "So it is when fine-tuned.",
        "table4",
        over(["fine-tune/mc3"], ["fine-tune/untrained"], CLASSES),
    ),
    Claim(
        "epic_margins",
        "6.3",
        "Margins are smaller when fine-tuned than under a linear probe.",
        "table4",
        tuple(
            Check(
                (("linear-probe/mc3", m), ("fine-tune/untrained", m)),
                (("linear-probe/untrained", m), ("fine-tune/mc3", m)),
            )
            for m in CLASSES
        ),
    ),
    Claim(
        "align_agreement",
        "4.1, Fig. 2",
        "After the align stage two modalities are closer in clips where all agree (region I) than where these "
        "two disagree.",
        "figure2",
        over(
            ["align"], [RANDOM], ["av_roc_III", "av_roc_IV", "al_roc_II", "al_roc_III", "av_roc_II-IV", "al_roc_II-IV"]
        ),
    ),
    Claim(
        "refine_region_two",
        "3, Fig. 2",
        "Consensus tells clips in which sound and picture agree but not the narration (region II) from region "
        "I by sound and picture alone, better than the align stage or contrastive refinement.",
        "figure2",
        over(MC3, ["align", "wo_consensus"], ["av_roc_II", "av_roc_II-IV"]),
    ),
    Claim(
        "consensus_pulls",
        "4.3",
        "Consensus draws the modalities of clips where all agree together: they are closer than after the align stage.",
        "figure2",
        over(MC3, ["align"], ["av_mean_I", "al_mean_I"]),
    ),
    Claim(
        "consensus_pushes",
        "4.3",
        "Consensus pushes the modalities of other clips apart: they are further than after the align stage.",
        "figure2",
        over(["align"], MC3, ["av_mean_others", "al_mean_others"]),
    ),
    Claim(
        "anchor",
        "4.4, supplement",
        "Audio is the best anchor of the consensus, and 1 and .5 are the best exponents.",
        reason="settings, not rows: `mc3 ablate anchor alpha` measures them",
    ),
    Claim(
        "duration",
        "5, supplement",
        "1.5 s is a good length of a clip.",
        reason="a setting, not a row: `mc3 ablate duration` measures it",
    ),
)


def checks(measured: Mapping[str, Measured], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Every check of every claim, one row each; checks on rows or regions that are not there are not measured.

    Columns: claim, above and below (in words), margin, paper (its own difference, NaN where it prints none),
    difference, low and high (95 % interval over videos and seeds) and seeds; these are NaN if not measured.
    """
    published, rows = paper(), []
    for claim in claims:
        for check in claim.checks:
            row = {
                "claim": claim.name,
                "above": _words(check.above),
                "below": _words(check.below),
                "margin": check.margin,
            }
            row |= {"paper": _total(published, check)}
            row |= dict.fromkeys(("difference", "low", "high", "seeds"), np.nan)
            cells, videos = measured[claim.source].cells, measured[claim.source].videos
            if set(check.above + check.below) <= set(cells):
                total = np.sum([cells[c] for c in check.above], axis=0) - np.sum(
                    [cells[c] for c in check.below], axis=0
                )
                row |= dict(zip(("difference", "low", "high"), bootstrap.contrast(total, videos), strict=True))
                row["seeds"] = len(total)
            rows.append(row)
    return pd.DataFrame(rows)


def verdict(difference: float, low: float, high: float, margin: float = 0.0) -> str:
    """Of one check: its interval lies above the margin, below it, or around it; NaN is not measured."""
    if np.isnan(difference):
        return UNMEASURED
    return HOLDS if low > margin else FAILS if high < margin else UNDECIDED


def table(checked: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """The claims with their verdicts: one holds if all its measured checks do, and does not if one does not.

    Columns: claim, section, text, in_paper (how many of the checks hold between the numbers that the paper prints),
    checks (how many hold here, of those measured), weakest (the check whose interval reaches furthest against the
    claim, which decides the verdict), paper, difference, low, high (that check's), verdict, note (why it is not
    measured) and seeds.
    """
    rows = []
    for claim in claims:
        own = checked[checked["claim"] == claim.name]
        found = own[own["difference"].notna()]
        printed = own[own["paper"].notna()]
        row: dict[str, Any] = {
            "claim": claim.name,
            "section": claim.section,
            "text": claim.text,
            "in_paper": "",
            "checks": "",
            "weakest": "",
        }
        row |= {"paper": np.nan, "difference": np.nan, "low": np.nan, "high": np.nan}
        row |= {"verdict": UNMEASURED, "note": claim.reason or "its rows or regions are not in this run"}
        if len(printed):
            row["in_paper"] = f"{int((printed['paper'] > printed['margin']).sum())} of {len(printed)}"
        if len(found):
            verdicts = [verdict(*values) for values in found[["difference", "low", "high", "margin"]].to_numpy()]
            width = (found["high"] - found["low"]).clip(lower=1e-12)
            against = ((found["margin"] - found["low"]) / width).fillna(0.5)  # above 1 it fails, below 0 it holds
            weakest = found.loc[against.idxmax()]
            row |= {"checks": f"{verdicts.count(HOLDS)} of {len(verdicts)}"}
            margin = f" {weakest['margin']:+g}" if weakest["margin"] else ""
            row |= {"weakest": f"{weakest['above']} > {weakest['below']}{margin}"}
            row |= {name: weakest[name] for name in ("paper", "difference", "low", "high")}
            row |= {"verdict": verdicts[found.index.get_loc(against.idxmax())], "note": ""}
        rows.append({**row, "seeds": int(checked["seeds"].fillna(0).max())})
    return pd.DataFrame(rows)


def cells(judged: pd.DataFrame) -> pd.DataFrame:
    """`table`, or what its CSV holds, as text: a row a claim."""
    judged = judged.fillna({"in_paper": "", "checks": "", "weakest": "", "note": ""})
    found = judged[["paper", "difference", "low", "high"]]
    numbers = found.map(lambda value: "" if pd.isna(value) else f"{value:+.3f}")
    spans = np.where(numbers["low"] == "", "", "[" + numbers["low"] + ", " + numbers["high"] + "]")
    return pd.DataFrame({
        "Section": judged["section"].astype(str), "Claim": judged["text"], "Verdict": judged["verdict"],
        "Holds here": judged["checks"], "In the paper": judged["in_paper"],
        "Weakest comparison": judged["weakest"].where(judged["weakest"] != "", judged["note"]),
        "Difference": numbers["difference"], "95 % interval": spans, "The paper's": numbers["paper"],
    })  # fmt: skip


def sentence(judged: pd.DataFrame) -> str:
    """How many of the claims of `table` hold, do not and cannot be told, in one sentence."""
    counts = judged["verdict"].value_counts()
    holds, fails, undecided, unmeasured = (int(counts.get(v, 0)) for v in (HOLDS, FAILS, UNDECIDED, UNMEASURED))
    seeds = int(judged["seeds"].max())
    over = f"videos and {seeds} seeds" if seeds > 1 else "videos, with 1 seed"
    return (
        f"Of {len(judged) - unmeasured} claims of the paper that can be measured here, {holds} hold, {fails} do not, "
        f"and {undecided} cannot be told (95 % intervals over {over}); {unmeasured} more are listed, but not measured."
    )


def paper() -> dict[Cell, float]:
    """The paper's own numbers of Tables 2-4 by our rows' names."""
    names = {method.paper: method.name for method in map(methods.get, methods.METHODS)} | {"Random": RANDOM}
    found: dict[Cell, float] = {}
    for file in ("table2_discovery.csv", "table3_retrieval.csv", "table4_epic_sounds.csv"):
        for row in pd.read_csv(tables.PAPER / file).to_dict("records"):
            protocol, name = row.pop("protocol", ""), names.get(row.pop("method"))
            if name:
                place = f"{protocol}/{name}" if isinstance(protocol, str) and protocol else name
                found |= {(place, metric): value for metric, value in row.items() if isinstance(value, float)}
    return found


def _total(values: Mapping[Cell, float], check: Check) -> float:
    missing = float("nan")
    return sum(values.get(c, missing) for c in check.above) - sum(values.get(c, missing) for c in check.below)


def _words(cells: Sequence[Cell]) -> str:
    """Cells in words: "MC3, AV ROC", without what a label has in brackets."""
    parts = []
    for row, metric in cells:
        protocol, _, method = row.rpartition("/")
        parts.append(", ".join(filter(None, (bootstrap.label(method).split(" (")[0], protocol, tables.header(metric)))))
    return " + ".join(parts)
