"""Does the narrated action sound? EPIC-KITCHENS-100 narrations, labelled by EPIC-Sounds events, and scores for them.

Table 2's question on data that needs no licence form. A narration is positive if an event whose class its verb can
cause (data/epic/verb_sounds.csv, written by hand from the class names) has a temporal IoU of at least `IOU` with it.
Kitchens are rarely quiet, so events overlap by chance: every share is compared with that of narrations shifted in time
within their video, every score with audio-free baselines. The verb predicts most of the label; `within_verb` compares
narrations of one verb only, and shows what sound adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mc3.config import Config
from mc3.data import epic_sounds, media
from mc3.data.annotations import Report
from mc3.data.audio import fbank
from mc3.errors import DataError
from mc3.extra import baselines, plots
from mc3.extra import epic_kitchens as epic
from mc3.files import write_atomic
from mc3.paper import provenance
from mc3.paper.plots import save

if TYPE_CHECKING:
    from mc3.model import MC3

IOU, SHIFTS = 0.1, 8
RATE = 16000

Segments = NDArray[np.float64]  # starts and stops in seconds, [N, 2]


class Benchmark(NamedTuple):
    """Narrations and events of the same videos; `segments` [1 + SHIFTS, N, 2] as narrated and as shifted."""

    narrations: pd.DataFrame
    segments: Segments
    events: pd.DataFrame
    compatible: NDArray[np.bool_]

    def best_iou(self, compatible: bool) -> NDArray[np.float64]:
        """Each segment's highest IoU with an event, or with one that its verb can cause: [1 + SHIFTS, N]."""
        found = np.zeros(self.segments.shape[:2])
        for rows, events, classes in self.by_video():
            fits = self.compatible[self.narrations["verb_class"].to_numpy()[rows]][:, classes] if compatible else True
            for own, segments in zip(found, self.segments, strict=True):
                own[rows] = np.where(fits, iou(segments[rows], events), 0).max(axis=1)
        return found

    def by_video(self) -> Iterator[tuple[NDArray[np.intp], Segments, NDArray[np.int64]]]:
        """For each video: the rows of its narrations, its events as segments, and their classes."""
        events = dict(iter(self.events.groupby("video_id")))
        for video, rows in self.narrations.groupby("video_id").indices.items():
            own = events[video]
            yield rows, own[["start", "stop"]].to_numpy(np.float64), own["class_id"].to_numpy(np.int64)


def overlap(segments: Segments, events: Segments) -> NDArray[np.float64]:
    """Seconds that every segment [N, 2] shares with every event [M, 2]: [N, M]."""
    stop, start = np.minimum(segments[:, None, 1], events[:, 1]), np.maximum(segments[:, None, 0], events[:, 0])
    return np.maximum(stop - start, 0)


def iou(segments: Segments, events: Segments) -> NDArray[np.float64]:
    """Temporal intersection over union of every segment [N, 2] with every event [M, 2]: [N, M]."""
    shared = overlap(segments, events)
    return shared / ((segments[:, 1] - segments[:, 0])[:, None] + (events[:, 1] - events[:, 0]) - shared)


def shift(segments: Segments, ends: ArrayLike, share: float) -> Segments:
    """Segments [N, 2] moved cyclically by `share` of their videos' lengths `ends` [N] (s); durations stay."""
    ends, length = np.asarray(ends, np.float64), segments[:, 1] - segments[:, 0]
    start = (segments[:, 0] + share * ends) % np.maximum(ends - length, 1e-9)
    return np.stack([start, start + length], axis=1)


def benchmark(
    narrations: pd.DataFrame, events: pd.DataFrame, compatible: NDArray[np.bool_], report: Report,
    durations: pd.Series | None = None,
) -> Benchmark:  # fmt: skip
    """The videos that have both narrations and events, as read by `epic_kitchens` and `epic_sounds`.

    `report` counts the narrations of other videos, which are set aside. Without `durations` (s by video) a video ends
    with its last narration or event. Raises `DataError` if there is no common video, or the events have no classes.
    """
    if events["class_id"].isna().any():
        raise DataError("the events have no classes; give EPIC_Sounds_validation.csv or EPIC_Sounds_train.csv")
    common = narrations["video_id"].isin(set(events["video_id"]))
    if not common.any():
        raise DataError("narrations and events have no video in common; give files of one split")
    report.set_aside["narrations of videos without EPIC-Sounds events"] += int((~common).sum())
    kept = narrations[common].reset_index(drop=True)
    ends = kept["video_id"].map(pd.concat([kept, events]).groupby("video_id")["stop"].max())
    if durations is not None:
        ends = np.maximum(ends, kept["video_id"].map(durations))
    segments = kept[["start", "stop"]].to_numpy(np.float64)
    shifted = [shift(segments, ends, share) for share in np.arange(1, SHIFTS + 1) / (SHIFTS + 1)]
    return Benchmark(kept, np.stack([segments, *shifted]), events.reset_index(drop=True), compatible)


def possible_labels(bench: Benchmark, threshold: float) -> pd.DataFrame:
    """Shares of positives under possible definitions of the label: label, real, shifted (mean over the shifts)."""
    covered, starts = np.zeros((2, *bench.segments.shape[:2]))
    for rows, events, _ in bench.by_video():
        merged = _union(events)
        for k, own in enumerate(bench.segments[:, rows]):
            covered[k, rows] = overlap(own, merged).sum(axis=1) / (own[:, 1] - own[:, 0])
            starts[k, rows] = ((events[:, 0] >= own[:, None, 0]) & (events[:, 0] <= own[:, None, 1])).any(axis=1)
    of_all, of_compatible = bench.best_iou(compatible=False), bench.best_iou(compatible=True)
    labels = {
        "half of the segment covered by events": covered >= 0.5,
        "IoU >= 0.25 with an event": of_all >= 0.25,
        "IoU >= 0.5 with an event": of_all >= 0.5,
        "an event starts in the segment": starts > 0,
        f"IoU >= {threshold:g} with a compatible event": of_compatible >= threshold,
        "IoU >= 0.25 with a compatible event": of_compatible >= 0.25,
    }
    shares = {name: label.mean(axis=1) for name, label in labels.items()}
    return pd.DataFrame([{"label": n, "real": s[0], "shifted": s[1:].mean()} for n, s in shares.items()])


def by_verb(bench: Benchmark, labels: NDArray[np.bool_]) -> pd.DataFrame:
    """Most frequent first: verb, narrations, sounding and shifted (shares), lift (their ratio; NaN over 0)."""
    table = pd.DataFrame({"verb": bench.narrations["verb"], "sounding": labels[0], "shifted": labels[1:].mean(axis=0)})
    verbs = table.groupby("verb")
    found = verbs.mean().assign(narrations=verbs.size())[["narrations", "sounding", "shifted"]]
    found["lift"] = found["sounding"] / found["shifted"].where(found["shifted"] > 0)
    return found.reset_index().sort_values(["narrations", "verb"], ascending=[False, True], ignore_index=True)


def model_scores(
    config: Config, checkpoint: Path, narrations: pd.DataFrame, audio: Path, videos: Path | None, report: Report
) -> dict[str, NDArray[np.float64]]:
    """Cosines of a checkpoint's embeddings for each narration: "audio-text" and, with `videos`, "audio-video": [N].

    The clip is [t - clips.before_sec, t + clips.after_sec] with t the segment's start, silent and still beyond the
    video's ends; the narration is embedded unchanged ("take plate"). `audio` is EPIC-Sounds' HDF5 file, or a folder
    with {video_id}.wav, .mp4 or another container at any depth, `videos` a folder of videos with such names. Scores of
    videos that cannot be read are NaN, and `report` gets them. `DataError` without a checkpoint or any readable video.
    """
    import torch

    from mc3.model import MC3

    model = MC3.load(checkpoint, device="cuda" if torch.cuda.is_available() else "cpu")
    audio_files, video_files = _files(audio), _files(videos) if videos else {}
    frames, size = model.config.video.frames, model.config.video.image_size
    scores = {pair: np.full(len(narrations), np.nan) for pair in ("audio-text", *(["audio-video"] if videos else []))}
    fault: DataError | None = None
    for video, rows in narrations.groupby("video_id").indices.items():
        own = narrations.iloc[rows]
        windows = [(float(t) - config.clips.before_sec, float(t) + config.clips.after_sec) for t in own["start"]]
        try:
            for folder, files in ((audio, audio_files), (videos, video_files)):
                if folder is not None and video not in files and not folder.is_file():
                    raise DataError(f"{folder} has no media file {video}.*; fetch it to score its narrations")
            sounds = epic_sounds.clips_of(audio_files.get(video, audio), video, windows, RATE)
            pictures = media.clips_of(video_files[video], windows, frames, size, rate=0) if videos else None
            for pair, values in _cosines(model, own["text"].tolist(), sounds, pictures).items():
                scores[pair][rows] = values
        except DataError as error:
            fault = error
            report.drop(audio, f"video {video}", "sound or pictures cannot be read", clips=len(rows))
            print(f"{video}: {error}")
    if fault is not None and np.isnan(scores["audio-text"]).all():
        raise DataError(f"no narration could be scored, the last because: {fault}")
    return scores


def run(
    config: Config, events: Path, narrations: Path, out: Path, *, verbs: Path | None, nouns: Path | None,
    info: Path | None, table: Path, threshold: float, checkpoint: Path | None, audio: Path | None, videos: Path | None,
) -> None:  # fmt: skip
    """`mc3 narrated`: label, score, write `out`, and beside it _verbs.csv, _labels.csv, .png, .svg and .origin.json."""
    if (checkpoint is None) != (audio is None) or (videos is not None and audio is None):
        raise DataError("a model's scores need both --checkpoint and --audio, with --videos as an addition")
    if not 0 < threshold <= 1:
        raise DataError(f"an IoU of {threshold:g} is not a threshold; give one above 0 and at most 1")
    report = Report(Path())
    epic.check_sounds(events)
    keys, compatible = epic.read_verb_sounds(table, epic.read_classes(verbs) if verbs else None)
    durations = epic.read_durations(info) if info else None
    known = epic.read_narrations(narrations, report, keys, epic.read_classes(nouns) if nouns else None, durations)
    bench = benchmark(known, epic_sounds.read_events(events, report), compatible, report, durations)
    cosines: dict[str, NDArray[np.float64]] = {}
    if checkpoint and audio:
        cosines = model_scores(config, checkpoint, bench.narrations, audio, videos, report)
        scored = np.isfinite(list(cosines.values())).all(axis=0)
        cosines = {name: values[scored] for name, values in cosines.items()}
        own = bench.narrations[scored].reset_index(drop=True)
        bench = bench._replace(narrations=own, segments=bench.segments[:, scored])
    labels = bench.best_iou(compatible=True) >= threshold
    fold = baselines.folds(bench.narrations["video_id"])
    scores = baselines.all_scores(bench.narrations, labels[0], fold, cosines)
    result = baselines.score_table(scores, labels, bench.narrations, fold)
    shares, possible = by_verb(bench, labels), possible_labels(bench, threshold)
    stem = out.with_suffix("")
    for file, rows in ((out, result), (f"{stem}_verbs.csv", shares), (f"{stem}_labels.csv", possible)):
        write_atomic(Path(file), rows.to_csv(index=False, float_format="%.4f").encode())
    save(plots.narrated(result, shares), stem)
    inputs = [path for path in (events, narrations, verbs, nouns, info, table, checkpoint) if path]
    facts = provenance.origin(config, inputs) | {
        "narrated": {"iou": threshold, "shifts": SHIFTS, "folds": baselines.FOLDS, "draws": baselines.DRAWS,
                     "media": [path.name for path in (audio, videos) if path]},
        "dropped": [{**entry, "file": Path(entry["file"]).name} for entry in report.dropped],
        "set_aside": dict(report.set_aside),
    }  # fmt: skip
    provenance.write(Path(f"{stem}.origin.json"), facts)
    for reason, count in [*report.by_reason().items(), *report.set_aside.items()]:
        print(f"{count} left out: {reason}")
    print(possible.round(3).to_string(index=False))
    print(result.round(3).to_string(index=False))
    if not cosines:
        print("annotations only: --checkpoint and --audio add a model's scores")


def _cosines(
    model: MC3, texts: list[str], sounds: Iterator[NDArray[np.float32]], pictures: Iterator[media.Clip] | None
) -> dict[str, NDArray[np.float32]]:
    """Cosines of each sound with its text and, if given, its pictures: pair -> [N]."""
    import torch

    from mc3 import windows

    def inputs() -> Iterator[dict[str, Any]]:
        for sound in islice(sounds, len(texts)):
            own = {"audio": torch.from_numpy(fbank(sound, RATE, model.config.audio.mel_bins))}
            if pictures is not None:
                if (frames := next(pictures).frames) is None:
                    raise DataError("one of the video files has no pictures; give a folder of videos")
                own["video"] = torch.from_numpy(frames)
            yield own

    found = windows.embed_inputs(model, inputs(), ("audio",) if pictures is None else ("audio", "video"))
    audio, others = found.pop("audio"), {**found, "text": windows.embed_texts(model, texts)}
    return {f"audio-{m}": (audio * other).sum(axis=1) for m, other in others.items()}


def _files(folder: Path) -> dict[str, Path]:
    """Media files of a folder by name without suffix; none of an HDF5 file. `DataError` if two share a name."""
    found: dict[str, Path] = {}
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in epic_sounds.SUFFIXES):
        if file.stem in found:
            raise DataError(f"{found[file.stem]} and {file} are both of {file.stem}; keep one of them")
        found[file.stem] = file
    return found


def _union(events: Segments) -> Segments:
    """Disjoint stretches that cover what events [M, 2] cover."""
    ordered = events[np.argsort(events[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    first = np.r_[True, ordered[1:, 0] > reach[:-1]]
    return np.stack([ordered[first, 0], reach[np.r_[np.flatnonzero(first)[1:] - 1, len(ordered) - 1]]], axis=1)
