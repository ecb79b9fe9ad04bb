"""The mini world: a generated data set in the real ones' own files, for a first run without downloads.

`write` makes all of `paths.raw`: Ego4D's metadata, narrations, taxonomies and videos (H.264 + AAC), the
sounding-action labels of three annotators, EPIC-Sounds' tables and audio, and `truth.csv`, which says what
only a generated world can know (Figure 2's region of every narration) and which only evaluation may read.
What happens is decided in `plan` and `epic`; `motion`, `picture` and `sound` render it.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import av
import h5py
import numpy as np
from rich.console import Console
from rich.progress import track

from mc3.config import Config, Ego4DFiles, EpicSoundsFiles, World
from mc3.errors import ConfigError
from mc3.files import replace_folder
from mc3.world import plan as plans
from mc3.world.epic import epic_audio, epic_plan, epic_rows
from mc3.world.picture import frames
from mc3.world.plan import HAND, NOUNS, VERBS, Noun, Verb, VideoPlan
from mc3.world.sound import RATE, soundtrack

Job = TypeVar("Job")
Result = TypeVar("Result")

GOP_SEC = 3
"""Seconds from one key frame to the next, long enough that a reader has to seek properly."""

AUDIO_BIT_RATE = 64_000

TRUTH = "truth.csv"
"""What only a generated world knows."""


def encode(path: Path, pictures: np.ndarray, fps: int, sound: np.ndarray | None) -> None:
    """Write `pictures` (uint8 [T, H, W, 3]) and `sound` (float32 [S] at 24 kHz, or none) as H.264 + AAC.

    One thread and no version strings: the same input gives the same bytes.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "23", "threads": "1"})
        video.height, video.width, video.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        video.codec_context.gop_size = GOP_SEC * fps
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=RATE, layout="mono", options={"aac_coder": "fast"})
            audio.bit_rate = AUDIO_BIT_RATE
            audio.codec_context.flags |= av.codec.context.Flags.bitexact
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            for start in range(0, len(sound), RATE):
                frame = av.AudioFrame.from_ndarray(sound[None, start : start + RATE], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def _render(video: VideoPlan, world: World, folder: Path) -> None:
    sound = soundtrack(video, world.seconds, world.clip_every_sec) if video.has_audio else None
    encode(folder / f"{video.uid}.mp4", frames(video, world), world.fps, sound)


def _shown(results: Iterable[Result], total: int, what: str) -> Iterator[Result]:
    """Pass `results` on, with a bar on a terminal and a line a tenth elsewhere."""
    console = Console()
    if console.is_terminal:
        yield from track(results, what, total=total, console=console)
        return
    for done, result in enumerate(results, 1):
        yield result
        if done == total or done % max(1, total // 10) == 0:
            print(f"{what}: {done}/{total}", flush=True)


class Workers:
    """`count` processes (or this one, if 1) that map jobs to results in order, while it is shown how far they are."""

    def __init__(self, count: int) -> None:
        self.pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(self, job: Callable[[Job], Result], jobs: list[Job], what: str) -> Iterator[Result]:
        """Results of `job`, in the order of `jobs`."""
        results = map(job, jobs) if self.pool is None else self.pool.map(job, jobs)
        return _shown(results, len(jobs), what)


def _write_table(path: Path, columns: list[str], rows: Iterable[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _metadata(videos: list[VideoPlan], world: World) -> dict[str, Any]:
    """`ego4d.json`: no `audio_*` numbers for a video without audio."""
    entries = []
    for video in videos:
        samples = int(world.seconds * RATE) if video.has_audio else None
        stream = {
            "fps": float(world.fps),
            "num_frames": round(world.seconds * world.fps),
            "video_codec": "h264",
            "audio_codec": "aac" if video.has_audio else None,
            "display_resolution_width": world.size,
            "display_resolution_height": world.size,
            "video_duration_sec": world.seconds,
            "audio_start_sec": 0.0 if video.has_audio else None,
            "audio_duration_sec": world.seconds if video.has_audio else None,
            "audio_duration_pts": samples,
            "audio_base_numerator": 1 if video.has_audio else None,
            "audio_base_denominator": RATE if video.has_audio else None,
        }
        entries.append(
            {
                "video_uid": video.uid,
                "duration_sec": world.seconds,
                "scenarios": [video.scene.name],
                "video_metadata": stream,
            }
        )
    return {"version": "mini", "description": "Generated videos in the layout of Ego4D", "videos": entries}


def _annotation_uid(video: VideoPlan, number: int) -> str:
    return f"{video.uid}_{number}"


def _narrations(videos: list[VideoPlan], world: World) -> dict[str, Any]:
    """`narration.json`."""
    out: dict[str, Any] = {}
    for video in videos:
        passes: dict[str, Any] = {"status": "complete"}
        for number, narration in enumerate(video.narrations):
            lines = passes.setdefault(f"narration_pass_{narration.annotation}", {"narrations": [], "summaries": []})
            lines["narrations"].append(
                {
                    "timestamp_sec": narration.time,
                    "timestamp_frame": int(narration.time * world.fps),
                    "narration_text": narration.text,
                    "annotation_uid": _annotation_uid(video, number),
                }
            )
        out[video.uid] = passes
    return {"version": "mini", "videos": out}


def _write_annotations(raw: Path, videos: list[VideoPlan], files: Ego4DFiles, world: World) -> None:
    for name, content in ((files.metadata, _metadata(videos, world)), (files.narrations, _narrations(videos, world))):
        (raw / name).write_text(json.dumps(content, indent=1) + "\n")
    groups: tuple[tuple[Path, tuple[Verb, ...] | tuple[Noun, ...]], ...]
    groups = ((files.verb_taxonomy, VERBS), (files.noun_taxonomy, (*NOUNS, HAND)))
    for path, table in groups:
        rows = [{"label": group.label, "group": str(list(group.words))} for group in table]
        _write_table(raw / path, ["label", "group"], rows)
    columns = ["narration_time", "video_uid", "clip_text", "positive", "tag_noun", "tag_verb", "votes"]
    for split, path in files.labels.items():
        labels: list[dict[str, Any]] = [
            {
                "narration_time": narration.time,
                "video_uid": video.uid,
                "clip_text": narration.text,
                "positive": int(sum(narration.votes) >= 2),
                # tags are read off the sentence: of an object that the narrator did not know there is none
                "tag_noun": [NOUNS.index(video.actions[narration.action].noun)] * ("#unsure" not in narration.text),
                "tag_verb": [VERBS.index(video.actions[narration.action].verb)],
                "votes": ",".join(map(str, narration.votes)),
            }
            for video in videos
            if video.split == split
            for narration in video.narrations
            if narration.votes is not None and narration.action is not None
        ]
        _write_table(raw / path, columns, labels, delimiter="\t")


def truth(videos: list[VideoPlan]) -> list[dict[str, Any]]:
    """The rows of `truth.csv`: what was in every narrated clip. Bad narrations have none."""
    return [
        {
            "video_uid": video.uid,
            "narration_time": narration.time,
            "annotation_uid": _annotation_uid(video, number),
            "split": video.split,
            "actor": action.actor,
            "verb": action.verb.label,
            "noun": action.noun.label,
            "region": action.region,
            "on_screen": action.on_screen,
            "off_screen": action.off_screen,
            "sounding": action.sounding,
            "visible": action.visible,
        }
        for video in videos
        for number, narration in enumerate(video.narrations)
        if narration.action is not None
        for action in [video.actions[narration.action]]
    ]


def _write_epic_sounds(raw: Path, files: EpicSoundsFiles, world: World, workers: Workers) -> None:
    videos = epic_plan(world)
    for split, path in files.annotations.items():
        rows = epic_rows(videos, split)
        _write_table(raw / path, list(rows[0]), rows)
    with h5py.File(raw / files.audio, "w", libver=("v110", "v110"), track_order=False) as file:
        signals = workers.map(epic_audio, videos, "EPIC-Sounds audio")
        for video, signal in zip(videos, signals, strict=True):
            file.create_dataset(
                video.video_id, data=signal, chunks=(65536,), compression="lzf", shuffle=True, track_times=False
            )


def write(config: Config) -> None:
    """Make the whole of `paths.raw` from `config.world`, replacing an older world only when all is written.

    Raises `ConfigError` if the profile has no world, `DataError` if `paths.raw` holds files that are not its own.
    """
    world = config.world
    if world is None:
        raise ConfigError(f"profile {config.profile} has no `world` to generate; `mc3 profile mini` has one")
    with replace_folder(config.paths.raw, "mc3 world") as new:
        for path in (config.ego4d.metadata, config.ego4d.narrations, config.ego4d.videos / "any"):
            (new / path).parent.mkdir(parents=True, exist_ok=True)
        videos = plans.plan(world)
        _write_annotations(new, videos, config.ego4d, world)
        rows = truth(videos)
        _write_table(new / TRUTH, list(rows[0]), rows)
        render = partial(_render, world=world, folder=new / config.ego4d.videos)
        with Workers(world.workers) as workers:
            _write_epic_sounds(new, config.epic_sounds, world, workers)
            for _ in workers.map(render, videos, "videos"):
                pass
