"""Audio-free baselines for "does the narrated action sound?", and areas under curves with intervals over videos.

The text of a narration predicts much of whether its action sounds. A model that hears must therefore rank narrations
of one verb, or improve a classifier on the text.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mc3 import evaluate
from mc3.errors import DataError
from mc3.paper import bootstrap

FOLDS, DRAWS = 5, 1000
METRICS = ("roc", "pr", "within_verb")


def folds(videos: ArrayLike) -> NDArray[np.int64]:
    """The fold of every row, 0 .. `FOLDS` - 1, balanced in size; rows of one video share a fold. [N]."""
    videos = np.asarray(videos)
    n = len(np.unique(videos))
    if n < 2:
        raise DataError("one video cannot be cross-validated by video; give two or more")
    fold = np.zeros(len(videos), np.int64)
    for number, (_, test) in enumerate(GroupKFold(min(FOLDS, n)).split(videos, groups=videos)):
        fold[test] = number
    return fold


def cross_validated(features: pd.DataFrame, labels: ArrayLike, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-odds of a logistic regression of `labels` (0 and 1) fitted on the other folds (of `folds`): [N].

    Of `features`, one row a narration, the words of a column "text" are counted as present or absent, "verb_class" and
    "noun_class" are one-hot encoded, every other column is a number and standardised. Raises `DataError` if without one
    of the folds only one label is left.
    """
    labels = np.asarray(labels).astype(int)
    for number in np.unique(fold):
        if len(set(labels[fold != number])) < 2:
            raise DataError("the videos outside one fold all have one label; the benchmark needs more narrations")
    classes = [c for c in features if c in ("verb_class", "noun_class")]
    numbers = [c for c in features if c not in ("text", *classes)]
    parts: list[tuple[Any, Any]] = [(StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), classes)]
    if "text" in features:
        parts.append((CountVectorizer(binary=True, tokenizer=str.split, token_pattern=None), "text"))
    model = make_pipeline(make_column_transformer(*parts), LogisticRegression(max_iter=2000))
    return cross_val_predict(model, features, labels, cv=PredefinedSplit(fold), method="decision_function")


def all_scores(
    narrations: pd.DataFrame, labels: ArrayLike, fold: NDArray[np.int64], cosines: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.float64]]:
    """Chance, the audio-free baselines, a model's `cosines`, and text plus each of these: name -> [N]."""
    text = narrations[["text", "verb_class", "noun_class"]]
    duration = pd.DataFrame({"duration": np.log(narrations["stop"] - narrations["start"])})
    scores = {
        "chance": np.zeros(len(narrations)),
        "duration": cross_validated(duration, labels, fold),
        "verb": cross_validated(narrations[["verb_class"]], labels, fold),
        "text": cross_validated(text, labels, fold),
        "text + duration": cross_validated(text.join(duration), labels, fold),
    }
    for name, values in cosines.items():
        scores[name] = np.asarray(values, np.float64)
        scores[f"text + {name}"] = cross_validated(text.assign(**{name: scores[name]}), labels, fold)
    return scores


def score_table(
    scores: Mapping[str, ArrayLike], labels: NDArray[np.bool_], narrations: pd.DataFrame, fold: NDArray[np.int64],
    draws: int = DRAWS,
) -> pd.DataFrame:  # fmt: skip
    """One row a score: areas with 95 % bootstrap intervals over videos, and areas against the shifted labels.

    `roc` and `pr` cover all folds together, as in Table 2. `within_verb` counts pairs of one verb and one fold, because
    the folds' classifiers have different offsets; a score that depends on the verb alone is exactly one half there.
    `scores` are [N] each, `labels` [1 + shifts, N] with the real ones first; `narrations` [N] have verb and video_id.
    Columns: score, narrations, videos, prevalence, for each of `METRICS` its value, _low, _high and _shifted (mean over
    the shifts), and prevalence_shifted.
    """
    strata = pd.factorize(pd.MultiIndex.from_arrays([narrations["verb"], fold]))[0]
    weights, rows = bootstrap.resamples(narrations["video_id"], draws), []
    about = {"narrations": len(narrations), "videos": narrations["video_id"].nunique(), "prevalence": labels[0].mean()}
    for name, values in scores.items():
        parts = [areas(values, labels[0], strata, part) for part in np.array_split(weights, -(-len(weights) // 100))]
        shifted = [areas(values, label, strata, weights[:1]) for label in labels[1:]]
        row = {"score": name, **about}
        for metric in METRICS:
            real, *drawn = np.concatenate([part[metric] for part in parts])
            low, high = evaluate.interval(drawn) if np.isfinite(drawn).any() else (np.nan, np.nan)
            row |= {metric: real, f"{metric}_low": low, f"{metric}_high": high}
        chance = {f"{metric}_shifted": np.mean([s[metric][0] for s in shifted]) for metric in METRICS}
        rows.append({**row, "prevalence_shifted": labels[1:].mean(), **chance})
    return pd.DataFrame(rows)


def areas(scores: ArrayLike, labels: ArrayLike, strata: ArrayLike, weights: ArrayLike) -> dict[str, Any]:
    """ROC area, average precision, and ROC area over the pairs within a stratum, under D weightings of the rows.

    Equal scores count half in ROC (`mc3.evaluate.weighted_roc`) and cross the threshold together in precision.
    `scores` [N] (higher means "sounds"), `labels` [N] (0 or 1), `strata` [N] (codes from 0) and `weights` [D, N] (how
    often each row counts) give for each of `METRICS` float64 [D], NaN where there is no pair.
    """
    labels, weights = np.asarray(labels).astype(int), np.asarray(weights)
    if len(np.unique(labels)) < 2:
        return {metric: np.full(len(weights), np.nan) for metric in METRICS}
    within = evaluate.weighted_roc(scores, labels, weights, strata)
    return {**evaluate.resampled_discovery(scores, labels, weights), "within_verb": within}
