"""Write the mini world's files: Ego4D's metadata, narrations, taxonomies, labels and videos, and EPIC-Sounds.

`truth.csv` has facts that only a generated world has, such as Figure 2's regions; only evaluation may read it.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from mc3.config import Config, Ego4DFiles, EpicSoundsFiles, World
from mc3.data.encode import encode
from mc3.errors import ConfigError
from mc3.files import replace_folder
from mc3.pools import pool
from mc3.progress import bar
from mc3.world import epic
from mc3.world.picture import frames
from mc3.world.plan import VideoPlan, plan_videos
from mc3.world.sound import RATE, soundtrack
from mc3.world.vocabulary import HAND, NOUNS, VERBS

FACTS = ("region", "on_screen", "off_screen", "sounding", "visible")  # attributes of `Action`


def write(config: Config) -> None:
    """Generate all of `paths.raw` from `config.world`; an older world is replaced once everything is written.

    Raises `ConfigError` if the profile has no world, `DataError` if `paths.raw` holds files that are not its own.
    """
    world = config.world
    if world is None:
        raise ConfigError(f"profile {config.profile} has no `world` to generate; `mc3 profile mini` has one")
    with replace_folder(config.paths.raw, "mc3 world", "paths.raw") as folder, pool(world.workers) as workers:
        mapped = partial(_mapped, workers.map if world.workers > 1 else map)
        for path in (config.ego4d.metadata, config.ego4d.narrations, config.ego4d.videos / "any"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        videos = plan_videos(world)
        _write_annotations(folder, videos, config.ego4d, world)
        _write_table(folder / "truth.csv", truth(videos))
        _write_epic_sounds(folder, config.epic_sounds, world, mapped)
        list(mapped(partial(_render, world=world, folder=folder / config.ego4d.videos), videos, "videos"))


def _mapped(map_: Callable[..., Iterator[Any]], function: Callable, items: list[Any], text: str) -> Iterator[Any]:
    """Yields `map_(function, items)`, with `text` at a progress bar."""
    with bar(len(items), 0, True) as show:
        for done, result in enumerate(map_(function, items), 1):
            yield result
            show(done, text)


def _render(video: VideoPlan, world: World, folder: Path) -> None:
    sound = soundtrack(video, world.seconds, world.clip_every_sec) if video.has_audio else None
    encode(folder / f"{video.uid}.mp4", frames(video, world), world.fps, sound, RATE)


def _write_table(path: Path, rows: Any, separator: str = ",", columns: list[str] | None = None) -> None:
    """Write `rows` (dictionaries by column); `columns` are needed where there may be none."""
    pd.DataFrame(rows, columns=columns).to_csv(path, sep=separator, index=False, lineterminator="\n")


def _metadata(videos: list[VideoPlan], world: World) -> dict[str, Any]:
    """`ego4d.json`; the `audio_*` entries of a video without audio are null."""
    stream = {
        "fps": float(world.fps), "num_frames": round(world.seconds * world.fps), "video_codec": "h264",
        "audio_codec": "aac", "display_resolution_width": world.size, "display_resolution_height": world.size,
        "video_duration_sec": world.seconds, "audio_start_sec": 0.0, "audio_duration_sec": world.seconds,
        "audio_duration_pts": int(world.seconds * RATE), "audio_base_numerator": 1, "audio_base_denominator": RATE,
    }  # fmt: skip
    silent = stream | dict.fromkeys(key for key in stream if key.startswith("audio_"))
    entries = [
        {"video_uid": video.uid, "duration_sec": world.seconds, "scenarios": [video.scene.name],
         "video_metadata": stream if video.has_audio else silent}
        for video in videos
    ]  # fmt: skip
    return {"version": "mini", "description": "Generated videos in the layout of Ego4D", "videos": entries}


def narrations(videos: list[VideoPlan], world: World) -> dict[str, Any]:
    """The content of `narration.json`."""
    out: dict[str, Any] = {}
    for video in videos:
        passes: dict[str, Any] = {"status": "complete"}
        for number, narration in enumerate(video.narrations):
            lines = passes.setdefault(f"narration_pass_{narration.annotation}", {"narrations": [], "summaries": []})
            lines["narrations"].append({
                "timestamp_sec": narration.time, "timestamp_frame": int(narration.time * world.fps),
                "narration_text": narration.text, "annotation_uid": f"{video.uid}_{number}",
            })  # fmt: skip
        out[video.uid] = passes
    return {"version": "mini", "videos": out}


def _labels(video: VideoPlan) -> Iterator[dict[str, Any]]:
    for narration in video.narrations:
        if narration.votes is not None and narration.action is not None:
            action = video.actions[narration.action]
            # tags are read off the sentence, so there is none of an object that the narrator did not know
            noun = [NOUNS.index(action.noun)] if "#unsure" not in narration.text else []
            yield {
                "narration_time": narration.time, "video_uid": video.uid, "clip_text": narration.text,
                "positive": int(sum(narration.votes) >= 2), "tag_noun": noun, "tag_verb": [VERBS.index(action.verb)],
                "votes": ",".join(map(str, narration.votes)),
            }  # fmt: skip


def _write_annotations(raw: Path, videos: list[VideoPlan], files: Ego4DFiles, world: World) -> None:
    for name, content in ((files.metadata, _metadata(videos, world)), (files.narrations, narrations(videos, world))):
        (raw / name).write_text(json.dumps(content, indent=1) + "\n")
    for path, groups in ((files.verb_taxonomy, VERBS), (files.noun_taxonomy, (*NOUNS, HAND))):
        _write_table(raw / path, [{"label": group.label, "group": str(list(group.words))} for group in groups])
    columns = ["narration_time", "video_uid", "clip_text", "positive", "tag_noun", "tag_verb", "votes"]
    for split, path in files.labels.items():
        labels = [row for video in videos if video.split == split for row in _labels(video)]
        _write_table(raw / path, labels, "\t", columns)


def truth(videos: list[VideoPlan]) -> list[dict[str, Any]]:
    """The rows of `truth.csv`: the facts of every narrated clip. Bad narrations have none."""
    return [
        {
            "video_uid": video.uid, "narration_time": narration.time, "annotation_uid": f"{video.uid}_{number}",
            "split": video.split, "actor": action.actor, "verb": action.verb.label, "noun": action.noun.label,
            **{fact: getattr(action, fact) for fact in FACTS},
        }
        for video in videos
        for number, narration in enumerate(video.narrations)
        if narration.action is not None
        for action in [video.actions[narration.action]]
    ]  # fmt: skip


def _write_epic_sounds(raw: Path, files: EpicSoundsFiles, world: World, mapped: Callable[..., Iterator[Any]]) -> None:
    recordings = epic.plan_recordings(world)
    for split, path in files.annotations.items():
        _write_table(raw / path, epic.annotation_rows(recordings, split))
    # In memory until it is closed: a full disk would crash HDF5 at any write before.
    memory: Any = {"driver": "core", "block_size": 1 << 24}
    with h5py.File(raw / files.audio, "w", libver=("v110", "v110"), track_order=False, **memory) as file:
        signals = mapped(epic.render_recording, recordings, "EPIC-Sounds audio")
        storage = {"chunks": (65536,), "compression": "lzf", "shuffle": True, "track_times": False}
        for recording, signal in zip(recordings, signals, strict=True):
            file.create_dataset(recording.video_id, data=signal, **storage)
