"""Decoding: pictures and sound of a stretch of a file, and the log-mel spectrogram of AST.

All times are seconds from a file's first picture (from its first sample, if it has no
pictures), which is what narration timestamps count. Containers are read with PyAV, sound is
resampled by torchaudio's band-limited sinc filter.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
import torchaudio
from av.video.reformatter import VideoReformatter

from mc3.errors import DataError

JUMPED = {"mov,mp4,m4a,3gp,3g2,mj2", "wav"}  # containers that tell exactly where an instant lies; others are read
# through: MPEG-TS is entered between key frames, Matroska and FLV round the time of sound to milliseconds
SEEK_GAP_SEC = 8.0  # in WAV, which has no index and needs none, shorter gaps are read through
SEEK_MARGIN_SEC = 1.0  # land earlier than wanted: audio codecs need a frame or two to settle
BEFORE_ALL_SEC = 3600.0  # no sound begins so long before the first picture
JITTER_SEC = 0.005  # timestamps of sound that are off by less are rounding, not gaps
TRUNCATED_SEC = 1.0  # a file may end this much before its header says, codecs round
TIMED = {"h264", "hevc"}, {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # codecs and containers: a packet is a picture
# with its time, so that what is shown is known before decoding
HELD_PACKETS = 600  # compressed pictures that are held at most, where key frames are further apart
REORDERED = 64  # a picture is decoded at most so many packets before or after its place on screen (16 in H.264)


class Clip(NamedTuple):
    """A cut: `frames` uint8 [T, size, size, 3], `waveform` float32 [S] mono; None where there is no such stream."""

    frames: np.ndarray | None
    waveform: np.ndarray | None


@dataclass(frozen=True)
class Probe:
    """What a media file holds; sizes and rates are 0 where it has no such stream.

    A duration in seconds counts, like all times, from the first picture, also where sound begins before it.
    """

    duration_sec: float
    width: int
    height: int
    fps: float
    audio_rate: int
    audio_channels: int


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open container; whatever FFmpeg finds wrong in it becomes a `DataError` that names the file."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except FileNotFoundError:
        raise DataError(f"no media file {path}; download it or check `paths.raw`") from None
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error.strerror or error}); fetch it again") from None


def probe(path: Path) -> Probe:
    """Read a file's header. Raises `DataError` if it is absent, no media file, or has neither pictures nor sound."""
    with _opened(path) as container:
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise DataError(f"{path} has neither pictures nor sound; remove it or fetch it again")
        before = 0.0
        if video is not None and video.start_time is not None and container.start_time is not None:
            before = float(video.start_time * video.time_base) - container.start_time / av.time_base
        return Probe(
            duration_sec=max(0.0, (container.duration or 0) / av.time_base - before),
            width=video.codec_context.width if video else 0,
            height=video.codec_context.height if video else 0,
            fps=float(video.average_rate or 0) if video else 0.0,
            audio_rate=audio.codec_context.sample_rate if audio else 0,
            audio_channels=audio.codec_context.channels if audio else 0,
        )


def moments(start: float, end: float, frames: int) -> np.ndarray:
    """The middles of `frames` equal parts of a stretch: float64 [frames], in seconds."""
    return start + (np.arange(frames) + 0.5) * (end - start) / frames


def square(frame: av.VideoFrame, size: int, scaler: VideoReformatter) -> np.ndarray:
    """A decoded picture as uint8 RGB [size, size, 3]: upright, short side to `size`, then the centre.

    `scaler` keeps what it prepared for the last picture; use one for all of a file.
    """
    scale = size / min(frame.width, frame.height)
    width, height = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
    picture = scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    picture = picture[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(picture, k=round(frame.rotation / 90)))


def clips_of(path: Path, windows: Sequence[tuple[float, float]], frames: int, size: int, rate: int) -> Iterator[Clip]:
    """Cut many stretches of one file in one pass over it, decoding as little as shows the same.

    Pictures that are neither shown nor needed to decode one that is are left undecoded, and gaps
    with a key frame in them are jumped, in containers where what comes out stays the same (`JUMPED`).

    Args:
        path: the media file, opened once.
        windows: (start, end) in seconds, ascending by start; they may overlap and overhang the file's ends.
        frames: pictures a clip, those on screen at `moments`; before the first and after the
            last picture of the file, that one. 0 leaves pictures undecoded.
        size: side of the pictures, see `square`.
        rate: samples a second of the waveform, silence where the file has none. 0 leaves sound undecoded.

    Yields:
        One `Clip` a window, in order, with round((end - start) * rate) samples.

    Raises:
        DataError: naming the file, if it is absent, damaged, or ends before its header says.
    """
    if any(b[0] < a[0] for a, b in itertools.pairwise(windows)):
        raise ValueError("windows must ascend by their start")
    with _opened(Path(path)) as container:
        video = next(iter(container.streams.video), None)
        audio = next(iter(container.streams.audio), None)
        first = video or audio
        if first is None:
            raise DataError(f"{path} has neither pictures nor sound; remove it or fetch it again")
        zero = float((first.start_time or 0) * first.time_base)
        wanted = sorted({float(m) for start, end in windows for m in moments(start, end, frames)})
        pictures = _Pictures(path, video, zero, wanted, size) if video and frames else None
        sound = _Sound(path, audio, zero, rate) if audio and rate else None
        streams = [reader.stream for reader in (pictures, sound) if reader]
        if not streams:
            yield from (Clip(None, None) for _ in windows)
            return
        for stream in streams:
            stream.codec_context.thread_count = 1  # the work is spread over processes, a file each
        packets, ended, may_jump = container.demux(streams), False, True

        def move(time: float, jumped: bool) -> Iterator[Any]:
            container.seek(round((time + zero) * av.time_base), backward=True)
            for reader in (pictures, sound):
                if reader:
                    reader.restart(jumped)
            return container.demux(streams)

        for start, end in windows:
            reached = max(reader.reached for reader in (pictures, sound) if reader)
            target = max(0.0, start - SEEK_MARGIN_SEC)
            if may_jump and not ended and target > reached and _jumps(streams[0], zero, reached, target):
                packets = move(target, jumped=True)
            while not ended and not ((not pictures or pictures.covers(end)) and (not sound or sound.covers(end))):
                packet = next(packets, None)
                if packet is None:
                    ended = True
                elif pictures and packet.stream is pictures.stream:
                    pictures.feed(packet)
                    if pictures.lost:
                        packets, may_jump = move(-BEFORE_ALL_SEC, jumped=False), False
                elif sound:
                    sound.feed(packet)
            yield Clip(
                pictures.take(start, moments(start, end, frames), ended) if pictures else None,
                sound.take(start, end, ended) if sound else None,
            )


def read_clip(path: Path, start: float, end: float, frames: int, size: int) -> np.ndarray:
    """Pictures of one stretch, uint8 [frames, size, size, 3]; `clips_of` explains. `DataError` if there are none."""
    clip = next(clips_of(path, [(start, end)], frames, size, rate=0))
    if clip.frames is None:
        raise DataError(f"{path} has no pictures; give a video file")
    return clip.frames


def read_audio(path: Path, start: float, end: float, rate: int) -> np.ndarray:
    """Sound of one stretch, mono float32 [round((end - start) * rate)]; see `clips_of`. `DataError` if it has none."""
    clip = next(clips_of(path, [(start, end)], frames=0, size=0, rate=rate))
    if clip.waveform is None:
        raise DataError(f"{path} has no sound; give a file with an audio stream")
    return clip.waveform


def _jumps(stream: Any, zero: float, reached: float, target: float) -> bool:
    """Whether a jump to `target` lands ahead of what has been read: on a key frame that lies between."""
    if stream.container.format.name not in JUMPED:
        return False
    if not len(stream.index_entries):
        return target + SEEK_MARGIN_SEC - reached > SEEK_GAP_SEC
    at = stream.index_entries.search_timestamp(round((target + zero) / stream.time_base), backward=True)
    return at >= 0 and float(stream.index_entries[at].timestamp * stream.time_base) - zero > reached


def _is_entry(packet: Any) -> bool:
    """Whether decoding of H.264 or HEVC, laid out as in MP4 and Matroska, can begin with a packet.

    Containers also mark H.264's recovery points, from which pictures get right bit by bit ("intra
    refresh"). Decoding begins only at an IDR picture or where all slices are intra: ITU-T H.264, 7.3.1 and 7.3.3.
    """
    codec = packet.stream.codec_context
    if not packet.is_keyframe or codec.name != "h264":
        return bool(packet.is_keyframe)
    data, length, at = memoryview(packet), (codec.extradata[4] & 3) + 1, 0
    while at + length < len(data):
        begin = at + length
        at = begin + int.from_bytes(data[at:begin], "big")
        kind = data[begin] & 31
        if kind == 5:  # IDR
            return True
        if kind == 1:  # another slice begins with first_mb_in_slice and slice_type, as Exp-Golomb codes
            bits = "".join(f"{byte:08b}" for byte in data[begin + 1 : begin + 9])
            _, bits = _exp_golomb(bits)
            slice_type, _ = _exp_golomb(bits)
            if slice_type not in (2, 7):
                return False
    return True


def _exp_golomb(bits: str) -> tuple[int, str]:
    """The number that `bits` begin with, -1 if none, and what follows: ITU-T H.264, 9.1."""
    zeros = bits.find("1")
    return int(bits[zeros : 2 * zeros + 1] or "0", 2) - 1, bits[2 * zeros + 1 :]


class _Pictures:
    """Turns passing video packets into the pictures on screen at the wanted moments.

    Packets are held until the next key frame has come. Their times then say which pictures are
    shown, and what no shown picture depends on is not decoded: all that follows the last shown
    one, and those before it that no other picture refers to.
    """

    def __init__(self, path: Path, stream: Any, zero: float, wanted: list[float], size: int):
        self.path, self.stream, self.zero, self.size = path, stream, zero, size
        self.wanted, self.next = wanted, 0
        self.scaler = VideoReformatter()
        self.found: dict[float, np.ndarray] = {}
        self.last: av.VideoFrame | None = None
        self.position, self.reached = 0.0, 0.0  # times of the last picture decoded and of the last packet read
        self.jumped, self.lost = False, False  # `lost`: a jump has landed where no decoding can begin
        self.selects = stream.codec_context.name in TIMED[0] and stream.container.format.name in TIMED[1]
        if stream.codec_context.name == "h264" and (stream.codec_context.extradata or b"")[:1] != b"\1":
            self.selects = False  # not laid out as in these containers
        self.numbers = stream.container.format.name == "avi"  # which tells the order of pictures, not when to show them
        self.held: list[Any] = []
        self.turn = 0  # place in `held` of the next key frame, 0 until it comes
        self.fed = False  # the decoder has been given something since it was last emptied
        self.decided, self.chosen = 0, set[int]()  # so many of `wanted` are shown by packets of these times

    def restart(self, jumped: bool) -> None:
        self.last, self.jumped, self.lost = None, jumped, False
        self.held, self.turn, self.fed, self.decided = [], 0, False, self.next

    def feed(self, packet: Any) -> None:
        """Take the next packet, or the empty one that ends a stream."""
        if self.jumped and self.selects and not self.held and not self.fed and not _is_entry(packet):
            self.lost = True
            return
        if packet.pts is not None:
            self.reached = max(self.reached, self._time(packet.pts))
        elif packet.size:
            self.selects = False  # without times there is no choice
        if not self.selects:
            for each in (*self.held, packet):
                self._decode(each, shown=True)
            self.held = []
        elif not packet.size:
            self._choose(len(self.held), math.inf)
            self._decode(packet, shown=True)
        else:
            self.held.append(packet)
            if self.turn and packet.pts > self.held[self.turn].pts:
                # all pictures that come after a key frame but are shown before it have been seen
                self._choose(self.turn, self._time(self.held[self.turn].pts))
                self.turn = next((i for i, p in enumerate(self.held) if i and _is_entry(p)), 0)
            elif not self.turn and _is_entry(packet):
                self.turn = len(self.held) - 1
            elif len(self.held) > HELD_PACKETS:
                rest = self.held[HELD_PACKETS - REORDERED :]
                self._choose(HELD_PACKETS - REORDERED, min(self._time(p.pts) for p in rest), closed=False)
                self.turn = max(0, self.turn - HELD_PACKETS + REORDERED)

        if not packet.size and self.jumped and self.last is None:
            self.lost = True

    def _choose(self, count: int, until: float, closed: bool = True) -> None:
        """Decode those of the first `count` packets that what is shown before `until` depends on.

        `closed` if the packets behind them depend on none of them but by being shown before `until`.
        """
        ordered = sorted((self._time(p.pts), p.pts) for p in self.held if not p.is_discard)
        while ordered and self.decided < len(self.wanted) and self.wanted[self.decided] < until:
            place = bisect.bisect_right(ordered, (self.wanted[self.decided], math.inf)) - 1
            self.chosen.add(ordered[max(0, place)][1])
            self.decided += 1
        packets, self.held = self.held[:count], self.held[count:]
        shown = [p.pts in self.chosen or self._time(p.pts) >= until for p in packets]
        if closed and not any(p.pts in self.chosen for p in self.held):
            last = max((i for i, is_shown in enumerate(shown) if is_shown), default=-1)
        else:
            last = count - 1
        for packet, is_shown in zip(packets[: last + 1], shown, strict=False):
            self._decode(packet, is_shown)
        if last + 1 < count and self.fed and self.held:
            for frame in self.stream.codec_context.decode(None):
                self.push(frame)
            self.stream.codec_context.flush_buffers()
            self.fed = False
            self._show_until(until)  # nothing comes that is shown before

    def _decode(self, packet: Any, shown: bool) -> None:
        self.stream.codec_context.skip_frame = "DEFAULT" if shown else "NONREF"
        self.fed = True
        for frame in packet.decode():
            self.push(frame)

    def _time(self, stamp: int) -> float:
        unit = self.stream.time_base  # a frame taken out of the decoder at its end does not know it
        return stamp * unit.numerator / unit.denominator - self.zero

    def push(self, frame: av.VideoFrame) -> None:
        stamp = frame.dts if self.numbers else frame.pts
        if stamp is None:
            time = 0.0 if self.last is None else self.position + 1 / float(self.stream.average_rate or 30)
        else:
            if self.numbers and self.last is None:
                self.zero += self._time(stamp)  # the decoder's delay
            time = self._time(stamp)
        if self.last is None:
            if self.jumped and time > self.wanted[self.next]:
                self.lost = True
            self.last = frame
        if self.lost:
            return
        self._show_until(time)
        self.last, self.position = frame, time

    def covers(self, end: float) -> bool:
        return self.next == len(self.wanted) or self.wanted[self.next] >= end

    def take(self, start: float, times: np.ndarray, ended: bool) -> np.ndarray:
        if ended:
            missing = self.wanted[self.next :]
            if self.last is None or (missing and times[-1] > self.position + TRUNCATED_SEC):
                raise DataError(
                    f"{self.path} has no picture after {self.position:.1f} s, but a clip is wanted "
                    f"at {times[-1]:.1f} s; the file is cut short, fetch it again"
                )
            self._show_until(float(times[-1]) + 1e-9)
        for moment in [m for m in self.found if m < start]:  # windows ascend: never wanted again
            del self.found[moment]
        return np.stack([self.found[float(m)] for m in times])

    def _show_until(self, time: float) -> None:
        """Give the last frame to every wanted moment before `time`."""
        picture = None
        while self.next < len(self.wanted) and self.wanted[self.next] < time:
            if picture is None:
                if self.last is None or self.last.is_corrupt or (self.selects and self.last.pts not in self.chosen):
                    raise DataError(f"{self.path} is damaged at {self.position:.1f} s; fetch it again")
                picture = square(self.last, self.size, self.scaler)
            self.found[self.wanted[self.next]] = picture
            self.next += 1


class _Sound:
    """Keeps passing sound, as mono float32 at the file's own rate, until its stretch is cut and resampled."""

    def __init__(self, path: Path, stream: Any, zero: float, rate: int):
        self.path, self.stream, self.zero, self.rate = path, stream, zero, rate
        self.own_rate = stream.codec_context.sample_rate
        self.mono = av.AudioResampler(format="fltp", layout="mono")
        self.margin = margin(self.own_rate, rate)
        self.chunks: list[tuple[int, np.ndarray]] = []
        self.edge: int | None = None

    @property
    def reached(self) -> float:
        return (self.edge or 0) / self.own_rate

    def restart(self, jumped: bool) -> None:
        self.chunks, self.edge = [], None

    def feed(self, packet: Any) -> None:
        for frame in packet.decode():
            self.push(frame)

    def push(self, frame: av.AudioFrame) -> None:
        given = None if frame.time is None else round((frame.time - self.zero) * self.own_rate)
        continues = self.edge is not None and (given is None or abs(given - self.edge) < JITTER_SEC * self.own_rate)
        first = self.edge if continues else (given or 0)
        assert first is not None
        for part in self.mono.resample(frame):
            samples = np.frombuffer(bytes(part.planes[0]), np.float32, part.samples)
            self.chunks.append((first, samples))
            first += len(samples)
        self.edge = first

    def covers(self, end: float) -> bool:
        return self.edge is not None and self.edge >= math.ceil(end * self.own_rate) + self.margin + 1

    def take(self, start: float, end: float, ended: bool) -> np.ndarray:
        ticks = (self.stream.start_time or 0) + (self.stream.duration or 0)
        declared = float(ticks * self.stream.time_base) - self.zero
        if ended and end > self.reached + TRUNCATED_SEC and declared > self.reached + TRUNCATED_SEC:
            raise DataError(
                f"{self.path} has no sound after {self.reached:.1f} s, though its header says {declared:.1f} s; "
                "the file is cut short, fetch it again"
            )
        return cut(self._samples, start, end, self.own_rate, self.rate)

    def _samples(self, first: int, count: int) -> np.ndarray:
        """Samples `first` .. `first + count` of the file, zero where it has none; forgets those before."""
        self.chunks = [(at, samples) for at, samples in self.chunks if at + len(samples) > first]
        own = np.zeros(count, np.float32)
        for at, samples in self.chunks:
            low, high = max(at, first), min(at + len(samples), first + count)
            if low < high:
                own[low - first : high - first] = samples[low - at : high - at]
        return own


def cut(samples: Callable[[int, int], np.ndarray], start: float, end: float, own_rate: int, rate: int) -> np.ndarray:
    """One stretch of sound at another rate: float32 [round((end - start) * rate)].

    `samples(first, count)` gives float32 [count] at `own_rate`; it is asked for a little more
    than the stretch on either side, so that the resampling filter sees no edge.
    """
    length, extra = round((end - start) * rate), margin(own_rate, rate)
    own = samples(round(start * own_rate) - extra, math.ceil(length * own_rate / rate) + 2 * extra)
    skip = extra * rate // own_rate
    return resample(own, own_rate, rate)[skip : skip + length]


def margin(own_rate: int, rate: int) -> int:
    """Samples at `own_rate` that the filter of `resample` needs on either side, lasting a whole number at `rate`."""
    block = own_rate // math.gcd(own_rate, rate)
    return math.ceil(16 * max(1.0, own_rate / rate) / block) * block


@lru_cache(maxsize=8)
def _resampler(own_rate: int, rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(own_rate, rate)


def resample(waveform: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    """Change the rate of float32 [S]: ceil(S * rate / own_rate) samples, the first at the same instant."""
    if own_rate == rate:
        return waveform
    return _resampler(own_rate, rate)(torch.from_numpy(waveform)).numpy()


def fbank(waveform: np.ndarray, rate: int = 16000, mel_bins: int = 128) -> np.ndarray:
    """AST's input before its normalisation: natural log-mel energies, 25 ms windows every 10 ms.

    The recipe of AST (Gong et al. 2021): subtract the mean, then Kaldi's filter bank with
    htk_compat, Hann window, pre-emphasis .97, no dither.

    Args:
        waveform: float32 [S] in [-1, 1], at least 25 ms long.
        rate: its samples a second.
        mel_bins: bands between 20 Hz and half the rate.

    Returns:
        float32 [L, mel_bins] with L = 1 + (S - 25 ms) // 10 ms: 148 for 1.5 s.
    """
    samples = torch.from_numpy(np.asarray(waveform, np.float32))[None]
    return torchaudio.compliance.kaldi.fbank(
        samples - samples.mean(), htk_compat=True, sample_frequency=rate, use_energy=False,
        window_type="hanning", num_mel_bins=mel_bins, dither=0.0, frame_shift=10,
    ).numpy()  # fmt: skip
