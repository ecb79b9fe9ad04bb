"""Clips cut from raw videos: MP4 files with sound, and WAV.

Pictures keep the source's size and rate and are cut at its pictures' borders, so they stay in step with the sound at
any rate. Portrait pictures are cut to their central square, as `media.upright` does everywhere.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import av
import numpy as np
from scipy.io import wavfile

from mc3.data import media
from mc3.data.audio import resample
from mc3.data.encode import SOUND_RATES, encode
from mc3.errors import ConfigError, DataError

CRF = 18  # visually lossless: models are to see the video's artefacts rather than ours
FALLBACK_FPS = 30.0  # of a video whose header says none
FALLBACK_RATE = 48000  # of the sound in an MP4 where AAC has no such rate


def mp4_of(path: Path, start: float, end: float, crf: int = CRF) -> bytes:
    """One window of a video in seconds as an MP4 file, with its sound if any; `DataError` without pictures.

    `crf` is x264's quality, better when lower.
    """
    if not start < end:
        raise ConfigError(f"a window from {start} to {end} s has no length; give its start and its end")
    ((mp4, _),) = cuts(Path(path), [(start, end)], None, crf)
    if not mp4:
        raise DataError(f"{path} has no pictures; give a video")
    return mp4


def cuts(
    path: Path, windows: Sequence[tuple[float, float]], rate: int | None, crf: int = CRF
) -> Iterator[tuple[bytes, bytes]]:
    """MP4 and WAV of windows of about one length, ascending by start; empty without pictures or sound."""
    facts = media.probe(path)
    rate, fps = rate or facts.audio_rate, facts.fps or FALLBACK_FPS
    sounds: Iterator[np.ndarray | None] = repeat(None, len(windows))
    if facts.audio_rate:
        sounds = media.waveforms_of(path, windows, rate)
    if not facts.width:
        yield from ((b"", wav(sound, rate)) for sound in sounds if sound is not None)
        return
    with media.open_file(path) as file:
        context = file.streams.video[0].codec_context
        short, long = sorted((context.width, context.height))
    firsts = [math.floor(start * fps + 1e-6) for start, _ in windows]  # pictures on screen as the windows begin
    count = 1 + math.ceil(max(end - start for start, end in windows) * fps - 1e-6)
    last = round(facts.duration_sec * fps) - 1  # no later picture is asked for: a reader takes that for a cut-off file
    read = [min(first, last + 1 - count) for first in firsts]
    pictures = media.clips_of(path, [(at / fps, (at + count) / fps) for at in read], count, short, 0, long)
    for (start, end), first, at, clip, sound in zip(windows, firsts, read, pictures, sounds, strict=True):
        assert clip.frames is not None
        part = start - first / fps, end - first / fps
        numbers = np.arange(math.ceil(part[1] * fps - 1e-6)) + first - at
        shown = clip.frames[numbers.clip(max=count - 1)]  # the last picture stays beyond the end
        yield _mp4(shown, fps, part, sound, rate, crf), b"" if sound is None else wav(sound, rate)


def _mp4(
    frames: np.ndarray, fps: float, part: tuple[float, float], sound: np.ndarray | None, rate: int, crf: int
) -> bytes:
    if sound is not None and rate not in SOUND_RATES:
        sound, rate = resample(sound, rate, FALLBACK_RATE), FALLBACK_RATE
    _, height, width, _ = frames.shape
    even = np.ascontiguousarray(frames[:, : height // 2 * 2, : width // 2 * 2])  # as H.264's colours need it
    buffer = io.BytesIO()
    encode(buffer, even, fps, sound, rate, part=part, crf=crf)
    return buffer.getvalue()


def with_sound(pictures: Path, sound: Iterable[np.ndarray], rate: int, out: Path, ending: str) -> None:
    """Write `out`: the pictures of a file, not encoded again, with mono `sound` (parts, float32 [S], at `rate`) as AAC.

    `ending` (".mp4", ".mkv") chooses the container; `DataError` if it cannot hold these pictures.
    """
    forms = {".mp4": "mp4", ".mov": "mov", ".m4v": "mp4", ".mkv": "matroska"}
    try:
        with (
            media.open_file(pictures) as source,
            av.open(str(out), "w", format=forms[ending]) as target,
        ):
            video: Any = source.streams.video[0]
            copy, audio = target.add_stream_from_template(video), target.add_stream("aac", rate=rate, layout="mono")
            zero = float((video.start_time or 0) * video.time_base)
            written, parts = 0, iter(sound)
            for packet in source.demux(video):
                if packet.dts is None:
                    continue
                time = float(packet.dts * packet.time_base) - zero
                while written <= time * rate and (part := next(parts, None)) is not None:  # in step with the pictures
                    written = _sound(target, audio, part, rate, written)
                packet.stream = copy
                if packet.pts is not None:
                    packet.pts -= video.start_time or 0
                packet.dts -= video.start_time or 0
                target.mux(packet)
            for part in parts:
                written = _sound(target, audio, part, rate, written)
            target.mux(audio.encode(None))
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        held = f"{ending} cannot hold the pictures of {pictures} ({reason})"
        raise DataError(f"{held}; give a name that ends in .mkv") from error


def _sound(target: Any, audio: Any, part: np.ndarray, rate: int, written: int) -> int:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, written
    target.mux(audio.encode(frame))
    return written + len(part)


def wav(sound: np.ndarray, rate: int) -> bytes:
    """Mono sound in [-1, 1] as a WAV file of 16 bits."""
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, np.clip(np.round(sound * 32768.0), -32768, 32767).astype("<i2"))
    return buffer.getvalue()
