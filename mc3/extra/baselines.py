"""Scores of narrated actions that never hear anything, and areas under curves with intervals over videos.

What a narration says tells much of whether its action sounds. A model that hears is worth something where it orders
narrations of one verb, and where it adds to a classifier on the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mc3 import evaluate
from mc3.errors import DataError
from mc3.paper import bootstrap

FOLDS, DRAWS = 5, 1000
METRICS = ("roc", "pr", "within_verb")


def folds(videos: ArrayLike) -> NDArray[np.int64]:
    """A fold for every row, 0 .. `FOLDS` - 1, of equal size as far as possible; rows of a video share theirs. [N]."""
    from sklearn.model_selection import GroupKFold

    videos = np.asarray(videos)
    n = len(np.unique(videos))
    if n < 2:
        raise DataError("one video cannot be cross-validated by video; give two or more")
    fold = np.zeros(len(videos), np.int64)
    for number, (_, held) in enumerate(GroupKFold(min(FOLDS, n)).split(videos, groups=videos)):
        fold[held] = number
    return fold


def cross_validated(features: pd.DataFrame, labels: ArrayLike, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-odds of a logistic regression fitted on the other folds: [N].

    Args:
        features: a row a narration; of column "text" the words are taken, "verb_class" and "noun_class" are classes,
            and every other column is a number that is standardised.
        labels: [N] of 0 and 1.
        fold: of `folds`.

    Raises:
        DataError: all folds but one have one label only.
    """
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    labels = np.asarray(labels).astype(int)
    for number in np.unique(fold):
        if len(set(labels[fold != number])) < 2:
            raise DataError("the videos outside one fold all have one label; the benchmark needs more narrations")
    classes = [c for c in ("verb_class", "noun_class") if c in features]
    numbers = [c for c in features if c not in ("text", "verb_class", "noun_class")]
    parts: list[tuple[Any, Any]] = [(StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), classes)]
    if "text" in features:
        parts.append((CountVectorizer(binary=True, tokenizer=str.split, token_pattern=None), "text"))
    model = make_pipeline(
        make_column_transformer(*[(way, columns) for way, columns in parts if columns]),
        LogisticRegression(max_iter=2000),
    )
    return cross_val_predict(model, features, labels, cv=PredefinedSplit(fold), method="decision_function")


def areas(scores: ArrayLike, labels: ArrayLike, strata: ArrayLike, weights: ArrayLike | None = None) -> dict[str, Any]:
    """ROC area, average precision, and the ROC area of pairs within a stratum, under D weightings of the rows.

    `within_verb` is the mean of the strata's ROC areas weighted by their pairs of a positive and a negative; see
    `mc3.evaluate.weighted_roc`.

    Args:
        scores: [N], higher means "sounds".
        labels: [N], 0 or 1.
        strata: [N], codes from 0.
        weights: [D, N], how often each row counts; once, if not given.

    Returns:
        metric of `METRICS` -> float64 [D], NaN where there is no pair.
    """
    labels = np.asarray(labels).astype(int)
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights)
    if len(np.unique(labels)) < 2:
        return {metric: np.full(len(weights), np.nan) for metric in METRICS}
    within = evaluate.weighted_roc(scores, labels, weights, strata)
    return {**evaluate.resampled_discovery(scores, labels, weights), "within_verb": within}


def evaluated(
    scores: Mapping[str, ArrayLike], labels: NDArray[np.bool_], verbs: ArrayLike, videos: ArrayLike,
    fold: NDArray[np.int64], draws: int = DRAWS,
) -> pd.DataFrame:  # fmt: skip
    """A row a score, with 95 % bootstrap intervals over videos, and the same score against the shifted labels.

    Pairs within a verb are of one fold too: scores of two folds come from two classifiers, each of which leans
    against the rates of what it has not seen. So a score that knows the verb alone has exactly one half there. `roc`
    and `pr` are those of all folds together, as Table 2's.

    Args:
        scores: name -> [N].
        labels: [1 + shifts, N], the real ones first.
        verbs: [N].
        videos: [N].
        fold: [N], of `folds`.
        draws: of the bootstrap.

    Returns:
        score, narrations, videos, prevalence, for each of `METRICS` its value, _low, _high and _shifted (mean over
        the shifts), and prevalence_shifted.
    """
    strata = pd.factorize(pd.MultiIndex.from_arrays([np.asarray(verbs), fold]))[0]
    weights, rows = bootstrap.resamples(videos, draws)[1:], []
    for name, values in scores.items():
        real = areas(values, labels[0], strata)
        drawn = [areas(values, labels[0], strata, part) for part in np.array_split(weights, -(-draws // 100))]
        moved = [areas(values, label, strata) for label in labels[1:]]
        row = {"score": name, "narrations": labels.shape[1], "videos": len(np.unique(np.asarray(videos))),
               "prevalence": labels[0].mean()}  # fmt: skip
        for metric in METRICS:
            values_drawn = np.concatenate([d[metric] for d in drawn])
            low, high = evaluate.interval(values_drawn) if np.isfinite(values_drawn).any() else (np.nan, np.nan)
            row |= {metric: real[metric][0], f"{metric}_low": low, f"{metric}_high": high}
        row["prevalence_shifted"] = labels[1:].mean()
        row |= {f"{metric}_shifted": np.mean([m[metric][0] for m in moved]) for metric in METRICS}
        rows.append(row)
    return pd.DataFrame(rows)


def all_scores(
    narrations: pd.DataFrame, labels: ArrayLike, fold: NDArray[np.int64], heard: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.float64]]:
    """Chance, the baselines that hear nothing, a model's scores `heard`, and each beside the text: name -> [N]."""
    text = narrations[["text", "verb_class", "noun_class"]]
    duration = pd.DataFrame({"duration": np.log(narrations["stop"] - narrations["start"])})
    scores = {
        "chance": np.zeros(len(narrations)),
        "duration": cross_validated(duration, labels, fold),
        "verb": cross_validated(narrations[["verb_class"]], labels, fold),
        "text": cross_validated(text, labels, fold),
        "text + duration": cross_validated(text.join(duration), labels, fold),
    }
    for name, values in heard.items():
        scores[name] = np.asarray(values, np.float64)
        scores[f"text + {name}"] = cross_validated(text.assign(**{name: scores[name]}), labels, fold)
    return scores
