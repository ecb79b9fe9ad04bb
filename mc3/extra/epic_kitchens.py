"""Readers of EPIC-KITCHENS-100: narrations, taxonomies, durations, and the table of sounds that each verb can cause."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3.data.annotations import Report, read_table, usable_rows
from mc3.data.epic_sounds import OVERHANG_SEC, seconds
from mc3.errors import DataError
from mc3.files import is_safe_id

ANY = "collision"  # in the table of sounds by verb: every class whose name ends in it
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "verb_class", "noun_class")
SOUNDS = (  # EPIC-Sounds' 44 classes by class_id
    "metal-only collision", "scrub / scrape / scour / wipe", "cut / chop", "open / close", "rustle", "water",
    "plastic-only collision", "footstep", "stir / mix / whisk", "slide object", "metal / wood collision",
    "metal / plastic collision", "metal / ceramic collision", "background", "ceramic-only collision", "beep", "click",
    "metal / glass collision", "paper-only collision", "pour", "glass-only collision", "wood-only collision",
    "plastic / paper collision", "metal / paper collision", "human", "metal / cloth collision",
    "plastic / ceramic collision", "plastic / wood collision", "metal / marble collision", "sizzling / boiling",
    "ceramic / glass collision", "plastic / marble collision", "plastic / glass collision",
    "kettle / mixer / appliance", "ceramic / wood collision", "kneading", "cloth-only collision",
    "ceramic / marble collision", "glass / marble collision", "wood / glass collision", "hoover / fan", "spray", "zip",
    "drink / eat",
)  # fmt: skip


def read_classes(path: Path) -> pd.Series:
    """A taxonomy, EPIC_100_verb_classes.csv or EPIC_100_noun_classes_v2.csv: class number -> key."""
    table = read_table(path, ("id", "key"), "an EPIC-100 taxonomy")
    numbers = table["id"].map(_number)
    if len(bad := table[(numbers < 0) | numbers.duplicated()]):
        row = bad.iloc[0]
        raise DataError(f"{path}, line {row.line}: {row.id!r} is not a class number, or a repeated one; fetch it again")
    return pd.Series(table["key"].to_numpy(), index=numbers.to_numpy(), name="key")


def read_durations(path: Path) -> pd.Series:
    """EPIC_100_video_info.csv: video_id -> duration in seconds."""
    table = read_table(path, ("video_id", "duration"), "EPIC-100 video info")
    duration = pd.to_numeric(table["duration"], errors="coerce")
    good = np.isfinite(duration) & (duration > 0) & table["video_id"].map(is_safe_id)
    if len(bad := table["line"][~good | table["video_id"].duplicated()]):
        raise DataError(f"{path}, line {bad.iloc[0]}: no video with a duration, or a repeated video; fetch it again")
    return pd.Series(duration.to_numpy(np.float64), index=table["video_id"].to_numpy(), name="duration")


def read_narrations(
    path: Path, report: Report, verbs: pd.Series, nouns: pd.Series | None = None, durations: pd.Series | None = None
) -> pd.DataFrame:
    """The narrated actions of EPIC_100_train.csv or EPIC_100_validation.csv, sorted by video and start.

    `report` gets the rows at fault, among them those of classes that `verbs` and `nouns` (class number -> key) do not
    have, and those beyond the end of their video by `durations` (of `read_durations`). Columns: narration_id, video_id,
    start, stop (s), text, verb (key), verb_class, noun_class. `DataError` if it is no UTF-8 table or no row is left.
    """
    table = read_table(path, COLUMNS, "EPIC-100 narrations", report)
    start, stop = table["start_timestamp"].map(seconds), table["stop_timestamp"].map(seconds)
    verb, noun = table["verb_class"].map(_number), table["noun_class"].map(_number)
    ends = table["video_id"].map(durations) if durations is not None else pd.Series(math.inf, index=table.index)
    faults: dict[str, pd.Series] = {
        "times are not timestamps": ~(np.isfinite(start) & np.isfinite(stop)),
        "starts before the video": start < 0,
        "ends before it starts": stop <= start,
        "video without a known duration": ends.isna(),
        "ends after the video": stop > ends + OVERHANG_SEC,
        "unknown verb_class {verb_class!r}": ~verb.isin(verbs.index),
        "unknown noun_class {noun_class!r}": (noun < 0) | (False if nouns is None else ~noun.isin(nouns.index)),
    }
    kept = usable_rows(table, "narration_id", faults, path, report)
    narrations = pd.DataFrame({
        "narration_id": table["narration_id"], "video_id": table["video_id"], "start": start, "stop": stop,
        "text": table["narration"], "verb": verb.map(verbs), "verb_class": verb, "noun_class": noun,
    }).loc[kept]  # fmt: skip
    return narrations.sort_values(["video_id", "start", "narration_id"], ignore_index=True)


def read_verb_sounds(path: Path, verbs: pd.Series | None = None) -> tuple[pd.Series, NDArray[np.bool_]]:
    """The table of sounds by verb, data/epic/verb_sounds.csv: verb_class, verb, sounds (separated by "; ").

    An empty cell means that the action is silent. Returns class number -> key, and bool [verb classes, 44]: whether an
    action of verb class i can cause sound class j. Raises `DataError` if a sound is not an EPIC-Sounds class, or the
    verb classes do not count from 0 or are not EPIC-100's own, `verbs`.
    """
    table = read_table(path, ("verb_class", "verb", "sounds"), "sounds by verb")
    if table["verb_class"].map(_number).tolist() != list(range(len(table))):
        raise DataError(f"{path}: column verb_class must count 0, 1, 2, ... as EPIC-100's verb classes do")
    keys = table["verb"].rename("key")
    if verbs is not None and keys.to_dict() != verbs.to_dict():
        number, key = min(set(keys.items()) ^ set(verbs.items()))
        raise DataError(f"{path} and EPIC-100's verb classes differ at {number}, {key!r}; every class needs a row")
    compatible = np.zeros((len(table), len(SOUNDS)), bool)
    for i, (names, line) in enumerate(zip(table["sounds"], table["line"], strict=True)):
        for name in filter(None, names.split("; ")):
            found = [sound == name or (name == ANY and sound.endswith(f" {ANY}")) for sound in SOUNDS]
            if not any(found):
                raise DataError(f"{path}, line {line}: {name!r} is neither a class of EPIC-Sounds nor `{ANY}`")
            compatible[i] |= found
    return keys, compatible


def check_sounds(path: Path) -> None:
    """Raise `DataError` if most rows of a class number in an EPIC-Sounds file do not have its name in `SOUNDS`."""
    table = read_table(path, ("class", "class_id"), "EPIC-Sounds events with classes", Report(Path()))
    pairs = table.value_counts(["class_id", "class"]).reset_index().drop_duplicates("class_id")
    for number, name in sorted(zip(pairs["class_id"], pairs["class"], strict=True)):
        if 0 <= _number(number) < len(SOUNDS) and SOUNDS[_number(number)] != name:
            raise DataError(f"{path}: class_id {number!r} is {name!r}; that is not EPIC-Sounds' taxonomy of 44 classes")


def _number(text: str) -> int:
    """A class number; -1 for any other text."""
    return int(text) if text.isascii() and text.isdigit() else -1
