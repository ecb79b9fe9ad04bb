"""Ego4D's annotation files -> clips: narrations for training, sounding-action labels for evaluation."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mc3.config import Config
from mc3.data.annotations import Report, fragments, read_json, read_rows, read_table
from mc3.errors import DataError
from mc3.files import is_safe_id

WEARER = re.compile(r"\s*#\s*c\b[\s:,]*", re.IGNORECASE)
TAG = re.compile(r"#\s*[oc]\b", re.IGNORECASE)
UNSURE = re.compile(r"#\s*unsure\b", re.IGNORECASE)
TRUE, FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


def clean(narration: str) -> str | None:
    """The sentence of a narration about the camera wearer, or None if it is about somebody else.

    "#C C washes the #unsure" becomes "C washes the something": the leading tag says whom the
    sentence is about ("#O": others), "#unsure" stands for a word that the narrator did not know.
    """
    tag = WEARER.match(narration)
    return None if tag is None else _without_tags(narration[tag.end() :])


def _without_tags(sentence: str) -> str:
    return " ".join(TAG.sub(" ", UNSURE.sub("something", sentence)).replace("#", " ").split())


class Taxonomy:
    """Ego4D's grouping of words (Sec. 5): a CSV of `label` and `group`, the group a Python list of words.

    A word that stands in several groups ("cup" is in "cabinet_(cabinet,_compartment,_cupboard)" too) belongs to
    the one that is called so, or else has it among the names in brackets, or else comes first.
    """

    def __init__(self, path: Path):
        table = read_table(path, ("label", "group"), "Ego4D's annotations")
        self.labels = list(table["label"])
        self.words: dict[tuple[str, ...], str] = {}
        claims: dict[tuple[str, ...], int] = {}
        for line, label, group in zip(table["line"], self.labels, table["group"], strict=True):
            try:
                words = ast.literal_eval(group)
            except (ValueError, SyntaxError):
                raise DataError(
                    f"{path}, line {line}: group {group!r} is no list of words; fetch the file again"
                ) from None
            called, *others = [_tokens(name) for name in re.split(r"_?[(),]+", label)]
            for word in map(_tokens, words):
                claim = 2 if word == called else 1 if word in others else 0
                if claim > claims.get(word, -1):
                    self.words[word], claims[word] = label, claim
        self.longest = max(map(len, self.words))

    def find(self, tokens: list[str], start: int = 0) -> tuple[str, int]:
        """The group of the first word known, from token `start` on, and the position after it.

        At one position the longest entry wins; inflected words count as their stem. ("", start) if none.
        """
        for at in range(start, len(tokens)):
            for length in range(min(self.longest, len(tokens) - at), 0, -1):
                # English inflects a verb's first word ("picks up") and a noun's last ("drill bits")
                words = tokens[at : at + length]
                first = ((stem, *words[1:]) for stem in _stems(words[0]))
                last = ((*words[:-1], stem) for stem in _stems(words[-1]))
                for entry in (*first, *last):
                    if entry in self.words:
                        return self.words[entry], at + length
        return "", start


def tag(sentence: str, verbs: Taxonomy, nouns: Taxonomy) -> tuple[str, str]:
    """Verb and noun group of a cleaned narration: the first verb after the subject, the first noun after the verb."""
    tokens = list(_tokens(sentence))
    verb, position = verbs.find(tokens, 1 if tokens[:1] == ["c"] else 0)
    return verb, nouns.find(tokens, position)[0]


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9'/-]+", text.lower().replace("_", " ")))


def _stems(word: str) -> Iterator[str]:
    """The word itself, then what it may be an inflection of; wrong guesses are in no taxonomy."""
    yield word
    for ending, stems in (("s", ("",)), ("es", ("",)), ("ies", ("y",)), ("ves", ("f", "fe")),
                          ("ing", ("e", "")), ("ed", ("e", "")), ("ied", ("y",))):  # fmt: skip
        if word.endswith(ending) and len(word) > len(ending) + 1:
            root = word[: -len(ending)]
            yield from (root + stem for stem in stems)
            if ending in ("ing", "ed") and root[-1] == root[-2]:
                yield root[:-1]


@dataclass(frozen=True)
class Video:
    """What ego4d.json says of one video."""

    duration_sec: float
    has_audio: bool


def read_videos(path: Path, report: Report) -> dict[str, Video]:
    """ego4d.json -> videos by uid; a null `audio_base_denominator` means that a video was recorded without sound."""
    videos: dict[str, Video] = {}
    data = read_json(path)
    entries = data.get("videos") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} lists no videos; fetch it again with Ego4D's own command `ego4d`")
    for row, entry in enumerate(entries):
        uid = entry.get("video_uid")
        facts = {**entry, **(entry.get("video_metadata") or {})}
        duration = facts.get("duration_sec")
        if not is_safe_id(uid):
            report.drop(path, f"videos[{row}]", f"unsafe video_uid {uid!r}")
        elif uid in videos:
            report.drop(path, f"videos[{row}]", "duplicated video_uid")
        elif not isinstance(duration, int | float) or not duration > 0:
            report.drop(path, f"videos[{row}]", "no duration_sec")
        else:
            videos[uid] = Video(float(duration), facts.get("audio_base_denominator") is not None)
    return videos


def read_narrations(path: Path, report: Report) -> Iterator[tuple[str, str, list[tuple[str, float, str]]]]:
    """A file of narrations -> (file's key, uid, [(row, time, raw text)]) video by video.

    narration.json in either shape, both passes; or, if its name does not end in .json, a table with columns
    video_uid, narration_time, clip_text, as EgoClip's and Ego4DSounds' are (their windows are not used).
    """
    if path.suffix != ".json":
        yield from _tabled_narrations(path, report)
        return
    data = read_json(path)
    by_video = data.get("videos", data) if isinstance(data, dict) else None
    if isinstance(by_video, list):
        by_video = {entry.get("video_uid"): entry for entry in by_video}
    if not by_video:
        raise DataError(f"{path} has no narrations; fetch it again with Ego4D's own command `ego4d`")
    for uid in sorted(by_video, key=str):
        rows = []
        entry = by_video[uid] if isinstance(by_video[uid], dict) else {}
        for number in ("narration_pass_1", "narration_pass_2"):
            for i, narration in enumerate((entry.get(number) or {}).get("narrations") or []):
                row = f"{uid}/{number}[{i}]"
                try:
                    time, text = float(narration["timestamp_sec"]), str(narration["narration_text"])
                except (KeyError, TypeError, ValueError):
                    report.drop(path, row, "no timestamp_sec or narration_text")
                    continue
                rows.append((row, time, text))
        yield str(uid), str(uid), rows


def _tabled_narrations(path: Path, report: Report) -> Iterator[tuple[str, str, list[tuple[str, float, str]]]]:
    videos: dict[str, list[tuple[str, float, str]]] = {}
    for line, row in read_rows(path, ("video_uid", "narration_time", "clip_text"), "a table of narrations", report):
        try:
            narration = (f"line {line}", float(row["narration_time"]), row["clip_text"])
        except ValueError:
            report.drop(path, f"line {line}", "narration time is no number")
            continue
        videos.setdefault(row["video_uid"], []).append(narration)
    for uid in sorted(videos):
        yield uid, uid, videos[uid]


def read_labels(path: Path, report: Report) -> pd.DataFrame:
    """A table of sounding-action labels -> video_uid, narration_time, clip_text, positive, votes, tag_*, action_group.

    All layouts in circulation: with three annotators' `votes` ("1,0,1"), decided by majority (Sec. 5); with
    `positive`, taken as it is, and perhaps `action_group`; Ego4DSounds' (EgoClip's columns and `positive`). A
    row needs votes or label, and where it has both they must agree. All columns but `narration_time`
    and `positive` are text; `row` says where each is from.
    """
    table = read_table(path, ("video_uid", "narration_time", "clip_text"), "the sounding-action labels", report)
    if "votes" not in table and "positive" not in table:
        raise DataError(f"{path} has neither a column `votes` nor `positive`; use the labelled TSV")
    for column in ("votes", "positive", "tag_verb", "tag_noun", "action_group"):
        if column not in table:
            table[column] = ""
    table["row"] = [f"line {line}" for line in table["line"]]
    rows, decided = [], []
    for i, (row, votes, positive) in enumerate(zip(table["row"], table["votes"], table["positive"], strict=True)):
        ones, zeros = votes.count("1"), votes.count("0")
        majority = None if ones == zeros else ones > zeros
        said = True if positive.lower() in TRUE else False if positive.lower() in FALSE else None
        if majority is None and said is None:
            report.drop(path, row, "neither a majority of votes nor a label")
        elif majority is not None and said is not None and majority != said:
            report.drop(path, row, "`positive` contradicts the majority of votes")
        else:
            rows.append(i)
            decided.append(said if majority is None else majority)
    kept = table.iloc[rows].assign(positive=decided)
    times = pd.to_numeric(kept["narration_time"], errors="coerce")
    return kept.assign(narration_time=times).reset_index(drop=True)


def groups(tags: Sequence[str], found: Sequence[str], taxonomy: Taxonomy) -> list[str]:
    """The group of each row by the file's own `tags`, and where they give none, that `found` in its sentence.

    A tag is a group's label, its place in the taxonomy, or a list of places ("[3, 17]", as EgoClip's). Places in
    another release's taxonomy would name wrong groups: they are used only if all exist in this one and at least
    half agree with what is found in the sentences. Of several, the one found in the sentence, else the first.
    """
    named: list[list[str]] = []
    placed = agreeing = 0
    for text, own in zip(tags, found, strict=True):
        places = [int(number) for number in re.findall(r"\d+", text)] if re.fullmatch(r"[\[\]\d\s,]+", text) else []
        if any(place >= len(taxonomy.labels) for place in places):
            return list(found)
        labels = [taxonomy.labels[place] for place in places] or [
            label for label in (text,) if label in taxonomy.labels
        ]
        if places and own:
            placed, agreeing = placed + 1, agreeing + (own in labels)
        named.append(labels)
    if agreeing < placed / 2:
        return list(found)
    return [own if own in labels or not labels else labels[0] for labels, own in zip(named, found, strict=True)]


def clips(config: Config, report: Report) -> list[dict[str, Any]]:
    """All Ego4D clips of the manifest: every labelled one, and `ego4d.train_clips` sampled narrations.

    Training clips come from videos that have sound and no labelled clip (Sec. 5: the labels are
    for evaluation only). What is wrong with the files goes to `report`.
    """
    raw, files = config.paths.raw, config.ego4d
    verbs, nouns = Taxonomy(raw / files.verb_taxonomy), Taxonomy(raw / files.noun_taxonomy)
    videos = read_videos(raw / files.metadata, report)
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    labelled: set[str] = set()
    for split, name in sorted(files.labels.items()):
        labels = read_labels(raw / name, report)
        labelled |= fragments(raw / name)  # of malformed and dropped rows too: their videos must not be trained on
        found = [u for u in labels["video_uid"] if u in videos]
        if not found:
            raise DataError(
                f"none of the {len(labels)} rows of {raw / name} is of a video in {raw / files.metadata}; "
                "use labels and metadata of the same release of Ego4D"
            )
        if labels["positive"].nunique() < 2:
            raise DataError(
                f"{raw / name} has {'only' if labels['positive'].all() else 'no'} sounding actions, but discovery "
                "needs both kinds; use such a table (Ego4DSounds') as `ego4d.narrations`"
            )
        # some copies ship sentences without their tag, Ego4DSounds some of other people
        sentences = [clean(text) or _without_tags(text) for text in labels["clip_text"]]
        tagged = [tag(sentence, verbs, nouns) for sentence in sentences]
        labels["verb"] = groups(labels["tag_verb"], [verb for verb, _ in tagged], verbs)
        labels["noun"] = groups(labels["tag_noun"], [noun for _, noun in tagged], nouns)
        for label, text in zip(labels.itertuples(), sentences, strict=True):
            uid, time = label.video_uid, float(label.narration_time)
            if (problem := _problem(uid, time, videos)) is not None:
                report.drop(files.labels[split], label.row, problem)
            elif (clip_id := _clip_id(uid, time)) in seen:
                report.drop(files.labels[split], label.row, "duplicated clip")
            else:
                seen.add(clip_id)
                clip = _clip(config, clip_id, split, uid, time, text, label.verb, label.noun)
                clip["action_group"] = label.action_group or clip["action_group"]
                rows.append({**clip, "positive": int(label.positive), "votes": label.votes})
    candidates = _candidates(config, videos, labelled, report)
    rng = np.random.default_rng(files.sampling_seed)
    chosen = np.sort(rng.permutation(len(candidates))[: files.train_clips])
    if len(chosen) < len(candidates):
        report.set_aside["training clip not sampled"] = len(candidates) - len(chosen)
    for i in chosen:
        uid, time, text = candidates[i]
        rows.append(_clip(config, _clip_id(uid, time), "train", uid, time, text, *tag(text, verbs, nouns)))
    return rows


def _candidates(
    config: Config, videos: dict[str, Video], labelled: set[str], report: Report
) -> list[tuple[str, float, str]]:
    """(uid, time, text) of every narration to train on, sorted, so that the file's order does not matter."""
    file = config.ego4d.narrations
    total, candidates = 0, []
    for key, uid, narrations in read_narrations(config.paths.raw / file, report):
        total += len(narrations)
        if (problem := _video_problem(uid, videos)) is not None:
            report.drop(file, key, problem, clips=len(narrations))
            continue
        if uid in labelled:
            report.set_aside["narration of a video kept for evaluation"] += len(narrations)
            continue
        seen: set[str] = set()
        for row, time, raw_text in sorted(narrations, key=lambda n: (math.isnan(n[1]), n[1], n[2])):
            text = clean(raw_text)
            if text is None:
                report.set_aside["narration of somebody else"] += 1
            elif (problem := _problem(uid, time, videos)) is not None:
                report.drop(file, row, problem)
            elif not text:
                report.drop(file, row, "empty narration")
            elif (clip_id := _clip_id(uid, time)) in seen:
                report.drop(file, row, "duplicated clip")
            else:
                seen.add(clip_id)
                candidates.append((uid, time, text))
    if not total:
        raise DataError(f"{config.paths.raw / file} has no narrations; fetch it again with Ego4D's own command `ego4d`")
    return candidates


def _clip_id(uid: str, time: float) -> str:
    return f"{uid}_{round(1000 * time):09d}"


def _video_problem(uid: str, videos: dict[str, Video]) -> str | None:
    if not is_safe_id(uid):
        return "unsafe video_uid"
    if uid not in videos:
        return "video not in the metadata"
    return None if videos[uid].has_audio else "video without audio"


def _problem(uid: str, time: float, videos: dict[str, Video]) -> str | None:
    problem = _video_problem(uid, videos)
    if problem is None and not math.isfinite(time):
        problem = "narration time is no number"
    if problem is None and time < 0:
        problem = "narration time is negative"
    if problem is None and time > videos[uid].duration_sec:
        problem = "narration time beyond the end of the video"
    return problem


def _clip(
    config: Config, clip_id: str, split: str, uid: str, time: float, text: str, verb: str, noun: str
) -> dict[str, Any]:
    return {
        "clip_id": clip_id, "dataset": "ego4d", "split": split, "video_uid": uid, "narration_time": time,
        "start_sec": time - config.clips.before_sec, "end_sec": time + config.clips.after_sec,
        "text": text, "verb": verb, "noun": noun, "action_group": f"{verb} {noun}" if verb and noun else "",
        "path": (config.ego4d.videos / f"{uid}.mp4").as_posix(),
    }  # fmt: skip
