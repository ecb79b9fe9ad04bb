"""The mini world's EPIC-Sounds half: sound events of 44 classes, an excitation on a material each.

Same tables, same columns and same clock as the real ones: times on whole milliseconds, samples at 24 kHz, one
float32 signal a video. Made with the same sounds as the Ego4D half (`sound`), so that learning may carry over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mc3.config import World
from mc3.world.plan import NOUNS
from mc3.world.sound import RATE, SOURCES, contact, room_tone

BACKGROUND = 13
"""Class of events in which nothing but the room is heard, as in EPIC-Sounds."""

EVENTS_A_VIDEO = 40

# (excitation, material) of each class, most frequent first; class 13 is the background. A source stands alone.
CLASSES: tuple[tuple[str, str], ...] = (
    ("put", "ceramic"),
    ("take", "metal"),
    ("cut", "food"),
    ("hold", "plastic"),
    ("wash", "ceramic"),
    ("stir", "metal"),
    ("close", "wood"),
    ("open", "wood"),
    ("put", "metal"),
    ("tap", ""),
    ("put", "wood"),
    ("wipe", "wood"),
    ("hold", "paper"),
    ("background", ""),
    ("drop", "metal"),
    ("pour", "metal"),
    ("put", "plastic"),
    ("open", "plastic"),
    ("machine", ""),
    ("put", "glass"),
    ("cut", "paper"),
    ("stir", "ceramic"),
    ("shake", "plastic"),
    ("close", "metal"),
    ("touch", "metal"),
    ("wipe", "metal"),
    ("pour", "ceramic"),
    ("speech", ""),
    ("close", "plastic"),
    ("touch", "wood"),
    ("turn", "metal"),
    ("drop", "plastic"),
    ("wash", "metal"),
    ("hit", "metal"),
    ("rub", "food"),
    ("hit", "stone"),
    ("drop", "ceramic"),
    ("shake", "cloth"),
    ("music", ""),
    ("touch", "glass"),
    ("turn", "plastic"),
    ("pour", "glass"),
    ("hit", "wood"),
    ("wipe", "cloth"),
)
NAMES = {
    "put": "set down",
    "take": "pick up",
    "cut": "knife strokes",
    "hold": "rummage",
    "wash": "washing up",
    "stir": "stirring",
    "close": "shutting",
    "open": "opening up",
    "wipe": "wiping",
    "drop": "falling",
    "pour": "pouring",
    "shake": "shaking",
    "touch": "tapping",
    "turn": "ratcheting",
    "hit": "hammer blows",
    "rub": "rubbing",
    "tap": "tap running",
    "machine": "motor",
    "speech": "voices",
    "music": "tunes",
    "background": "background",
}


@dataclass(frozen=True)
class Event:
    """One row of `EPIC_Sounds_*.csv`; times in whole milliseconds."""

    start_ms: int
    stop_ms: int
    class_id: int


@dataclass(frozen=True)
class EpicVideo:
    """A kitchen recording: its events in order and its length in milliseconds."""

    video_id: str
    split: str
    events: tuple[Event, ...]
    length_ms: int
    entropy: tuple[int, ...]


def class_name(class_id: int) -> str:
    """The name of a class, such as "falling: metal"."""
    excitation, material = CLASSES[class_id]
    return f"{NAMES[excitation]}: {material}" if material else NAMES[excitation]


def class_counts(events: int) -> np.ndarray:
    """Events of each class [44]: a long tail with at least two of each where `events` allows.

    Shares fall as (rank + 4)^-1.7 (a choice): their squares sum to .076, as the .077 of the real validation split.
    """
    shares = (np.arange(len(CLASSES)) + 4.0) ** -1.7
    floor = min(2, events // len(CLASSES))
    exact = floor + (events - floor * len(CLASSES)) * shares / shares.sum()
    counts = exact.astype(int)
    counts[np.argsort(counts - exact)[: events - counts.sum()]] += 1
    return counts


def epic_plan(world: World) -> list[EpicVideo]:
    """Plan the recordings of both splits; no participant's video is in two splits."""
    videos: list[EpicVideo] = []
    for part, (split, total) in enumerate(world.epic_events.items()):
        rng = np.random.default_rng(np.random.SeedSequence([world.seed, 3, part]))
        classes = rng.permutation(np.repeat(np.arange(len(CLASSES)), class_counts(total)))
        for number, first in enumerate(range(0, total, EVENTS_A_VIDEO)):
            events, at = [], 500
            for class_id in classes[first : first + EVENTS_A_VIDEO]:
                start = at + int(rng.integers(50, 400))
                stop = start + int(np.clip(rng.lognormal(np.log(800), 0.6), 300, 3000))
                events.append(Event(start, stop, int(class_id)))
                at = stop
            video_id = f"P{number % 20 + 1:02d}_{10 * part + number // 20 + 1:02d}"
            videos.append(EpicVideo(video_id, split, tuple(events), at + 500, (world.seed, 3, part, number)))
    return videos


def epic_audio(video: EpicVideo) -> np.ndarray:
    """A recording's sound: float32 [24 * length_ms], in steps of a 16-bit recorder."""
    rng = np.random.default_rng(np.random.SeedSequence(video.entropy))
    seconds = video.length_ms / 1000
    out = room_tone(rng, seconds, rng.uniform(-60, -46))
    for event in video.events:
        excitation, material = CLASSES[event.class_id]
        duration = (event.stop_ms - event.start_ms) / 1000
        level = 10 ** (rng.uniform(-36, -20) / 20)
        if excitation in SOURCES:
            sound = SOURCES[excitation](rng, duration)
        elif material:
            fitting = [noun.label for noun in NOUNS if noun.material == material]
            name = fitting[rng.integers(len(fitting))]
            sound = contact(rng, excitation, name, material, duration, rng.uniform(2.0, 3.5))
        else:
            continue
        at = event.start_ms * RATE // 1000
        out[at : at + len(sound)] += level * sound[: len(out) - at]
    return (np.round(np.tanh(out) * 32767) / 32768).astype(np.float32)


def _clock(ms: int) -> str:
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"


def epic_rows(videos: list[EpicVideo], split: str) -> list[dict[str, str | int]]:
    """The rows of one split's CSV, with the real columns."""
    return [
        {
            "annotation_id": f"{video.video_id}_{number}",
            "participant_id": video.video_id.split("_")[0],
            "video_id": video.video_id,
            "start_timestamp": _clock(event.start_ms),
            "stop_timestamp": _clock(event.stop_ms),
            "start_sample": event.start_ms * RATE // 1000,
            "stop_sample": event.stop_ms * RATE // 1000,
            "description": NAMES[CLASSES[event.class_id][0]],
            "class": class_name(event.class_id),
            "class_id": event.class_id,
        }
        for video in videos
        if video.split == split
        for number, event in enumerate(video.events)
    ]
