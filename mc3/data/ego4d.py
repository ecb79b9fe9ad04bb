"""Ego4D: annotation files -> clips, from narrations for training and from sounding-action labels for evaluation."""

import ast
import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mc3.config import Config
from mc3.data.annotations import Report, fragments, read_json, read_rows, read_table
from mc3.errors import DataError
from mc3.files import is_safe_id

# "#C C cuts", and as annotators slipped: "#CC cuts", "3C C cuts", "@C C cuts", "C C cuts"
WEARER = re.compile(r"\s*(#\s*c(?=c?\b)|[#3@]?\s*c(?=\s+c\b))[\s:,]*", re.IGNORECASE)
OTHERS = re.compile(r"\W*#\s*(o|person)", re.IGNORECASE)  # "#O A man cuts", "#Oman cuts", "#Person X cuts"
TAG = re.compile(r"#\s*[oc]\b", re.IGNORECASE)
UNSURE = re.compile(r"#\s*unsure\b", re.IGNORECASE)
LONGEST_SEC = 1e6  # a longer video is a damaged number
LABELS = dict.fromkeys(("1", "1.0", "true", "yes"), True) | dict.fromkeys(("0", "0.0", "false", "no"), False)
ENDINGS = {"s": ("",), "es": ("",), "ies": ("y",), "ves": ("f", "fe"), "ing": ("e", ""), "ed": ("e", ""), "ied": ("y",)}
Narration = tuple[str, float, str]  # its place in the file or its video, time in seconds, text


def clean(narration: str) -> str | None:
    """The sentence of a narration of the camera wearer (`WEARER`), "#unsure" as "something"; None of any other."""
    wearer = WEARER.match(narration)
    return None if wearer is None else _without_tags(narration[wearer.end() :])


def _without_tags(sentence: str) -> str:
    return " ".join(TAG.sub(" ", UNSURE.sub("something", sentence)).replace("#", " ").split())


class Taxonomy:
    """Ego4D's grouping of words (Sec. 5): a CSV of `label` and `group`, the group a Python list of words.

    A word that is in several groups ("cup" is in "cabinet_(cabinet,_compartment,_cupboard)" too) belongs to the one
    named after it, or else to one that has it among the names in brackets, or else to the first.
    """

    def __init__(self, path: Path):
        table = read_table(path, ("label", "group"), "Ego4D's annotations")
        self.labels = list(table["label"])
        self.words: dict[tuple[str, ...], str] = {}
        ranks: dict[tuple[str, ...], int] = {}
        for line, label, group in zip(table["line"], self.labels, table["group"], strict=True):
            try:
                words = ast.literal_eval(group)
                if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                    raise TypeError
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                raise DataError(f"{path}, line {line}: group {group!r} is no list of words; fetch it again") from None
            name, *others = [_tokens(name) for name in re.split(r"_?[(),]+", label)]
            for word in map(_tokens, words):
                rank = 2 if word == name else 1 if word in others else 0
                if rank > ranks.get(word, -1):
                    self.words[word], ranks[word] = label, rank
        self.longest = max(map(len, self.words), default=0)

    def find(self, tokens: list[str], start: int = 0) -> tuple[str, int]:
        """The group of the first known word from `start` on, longest entry first, and its end; ("", start) if none."""
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
    """The word itself, then words that it may be an inflection of; wrong ones are in no taxonomy."""
    yield word
    for ending, stems in ENDINGS.items():
        if word.endswith(ending) and len(word) > len(ending) + 1:
            root = word[: -len(ending)]
            yield from (root + stem for stem in stems)
            if ending in ("ing", "ed") and root[-1] == root[-2]:
                yield root[:-1]


class Video(NamedTuple):
    """One video's metadata in ego4d.json."""

    duration_sec: float
    has_audio: bool


def read_videos(path: Path, report: Report) -> dict[str, Video]:
    """The videos of ego4d.json by uid; those with a null `audio_base_denominator` were recorded without sound."""
    videos: dict[str, Video] = {}
    data = read_json(path, "Ego4D's metadata")
    entries = data.get("videos") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} lists no videos; fetch it again with Ego4D's own command `ego4d`")
    for row, entry in enumerate(entries):
        facts = entry if isinstance(entry, dict) else {}
        if isinstance(of_file := facts.get("video_metadata"), dict):
            facts = {**facts, **of_file}
        uid, duration = facts.get("video_uid"), facts.get("duration_sec")
        if not is_safe_id(uid):
            report.drop(path, f"videos[{row}]", f"unsafe video_uid {uid!r}")
        elif str(uid) in videos:
            report.drop(path, f"videos[{row}]", "duplicated video_uid")
        elif not isinstance(duration, int | float) or not 0 < duration <= LONGEST_SEC:
            report.drop(path, f"videos[{row}]", "no duration_sec")
        else:
            videos[str(uid)] = Video(float(duration), facts.get("audio_base_denominator") is not None)
    return videos


def read_narrations(path: Path, report: Report) -> Iterator[tuple[str, list[Narration]]]:
    """Yield each video of narration.json (in either shape, with both passes) with its narrations, sorted by uid.

    A file of another suffix is a table of video_uid, narration_time, clip_text, as EgoClip and Ego4DSounds have.
    """
    if path.suffix != ".json":
        yield from _narrations_of_table(path, report)
        return
    data = read_json(path, "Ego4D's narrations")
    videos = data.get("videos", data) if isinstance(data, dict) else None
    if isinstance(videos, list):
        named = [(e.get("video_uid") if isinstance(e, dict) else None, e) for e in videos]
    else:
        named = list(videos.items()) if isinstance(videos, dict) else []
    seen = set[str]()
    for uid, entry in sorted(((str(uid), entry) for uid, entry in named), key=lambda each: each[0]):
        if uid in seen:
            report.drop(path, uid, "duplicated video_uid")
            continue
        seen.add(uid)
        rows: list[Narration] = []
        for number in ("narration_pass_1", "narration_pass_2"):
            narrations = _within(_within(entry, number), "narrations")
            if not isinstance(narrations, list):
                report.drop(path, f"{uid}/{number}", "no list of narrations")
                continue
            for i, narration in enumerate(narrations):
                row = f"{uid}/{number}[{i}]"
                try:
                    time, text = float(narration["timestamp_sec"]), narration["narration_text"]
                    text.encode()  # a string of whole characters
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                    report.drop(path, row, "no timestamp_sec or narration_text")
                else:
                    rows.append((row, time, text))
        yield uid, rows


def _within(value: Any, key: str) -> Any:
    """What a mapping has at `key`, [] if nothing; None of what is no mapping, but [] of an empty list."""
    if isinstance(value, dict):
        return value.get(key) or []
    return None if value else []


def _narrations_of_table(path: Path, report: Report) -> Iterator[tuple[str, list[Narration]]]:
    videos: dict[str, list[Narration]] = {}
    for line, row in read_rows(path, ("video_uid", "narration_time", "clip_text"), "a table of narrations", report):
        try:
            narration = (f"line {line}", float(row["narration_time"]), row["clip_text"])
        except ValueError:
            report.drop(path, f"line {line}", "narration time is no number")
        else:
            videos.setdefault(row["video_uid"], []).append(narration)
    yield from sorted(videos.items())


def read_labels(path: Path, report: Report) -> pd.DataFrame:
    """A table of sounding-action labels: video_uid, narration_time, clip_text, positive, votes, tag_*, action_group.

    A row needs annotators' `votes` ("1,0,1"), decided by majority (Sec. 5), or a label `positive`, as Ego4DSounds has;
    both must agree. `positive` is bool, `narration_time` a number, the rest text.
    """
    table = read_table(path, ("video_uid", "narration_time", "clip_text"), "the sounding-action labels", report)
    if "votes" not in table and "positive" not in table:
        raise DataError(f"{path} has neither a column `votes` nor `positive`; use the labelled TSV")
    optional = table.columns.union(["votes", "positive", "tag_verb", "tag_noun", "action_group"], sort=False)
    table = table.reindex(columns=optional, fill_value="")
    table["narration_time"] = pd.to_numeric(table["narration_time"], errors="coerce")
    lead = table["votes"].str.count("1") - table["votes"].str.count("0")
    label = table["positive"].str.lower().map(LABELS)
    faults = np.full(len(table), None)
    faults[(lead != 0) & label.notna() & (label != (lead > 0))] = "`positive` contradicts the majority of votes"
    faults[(lead == 0) & label.isna()] = "neither a majority of votes nor a label"
    decided = report.sift(table.assign(positive=label.where(lead == 0, lead > 0)), "line", faults.tolist(), path)
    return decided.astype({"positive": bool}).reset_index(drop=True)


def groups(tags: Sequence[str], found: Sequence[str], taxonomy: Taxonomy) -> list[str]:
    """The group of each row according to the file's own `tags`, or else `found`, the group found in its sentence.

    A tag is a group's label, or numbers in the taxonomy ("[3, 17]" in EgoClip), of which the one in `found` is taken,
    or else the first. Numbers may be of another release: all must exist and at least half agree with the sentences.
    """
    numbers = [[int(n) for n in re.findall(r"\d+", t)] if re.fullmatch(r"[\[\]\d\s,]+", t) else [] for t in tags]
    if max(chain.from_iterable(numbers), default=-1) >= len(taxonomy.labels):
        return list(found)
    named = [[tag] * (tag in taxonomy.labels) for tag in tags]
    tagged = [[taxonomy.labels[n] for n in own] or name for own, name in zip(numbers, named, strict=True)]
    agreeing = [own in labels for own, labels, n in zip(found, tagged, numbers, strict=True) if own and n]
    if sum(agreeing) < len(agreeing) / 2:
        return list(found)
    return [own if own in labels or not labels else labels[0] for labels, own in zip(tagged, found, strict=True)]


def clips(config: Config, report: Report) -> list[dict[str, Any]]:
    """The manifest's Ego4D clips: every labelled one, and `ego4d.train_clips` sampled narrations.

    Training clips come from videos that no line of a label file names, not even a malformed one (Sec. 5: the labels are
    for evaluation only). Raises `DataError` for a missing file, and for labels of one kind only or of unknown videos.
    """
    raw, files = config.paths.raw, config.ego4d
    verbs, nouns = Taxonomy(raw / files.verb_taxonomy), Taxonomy(raw / files.noun_taxonomy)
    videos = read_videos(raw / files.metadata, report)
    seen, labelled = set[str](), set[str]()
    rows: list[dict[str, Any]] = []
    for split, name in sorted(files.labels.items()):
        labelled |= fragments(raw / name, "the sounding-action labels")
        labels = read_labels(raw / name, report)
        if videos.keys().isdisjoint(labels["video_uid"]):
            lost = f"none of the {len(labels)} rows of {raw / name} is of a video in {raw / files.metadata}"
            raise DataError(f"{lost}; use labels and metadata of the same release of Ego4D")
        if labels["positive"].nunique() < 2:
            one = f"{raw / name} has {'only' if labels['positive'].all() else 'no'} sounding actions"
            raise DataError(f"{one}, but discovery needs both kinds; use such a table as `ego4d.narrations`")
        # some copies have sentences without their tag, Ego4DSounds some about other people
        sentences = [clean(text) or _without_tags(text) for text in labels["clip_text"]]
        tagged = [tag(sentence, verbs, nouns) for sentence in sentences]
        labels["verb"] = groups(labels["tag_verb"], [verb for verb, _ in tagged], verbs)
        labels["noun"] = groups(labels["tag_noun"], [noun for _, noun in tagged], nouns)
        for label, text in zip(labels.itertuples(), sentences, strict=True):
            uid, time = label.video_uid, float(label.narration_time)
            if problem := _problem(uid, time, videos, seen):
                report.drop(name, f"line {label.line}", problem)
                continue
            clip = _clip(config, split, (uid, time, text), (label.verb, label.noun))
            seen.add(clip["clip_id"])
            group = label.action_group or clip["action_group"]
            rows.append({**clip, "action_group": group, "positive": int(label.positive), "votes": label.votes})
    candidates = _candidates(config, videos, labelled, report)
    rng = np.random.default_rng(files.sampling_seed)
    chosen = np.sort(rng.permutation(len(candidates))[: files.train_clips])
    if len(chosen) < len(candidates):
        report.set_aside["training clip not sampled"] = len(candidates) - len(chosen)
    return rows + [_clip(config, "train", candidates[i], tag(candidates[i][-1], verbs, nouns)) for i in chosen]


def _candidates(config: Config, videos: dict[str, Video], labelled: set[str], report: Report) -> list[Narration]:
    """(uid, time, text) of all narrations that may be trained on, sorted: the file's order does not matter."""
    file = config.ego4d.narrations
    total, candidates = 0, []
    for uid, narrations in read_narrations(config.paths.raw / file, report):
        total += len(narrations)
        if problem := _video_problem(uid, videos):
            report.drop(file, uid, problem, clips=len(narrations))
            continue
        if uid in labelled:
            report.set_aside["narration of a video kept for evaluation"] += len(narrations)
            continue
        seen: set[str] = set()
        for row, time, raw_text in sorted(narrations, key=lambda n: (math.isnan(n[1]), n[1], n[2])):
            text = clean(raw_text)
            if text is None and OTHERS.match(raw_text):
                report.set_aside["narration of somebody else"] += 1
            elif text is None:
                report.drop(file, row, "narration of nobody: neither #C nor #O")
            elif problem := _problem(uid, time, videos, seen, text):
                report.drop(file, row, problem)
            else:
                seen.add(_clip_id(uid, time))
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


def _problem(uid: str, time: float, videos: dict[str, Video], seen: set[str], text: str | None = None) -> str | None:
    """Why a narration cannot be a clip, None if it can; `seen` are the clips so far, `text` is not checked if None."""
    if problem := _video_problem(uid, videos):
        return problem
    faults = {
        "narration time is no number": not math.isfinite(time), "narration time is negative": time < 0,
        "narration time beyond the end of the video": time > videos[uid].duration_sec, "empty narration": text == "",
    }  # fmt: skip
    fault = next((fault for fault, holds in faults.items() if holds), None)
    return fault or ("duplicated clip" if _clip_id(uid, time) in seen else None)


def _clip(config: Config, split: str, narration: Narration, tags: tuple[str, str]) -> dict[str, Any]:
    uid, time, text = narration
    return {
        "clip_id": _clip_id(uid, time), "dataset": "ego4d", "split": split, "video_uid": uid, "narration_time": time,
        "start_sec": time - config.clips.before_sec, "end_sec": time + config.clips.after_sec,
        "text": text, "verb": tags[0], "noun": tags[1], "action_group": " ".join(tags) if all(tags) else "",
        "path": (config.ego4d.videos / f"{uid}.mp4").as_posix(),
    }  # fmt: skip
