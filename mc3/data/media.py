"""Decoding media files: the pictures and the sound of many windows in one pass over a file, with PyAV.

Times are in seconds from a file's first picture, as narrations' are (from its first audio sample without pictures).
"""

import bisect
import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from mc3.data.audio import cut, fault_of, margin, overlay
from mc3.errors import DataError

# Containers that hold media; FFmpeg has others, of which some (playlists) name further files or addresses to open
FORMATS = ("aac,ac3,aiff,amr,ape,asf,au,avi,caf,dv,flac,flv,h264,hevc,ivf,m4v,matroska,mov,mp3,mpeg,mpegts,mpegvideo,"
           "mxf,nut,ogg,rm,w64,wav,wv")  # fmt: skip
# Containers to seek in, with exact positions (MPEG-TS is entered between key frames, Matroska and FLV round times)
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "wav"}
SEEK_GAP_SEC = 8.0  # shorter gaps are read through in WAV, which has no index
SEEK_MARGIN_SEC = 1.0  # seek to an earlier position than wanted: audio codecs need a packet or two to settle
BEFORE_ALL_SEC = 3600.0  # no sound begins so long before the first picture
JITTER_SEC = 0.005  # audio timestamps that are off by less are rounded, not gaps
TRUNCATED_SEC = 1.0  # a file may end this much before its header says, because codecs round
# Codecs and containers in which a packet is one picture with its time: those to show are known before decoding
SELECTIVE = {"h264", "hevc"}, {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
MAX_QUEUE = 600  # compressed pictures that are queued at most, where key frames are further apart
REORDERED = 64  # at most so many packets lie between decoding order and display order (16 in H.264)
EXACT = {("aac", "LC"): "aac_fixed"}  # decoders in integers, by codec and profile: the same samples on every processor
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT


class Clip(NamedTuple):
    """One window: `frames` uint8 [T, size, W, 3] and mono `waveform` float32 [S]; None without such a stream."""

    frames: np.ndarray | None
    waveform: np.ndarray | None


class Probe(NamedTuple):
    """A file's header; width and rates are 0 without such a stream, the duration counts from the first picture."""

    duration_sec: float
    width: int
    fps: float
    audio_rate: int


def open_file(path: Path) -> Any:
    """PyAV's container of a media file, which opens no other file or address, whatever the name or the file says."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file; remove it")
    return av.open(f"file:{path}", metadata_errors="replace", options={"format_whitelist": FORMATS})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    try:
        with open_file(path) as container:
            video, audio = (next(iter(streams), None) for streams in (container.streams.video, container.streams.audio))
            if video is None and audio is None:
                raise DataError(f"{path} has neither pictures nor sound; remove it or fetch it again")
            if any(stream is not None and stream.codec_context is None for stream in (video, audio)):
                raise DataError(f"{path} is damaged, or of a format that FFmpeg does not know; fetch it again")
            yield container, video, audio
    except FileNotFoundError:
        raise DataError(f"no media file {path}; download it or check `paths.raw`") from None
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error.strerror or error}); fetch it again") from None


def probe(path: Path) -> Probe:
    """Read a file's header. Raises `DataError` if it is missing, no media file, or has neither pictures nor sound."""
    with _opened(path) as (container, video, audio):
        before = 0.0
        if video is not None and video.start_time is not None and container.start_time is not None:
            before = float(video.start_time * video.time_base) - container.start_time / av.time_base
        duration = max(0.0, (container.duration or 0) / av.time_base - before)
        width, fps = (video.codec_context.width, float(video.average_rate or 0)) if video else (0, 0.0)
        return Probe(duration, width, fps, audio.codec_context.sample_rate if audio else 0)


def frame_times(start: float, end: float, frames: int) -> np.ndarray:
    """The centres of `frames` equal parts of a window: float64 [frames], in seconds."""
    return start + (np.arange(frames) + 0.5) * (end - start) / frames


def upright(frame: av.VideoFrame, size: int, scaler: VideoReformatter, width: int = 0) -> np.ndarray:
    """A decoded picture as uint8 RGB [size, W, 3]: rotated upright, short side scaled to `size`, the centre cut out.

    W is at most `width`, and odd if that is; by default, and for portrait pictures, `size`. Reuse a file's `scaler`.
    """
    scale = size / min(frame.width, frame.height)
    across, down = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
    picture = scaler.reformat(frame, across, down, "rgb24", interpolation=SCALING, threads=1).to_ndarray()
    picture = np.rot90(picture, k=round(frame.rotation / 90))
    down, across = picture.shape[:2]
    width = max(width, size)
    kept = min(across, width) - (width - across) % 2 * (across < width)
    top, left = (down - size) // 2, (across - kept) // 2
    return np.ascontiguousarray(picture[top : top + size, left : left + kept])


def clips_of(
    path: Path, windows: Sequence[tuple[float, float]], frames: int, size: int, rate: int, width: int = 0
) -> Iterator[Clip]:
    """Cut many windows out of a file in one pass, decoding only what they need.

    Windows are (start, end) in seconds, ascending by start; they may overlap and extend beyond the file's ends. Each
    yields, in order, a `Clip` with the `frames` pictures on screen at `frame_times` (the nearest, beyond the ends) as
    `upright` cuts them, and round((end - start) * rate) samples, silent where the file has no sound; 0 `frames` or
    `rate` omits either. Raises `DataError` if the file is missing, damaged, or ends before its header says.
    """
    if any(b[0] < a[0] for a, b in itertools.pairwise(windows)):
        raise ValueError("windows must ascend by their start")
    with _opened(Path(path)) as (container, video, audio):
        first = video or audio
        zero = float((first.start_time or 0) * first.time_base)
        wanted = sorted({float(m) for start, end in windows for m in frame_times(start, end, frames)})
        pictures = _Pictures(path, video, wanted, size, width) if video and frames else None
        samples = _Samples(path, audio, zero, rate) if audio and rate else None
        readers: dict[Any, Any] = {reader.stream: reader for reader in (pictures, samples) if reader}
        for stream in readers:
            stream.codec_context.thread_count = 1  # parallelism is over files, one process each
        packets, ended, may_jump = container.demux(*readers), False, True

        def seek(time: float, jumped: bool) -> Iterator[Any]:
            container.seek(round((time + zero) * av.time_base))
            for reader in readers.values():
                reader.restart(jumped)
            return container.demux(*readers)

        for start, end in windows:
            reached = max((reader.reached for reader in readers.values()), default=math.inf)
            target = max(0.0, start - SEEK_MARGIN_SEC)
            if may_jump and not ended and target > reached and _jumps(next(iter(readers)), zero, reached, target):
                packets = seek(target, jumped=True)
            while not ended and not all(reader.covers(end) for reader in readers.values()):
                if (packet := next(packets, None)) is None:
                    ended = True
                    break
                readers[packet.stream].feed(packet)
                if pictures and pictures.lost:
                    packets, may_jump = seek(-BEFORE_ALL_SEC, jumped=False), False
            shown = pictures.take(start, frame_times(start, end, frames), ended) if pictures else None
            yield Clip(shown, samples.take(start, end, ended) if samples else None)


def waveforms_of(path: Path, windows: Sequence[tuple[float, float]], rate: int) -> Iterator[np.ndarray]:
    """The sound alone of windows, as `clips_of` cuts it. Raises `DataError` if the file has none."""
    for clip in clips_of(path, windows, frames=0, size=0, rate=rate):
        if clip.waveform is None:
            raise DataError(f"{path} has no sound; give a file with an audio stream")
        yield clip.waveform


def _jumps(stream: Any, zero: float, reached: float, target: float) -> bool:
    if stream.container.format.name not in SEEKABLE:
        return False
    if not len(stream.index_entries):
        return target + SEEK_MARGIN_SEC - reached > SEEK_GAP_SEC
    at = stream.index_entries.search_timestamp(round((target + zero) / stream.time_base), backward=True)
    return at >= 0 and float(stream.index_entries[at].timestamp * stream.time_base) - zero > reached


def _is_entry(packet: Any) -> bool:
    """Whether decoding of H.264 or HEVC, as stored in MP4 and Matroska, can begin with a packet.

    Containers also mark H.264's recovery points ("intra refresh"), after which pictures become complete gradually.
    Decoding can begin only at an IDR picture or if all slices are intra: ITU-T H.264, 7.3.1 and 7.3.3.
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
            _, bits = _exp_golomb("".join(f"{byte:08b}" for byte in data[begin + 1 : begin + 9]))
            if _exp_golomb(bits)[0] not in (2, 7):
                return False
    return True


def _exp_golomb(bits: str) -> tuple[int, str]:
    """The number at the beginning of `bits` (-1 if none) and the bits after it: ITU-T H.264, 9.1."""
    zeros = bits.find("1")
    return int(bits[zeros : 2 * zeros + 1] or "0", 2) - 1, bits[2 * zeros + 1 :]


class _Pictures:
    """Decodes the pictures on screen at the wanted times, once the next key frame's packet says which these are."""

    def __init__(self, path: Path, stream: Any, wanted: list[float], size: int, width: int):
        self.path, self.stream, self.size, self.width = path, stream, size, width
        self.zero = stream.start_time or 0  # in the stream's ticks, so that no picture's time is rounded twice
        self.decoder, self.scaler = stream.codec_context, VideoReformatter()
        self.wanted, self.next, self.found = wanted, 0, dict[float, np.ndarray]()
        self.position, self.reached = 0.0, 0.0  # times of the last picture decoded and of the last packet read
        self.selects = self.decoder.name in SELECTIVE[0] and stream.container.format.name in SELECTIVE[1]
        if self.decoder.name == "h264" and (self.decoder.extradata or b"")[:1] != b"\1":
            self.selects = False  # not stored as in these containers
        self.numbers = stream.container.format.name == "avi"  # has the order of pictures, but not their times
        self.chosen = set[int]()  # packets chosen, by time
        self.restart(jumped=False)

    def restart(self, jumped: bool) -> None:
        self.last: av.VideoFrame | None = None
        self.jumped, self.lost = jumped, False  # `lost`: the seek landed where decoding cannot begin
        self.queue, self.next_entry = list[Any](), 0  # and the place in it of the next key frame, 0 until it arrives
        self.pending = False  # the decoder has received packets since it was last flushed
        self.decided = self.next  # packets are chosen for so many of the wanted times

    def feed(self, packet: Any) -> None:
        """Process the next packet, or the empty one at the end of the stream."""
        if self.jumped and self.selects and not self.queue and not self.pending and not _is_entry(packet):
            self.lost = True
            return
        if packet.pts is not None:
            self.reached = max(self.reached, self._time(packet.pts))
        elif packet.size:
            self.selects = False  # without times nothing can be selected
        if not self.selects:
            for each in (*self.queue, packet):
                self._decode(each, shown=True)
            self.queue = []
        elif not packet.size:
            self._choose(len(self.queue), math.inf)
            self._decode(packet, shown=True)
        else:
            self.queue.append(packet)
            if self.next_entry and packet.pts > self.queue[self.next_entry].pts:
                # all pictures that follow the key frame in the file but precede it on screen have arrived
                self._choose(self.next_entry, self._time(self.queue[self.next_entry].pts))
                self.next_entry = next((i for i, p in enumerate(self.queue) if i and _is_entry(p)), 0)
            elif not self.next_entry and _is_entry(packet):
                self.next_entry = len(self.queue) - 1
            elif len(self.queue) > MAX_QUEUE:
                rest = self.queue[MAX_QUEUE - REORDERED :]
                self._choose(MAX_QUEUE - REORDERED, min(self._time(p.pts) for p in rest), closed=False)
                self.next_entry = max(0, self.next_entry - MAX_QUEUE + REORDERED)
        self.lost |= not packet.size and self.jumped and self.last is None

    def _choose(self, count: int, until: float, closed: bool = True) -> None:
        """Decode those of the first `count` packets that pictures shown before `until` depend on.

        `closed`: later packets depend on them only if they are shown before `until`.
        """
        ordered = sorted((self._time(p.pts), p.pts) for p in self.queue if not p.is_discard)
        while ordered and self.decided < len(self.wanted) and self.wanted[self.decided] < until:
            place = bisect.bisect_right(ordered, (self.wanted[self.decided], math.inf)) - 1
            self.chosen.add(ordered[max(0, place)][1])
            self.decided += 1
        packets, self.queue = self.queue[:count], self.queue[count:]
        shown = [p.pts in self.chosen or self._time(p.pts) >= until for p in packets]
        needed = count
        if closed and not any(p.pts in self.chosen for p in self.queue):
            needed = max((i for i, is_shown in enumerate(shown, 1) if is_shown), default=0)
        for packet, is_shown in zip(packets[:needed], shown, strict=False):
            self._decode(packet, is_shown)
        if needed < count and self.pending and self.queue:
            self._decode(None, shown=True)
            self.decoder.flush_buffers()
            self.pending = False
            self._show_until(until)  # no later picture is shown before it

    def _decode(self, packet: Any, shown: bool) -> None:
        self.decoder.skip_frame = "DEFAULT" if shown else "NONREF"
        self.pending = True
        for frame in self.decoder.decode(packet):
            self.push(frame)

    def _time(self, stamp: int) -> float:
        unit = self.stream.time_base  # frames of a flushed decoder have none
        return (stamp - self.zero) * unit.numerator / unit.denominator

    def push(self, frame: av.VideoFrame) -> None:
        stamp = frame.dts if self.numbers else frame.pts
        if stamp is None:
            time = 0.0 if self.last is None else self.position + 1 / float(self.stream.average_rate or 30)
        else:
            if self.numbers and self.last is None:
                self.zero = stamp  # the decoder's delay
            time = self._time(stamp)
        if self.last is None:
            self.lost |= self.jumped and time > self.wanted[self.next]
            self.last = frame
        if not self.lost:
            self._show_until(time)
            self.last, self.position = frame, time

    def covers(self, end: float) -> bool:
        return self.next == len(self.wanted) or self.wanted[self.next] >= end

    def take(self, start: float, times: np.ndarray, ended: bool) -> np.ndarray:
        """The pictures at `times`, uint8 [T, size, W, 3], for a window that begins at `start`."""
        if ended:
            end = self.position + 1 / float(self.stream.average_rate or 30)  # of the last picture, as in a header
            if self.last is None or (self.next < len(self.wanted) and times[-1] > end + TRUNCATED_SEC):
                short = f"{self.path} is cut short: no picture after {self.position:.1f} s"
                raise DataError(f"{short}, but a clip is wanted at {times[-1]:.1f} s; fetch it again")
            self._show_until(float(times[-1]) + 1e-9)
        for time in [t for t in self.found if t < start]:  # windows ascend: never wanted again
            del self.found[time]
        return np.stack([self.found[float(t)] for t in times])

    def _show_until(self, time: float) -> None:
        """Show the last picture at every wanted time before `time`."""
        if times := self.wanted[self.next : bisect.bisect_left(self.wanted, time, self.next)]:
            if self.last is None or self.last.is_corrupt or (self.selects and self.last.pts not in self.chosen):
                raise DataError(f"{self.path} is damaged at {self.position:.1f} s; fetch it again")
            picture = upright(self.last, self.size, self.scaler, self.width)
            if picture.shape != next(iter(self.found.values()), picture).shape:
                raise DataError(f"{self.path} changes the shape of its pictures at {self.position:.1f} s; cut it there")
            self.found |= dict.fromkeys(times, picture)
            self.next += len(times)


def decoder_of(own: Any) -> Any:
    """The decoder in integers of a stream's codec, or its own."""
    if (exact := EXACT.get((own.name, own.profile))) is None:
        return own
    decoder: Any = av.CodecContext.create(exact, "r")
    decoder.extradata, decoder.sample_rate = own.extradata, own.sample_rate
    return decoder


class _Samples:
    """Decodes sound to mono float32 at the file's own rate and keeps it until its window is cut and resampled."""

    def __init__(self, path: Path, stream: Any, zero: float, rate: int):
        self.path, self.stream, self.zero, self.rate = path, stream, zero, rate
        self.own_rate = stream.codec_context.sample_rate
        self.decoder = decoder_of(stream.codec_context)
        self.mono = av.AudioResampler(format="fltp", layout="mono")
        self.margin = margin(self.own_rate, rate)
        self.chunks: list[tuple[int, np.ndarray]] = []
        self.edge: int | None = None

    @property
    def reached(self) -> float:
        return (self.edge or 0) / self.own_rate

    def restart(self, jumped: bool) -> None:
        self.chunks, self.edge = [], None
        self.decoder.flush_buffers()

    def feed(self, packet: Any) -> None:
        for frame in self.decoder.decode(packet):
            given = None if frame.time is None else round((frame.time - self.zero) * self.own_rate)
            first = given or 0
            if self.edge is not None and (given is None or abs(given - self.edge) < JITTER_SEC * self.own_rate):
                first = self.edge
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
            short = f"{self.path} is cut short: no sound after {self.reached:.1f} s"
            raise DataError(f"{short}, though its header says {declared:.1f} s; fetch it again")
        sound = cut(self._samples, start, end, self.own_rate, self.rate)
        if fault := fault_of(sound):
            raise DataError(f"{self.path} is damaged between {start:.1f} and {end:.1f} s ({fault}); fetch it again")
        return sound

    def _samples(self, first: int, count: int) -> np.ndarray:
        """Samples `first` .. `first + count` of the file, zero where it has none; earlier ones are discarded."""
        self.chunks = [(at, samples) for at, samples in self.chunks if at + len(samples) > first]
        return overlay(self.chunks, first, count)
