"""The mini world's EPIC-Sounds half: sound events of 44 classes, each an excitation on a material or a source.

Tables, columns and clock are the real ones: times in whole milliseconds, samples at 24 kHz, one float32 signal for
each recording. The sounds are those of the Ego4D half (`sound`), so that training on one can help on the other.
"""

from typing import Any, NamedTuple

import numpy as np

from mc3.config import World
from mc3.world.sound import RATE, SOURCES, contact, mix, room_tone
from mc3.world.vocabulary import NOUNS

EVENTS_PER_RECORDING = 40
NAMES = {
    "put": "set down", "take": "pick up", "cut": "knife strokes", "hold": "rummage", "wash": "washing up",
    "stir": "stirring", "close": "shutting", "open": "opening up", "wipe": "wiping", "drop": "falling",
    "pour": "pouring", "shake": "shaking", "touch": "tapping", "turn": "ratcheting", "hit": "hammer blows",
    "rub": "rubbing", "tap": "tap running", "machine": "motor", "speech": "voices", "music": "tunes",
    "background": "background",
}  # fmt: skip
# "excitation/material" of each class, most frequent first; a source or the background has no material.
TABLE = """
    put/ceramic take/metal cut/food hold/plastic wash/ceramic stir/metal close/wood open/wood put/metal tap
    put/wood wipe/wood hold/paper background drop/metal pour/metal put/plastic open/plastic machine put/glass
    cut/paper stir/ceramic shake/plastic close/metal touch/metal wipe/metal pour/ceramic speech close/plastic
    touch/wood turn/metal drop/plastic wash/metal hit/metal rub/food hit/stone drop/ceramic shake/cloth music
    touch/glass turn/plastic pour/glass hit/wood wipe/cloth
"""
CLASSES = [(excitation, material) for excitation, _, material in (name.partition("/") for name in TABLE.split())]


class Event(NamedTuple):
    """A row of `EPIC_Sounds_*.csv`; times in whole milliseconds."""

    start_ms: int
    stop_ms: int
    class_id: int


class Recording(NamedTuple):
    """A kitchen recording: its events in order and its length. `entropy` seeds its sound."""

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
    """Number of events of each class [44]: a long tail, at least two of each where `events` allows.

    Shares fall as (rank + 4)^-1.7 (a choice): their squares sum to .076; those of the real validation split, to .077.
    """
    shares = (np.arange(len(CLASSES)) + 4.0) ** -1.7
    floor = min(2, events // len(CLASSES))
    exact = floor + (events - floor * len(CLASSES)) * shares / shares.sum()
    counts = exact.astype(int)
    counts[np.argsort(counts - exact)[: events - counts.sum()]] += 1
    return counts


def plan_recordings(world: World) -> list[Recording]:
    """Plan the recordings of both splits; they share none."""
    recordings: list[Recording] = []
    for part, (split, total) in enumerate(world.epic_events.items()):
        rng = np.random.default_rng([world.seed, 3, part])
        classes = rng.permutation(np.repeat(np.arange(len(CLASSES)), class_counts(total)))
        for number, first in enumerate(range(0, total, EVENTS_PER_RECORDING)):
            events, end = [], 500
            for class_id in classes[first : first + EVENTS_PER_RECORDING]:
                start = end + int(rng.integers(50, 400))
                end = start + int(np.clip(rng.lognormal(np.log(800), 0.6), 300, 3000))
                events.append(Event(start, end, int(class_id)))
            video_id = f"P{number % 20 + 1:02d}_{10 * part + number // 20 + 1:02d}"
            recordings.append(Recording(video_id, split, tuple(events), end + 500, (world.seed, 3, part, number)))
    return recordings


def render_recording(recording: Recording) -> np.ndarray:
    """A recording's sound: float32 [24 * length_ms], in steps of a 16-bit recorder."""
    rng = np.random.default_rng(recording.entropy)
    out = room_tone(rng, recording.length_ms / 1000, rng.uniform(-60, -46))
    for event in recording.events:
        excitation, material = CLASSES[event.class_id]
        duration = (event.stop_ms - event.start_ms) / 1000
        level = 10 ** (rng.uniform(-36, -20) / 20)
        if excitation in SOURCES:
            sound = SOURCES[excitation](rng, duration)
        elif material:
            objects = [noun for noun in NOUNS if noun.material == material]
            sound = contact(rng, excitation, objects[rng.integers(len(objects))], duration, rng.uniform(2.0, 3.5))
        else:
            continue
        mix(out, level * sound, event.start_ms * RATE // 1000)
    return (np.round(np.tanh(out) * 32767) / 32768).astype(np.float32)


def _clock(ms: int) -> str:
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"


def annotation_rows(recordings: list[Recording], split: str) -> list[dict[str, Any]]:
    """The rows of one split's CSV, in the columns of the real data set."""
    return [
        {
            "annotation_id": f"{recording.video_id}_{number}",
            "participant_id": recording.video_id.split("_")[0], "video_id": recording.video_id,
            "start_timestamp": _clock(event.start_ms), "stop_timestamp": _clock(event.stop_ms),
            "start_sample": event.start_ms * RATE // 1000, "stop_sample": event.stop_ms * RATE // 1000,
            "description": NAMES[CLASSES[event.class_id][0]],
            "class": class_name(event.class_id), "class_id": event.class_id,
        }
        for recording in recordings
        if recording.split == split
        for number, event in enumerate(recording.events)
    ]  # fmt: skip
