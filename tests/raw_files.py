"""Small raw files in the publishers' formats whose content is known: numbered pictures, clicks at known times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import av
import h5py
import numpy as np

from mc3.config import Config

SIZE = 64
BITS = 16  # a picture shows its number as 4 x 4 black and white squares


def numbered(number: int, size: int = SIZE) -> np.ndarray:
    bits = ((number >> np.arange(BITS)) & 1).reshape(4, 4, 1).astype(np.uint8)
    return (255 * bits).repeat(size // 4, 0).repeat(size // 4, 1).repeat(3, 2)


def number_of(picture: np.ndarray) -> int:
    side = picture.shape[0] // 4
    squares = picture.reshape(4, side, 4, side, 3).mean((1, 3, 4)).ravel()
    return int(((squares > 127).astype(int) << np.arange(BITS)).sum())


def clicks(seconds: float, times: Sequence[float], rate: int) -> np.ndarray:
    sound = np.zeros(round(seconds * rate), np.float32)
    for time in times:
        at = round(time * rate)
        sound[at : at + rate // 500] = 0.9
    return sound


def write_media(
    path: Path, seconds: float, fps: int = 8, sound: np.ndarray | None = None, rate: int = 16000,
    gop: int = 250, codec: str = "libx264", picture=numbered, **options: str,
) -> Path:  # fmt: skip
    """A video of `picture(i)` for its i-th frame (none if fps is 0) and mono `sound`; `options` are the container's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as file:
        if fps:
            height, width = picture(0).shape[:2]
            video = file.add_stream(codec, rate=fps, width=width, height=height, pix_fmt="yuv420p")
            video.gop_size = gop
        if sound is not None:
            audio = file.add_stream("aac" if fps else "pcm_s16le", rate=rate, layout="mono")
        for i in range(round(seconds * fps)):
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        if fps:
            file.mux(video.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, 0  # without pts the encoder's delay would go unrecorded
            file.mux(audio.encode(frame))
            file.mux(audio.encode())
    return path


VERBS = """label,group
wash,"['wash', 'rinse']"
cut_(chop),"['chop', 'cut']"
pick,"['pick', 'pick up', 'lift', 'turn_over']"
"""
NOUNS = """label,group
plate,"['plate', 'dish']"
knife,"['knife']"
drill,"['drill bit', 'drill']"
hand,"['hand']"
"""
TIMES_HEADER = "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample"
EVENTS_HEADER = f"{TIMES_HEADER},description,class,class_id"
LABELS_HEADER = "narration_time\tvideo_uid\tclip_text\tpositive\ttag_noun\ttag_verb\tvotes\n"


def narration(time: float, text: str = "#C C washes the plate") -> dict:
    return {"timestamp_sec": time, "narration_text": text}


def write_raw(config: Config, seconds: float = 12.0, train: int = 3, media: bool = True) -> Path:
    """`train` training videos (t0, t1, ...), v0 and e0 with labels, s0 without sound, and two EPIC-Sounds videos."""
    raw, files = config.paths.raw, config.ego4d
    uids = [*(f"t{i}" for i in range(train)), "v0", "e0", "s0"]
    for path in (files.metadata, files.narrations):
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
    rates = {uid: None if uid == "s0" else 16000 for uid in uids}
    videos = [{"video_uid": u, "duration_sec": seconds, "audio_base_denominator": r} for u, r in rates.items()]
    (raw / files.metadata).write_text(json.dumps({"videos": videos}))
    texts = "#C C washes the plate", "#C C chops with a knife", "#O A man washes a dish", "#C C picks up the drill bits"
    passes = [narration(0.2 + 2.5 * i, text) for i, text in enumerate(texts)], [narration(1.5, "#C C rinses #unsure")]
    passes = {f"narration_pass_{n}": {"narrations": own} for n, own in enumerate(passes, 1)}
    (raw / files.narrations).write_text(json.dumps({"videos": dict.fromkeys(uids, passes)}))
    (raw / files.verb_taxonomy).write_text(VERBS)
    (raw / files.noun_taxonomy).write_text(NOUNS)
    for split, uid in (("validation", "v0"), ("test", "e0")):
        rows = ((1.0, 1, "1,0,1"), (4.0, 0, "0,0,1"))
        lines = [f"{t}\t{uid}\t#C C washes the dish\t{y}\tplate\twash\t{v}\n" for t, y, v in rows]
        (raw / files.labels[split]).write_text(LABELS_HEADER + "".join(lines))
    recordings = {f"P01_0{n}": name for n, name in enumerate(sorted(config.epic_sounds.annotations.values()))}
    write_hdf5(raw / config.epic_sounds.audio, **dict.fromkeys(recordings, clicks(seconds, [2.0], 24000)))
    for video, name in recordings.items():
        lines = [f"{video}_{i},P01,{video},{stamp(a)},{stamp(b)},{round(a * 24000)},{round(b * 24000)},,t{i},{i}\n"
                 for i, (a, b) in enumerate(((0.1, 0.4), (1.5, 4.0), (2.0, 10.0)))]  # fmt: skip
        (raw / name).write_text("".join([f"{EVENTS_HEADER}\n", *lines]))
    if media:
        for uid in uids:
            sound = None if uid == "s0" else clicks(seconds, np.arange(0.5, seconds), 16000)
            write_media(raw / files.videos / f"{uid}.mp4", seconds, sound=sound)
    return raw


def write_hdf5(path: Path, **videos: np.ndarray) -> None:
    """EPIC-Sounds' file of the sounds of `videos`."""
    with h5py.File(path, "w") as file:
        for name, sound in videos.items():
            file[name] = sound


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def stamp(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds // 60) % 60:02d}:{seconds % 60:06.3f}"
